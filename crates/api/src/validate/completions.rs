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
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "include_stop_str_in_output",
    "length_penalty",
    "logits_processors",
    "prompt_embeds",
    "response_format",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "structured_outputs",
    "suffix",
    "truncate_prompt_tokens",
    "use_beam_search",
];

/// OpenAI's bound on `best_of`.
const MAX_BEST_OF: i64 = 20;

/// OpenAI's default for `max_tokens` of this endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;

/// OpenAI's bound on a batch. The queue's bound is usually smaller.
const MAX_PROMPTS: usize = 2048;

/// A valid request.
#[derive(Debug)]
pub(crate) struct CompletionsRequest {
    /// The prompts, at least one, each at least one token.
    pub prompts: Vec<Vec<u32>>,
    /// What to generate for each. `n` is `best_of`.
    pub generate: Generate,
    /// How many of the generated texts the client gets, the likeliest.
    pub keep: usize,
    /// Alternatives per token that the client wants to see.
    pub logprobs: Option<u8>,
    /// The texts begin with their prompts.
    pub echo: bool,
}

/// Reads the body.
pub(crate) fn validate(body: Value, config: &ApiConfig) -> Result<CompletionsRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    model(&mut fields, config)?;
    // OpenAI's API has 0 here, for clients that want a prompt's log-probabilities and nothing else.
    let max_tokens = (fields.integer("max_tokens", 0..=i64::MAX)?).map(|count| count as usize);
    let logprobs = sampling::alternatives(&mut fields, "logprobs")?;
    let mut generate = sampling::generate(&mut fields, config, max_tokens, logprobs)?;
    let keep = generate.n as usize;
    best_of(&mut fields, &mut generate, config)?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    fields.string("user")?;
    let prompt = fields
        .take("prompt")
        .ok_or_else(|| fields.missing("prompt"))?;
    let prompts = prompts(prompt)?;
    fields.finish(UNSUPPORTED)?;
    let default = DEFAULT_MAX_TOKENS.max(generate.min_tokens);
    generate.max_tokens = generate.max_tokens.or(Some(default));
    Ok(CompletionsRequest {
        prompts,
        generate,
        keep,
        logprobs,
        echo,
    })
}

fn best_of(
    fields: &mut Fields,
    generate: &mut Generate,
    config: &ApiConfig,
) -> Result<(), ApiError> {
    let max = MAX_BEST_OF.min(i64::from(config.max_choices));
    let Some(best_of) = fields.integer("best_of", 1..=max.max(i64::from(generate.n)))? else {
        return Ok(());
    };
    let n = i64::from(generate.n);
    if best_of < n {
        return Err(fields.invalid(
            "best_of",
            format!("is {best_of}, less than the {n} texts that 'n' asks for"),
        ));
    }
    if best_of > n {
        if generate.stream.is_some() {
            return Err(fields.invalid(
                "best_of",
                "may not be greater than 'n' with 'stream': true: which text is best is known at the end",
            ));
        }
        // What is likeliest is judged by these.
        generate.sampling.logprobs.get_or_insert(0);
    }
    generate.n = best_of as u32;
    Ok(())
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
