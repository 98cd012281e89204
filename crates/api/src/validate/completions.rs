//! The body of `POST /v1/completions`.

use gossamer_harmony::Tokenizer;
use serde_json::Value;

use super::fields::{Fields, wrong_type};
use super::{Generate, model, sampling};
use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;

/// Fields of OpenAI's and vLLM's API that are not implemented here.
pub(crate) const UNSUPPORTED: &[&str] = &[
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "grammar",
    "include_stop_str_in_output",
    "priority",
    "prompt_logprobs",
    "return_token_ids",
    "skip_special_tokens",
    "structured_outputs",
    "suffix",
];

/// OpenAI's default for `max_tokens` of this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;

/// OpenAI's bound on a batch. The queue's bound is usually smaller.
const MAX_PROMPTS: usize = 2048;

/// A valid request.
#[derive(Debug)]
pub(crate) struct CompletionsRequest {
    /// The prompts, at least one, each at least one token.
    pub prompts: Vec<Vec<u32>>,
    /// What to generate for each.
    pub generate: Generate,
}

/// Reads the body.
pub(crate) fn validate(body: Value, config: &ApiConfig) -> Result<CompletionsRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    model(&mut fields, config)?;
    let max_tokens = sampling::token_count(&mut fields, "max_tokens")?;
    let logprobs = sampling::alternatives(&mut fields, "logprobs")?;
    let mut generate = sampling::generate(&mut fields, config, max_tokens, logprobs)?;
    let best_of = fields.integer("best_of", 1..=i64::MAX)?;
    if let Some(best_of) = best_of
        && best_of != i64::from(generate.n)
    {
        return Err(
            fields.unsupported_value("best_of", &format!("{best_of} (with n = {})", generate.n))
        );
    }
    fields.only_boolean("echo", false)?;
    fields.string("user")?;
    let prompt = fields
        .take("prompt")
        .ok_or_else(|| fields.missing("prompt"))?;
    let prompts = prompts(prompt)?;
    fields.finish(UNSUPPORTED)?;
    let default = DEFAULT_MAX_TOKENS.max(generate.min_tokens);
    generate.max_tokens = generate.max_tokens.or(Some(default));
    Ok(CompletionsRequest { prompts, generate })
}

fn prompts(prompt: Value) -> Result<Vec<Vec<u32>>, ApiError> {
    const EXPECTED: &str =
        "a string, an array of strings, an array of token ids or an array of such arrays";
    let prompts = match prompt {
        Value::String(text) => vec![encode(&text)],
        Value::Array(items) => match items.first() {
            None => {
                return Err(ApiError::field(
                    ErrorCode::EmptyArray,
                    "prompt",
                    "'prompt' must hold at least one element.",
                ));
            }
            Some(Value::Number(_)) => vec![sampling::token_ids(&items, "prompt")?],
            Some(_) => items
                .iter()
                .enumerate()
                .map(|(i, item)| match item {
                    Value::String(text) => Ok(encode(text)),
                    Value::Array(ids) => sampling::token_ids(ids, &format!("prompt[{i}]")),
                    other => Err(wrong_type(
                        &format!("prompt[{i}]"),
                        "a string or an array of token ids",
                        other,
                    )),
                })
                .collect::<Result<_, _>>()?,
        },
        other => return Err(wrong_type("prompt", EXPECTED, &other)),
    };
    if prompts.len() > MAX_PROMPTS {
        return Err(ApiError::field(
            ErrorCode::ArrayAboveMaxLength,
            "prompt",
            format!(
                "'prompt' may hold at most {MAX_PROMPTS} prompts, not {}.",
                prompts.len()
            ),
        ));
    }
    if let Some(empty) = prompts.iter().position(Vec::is_empty) {
        let path = if prompts.len() == 1 {
            "prompt".to_owned()
        } else {
            format!("prompt[{empty}]")
        };
        return Err(ApiError::field(
            ErrorCode::EmptyString,
            path.clone(),
            format!("'{path}' must not be empty."),
        ));
    }
    Ok(prompts)
}

/// What a client types is ordinary text: `<|start|>` comes out as the characters that it is made of.
fn encode(text: &str) -> Vec<u32> {
    Tokenizer::get().encode(text)
}
