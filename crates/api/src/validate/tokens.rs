//! The bodies of `POST /tokenize` and `POST /detokenize`.
//!
//! Messages are read by the validation of chat completions, so that the tokens counted here are those which are computed
//! there.

use gossamer_harmony::Conversation;
use serde_json::{Map, Value};

use super::fields::Fields;
use super::{chat, known_model, sampling};
use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;

/// Fields of vLLM's API that are not implemented here.
pub(crate) const UNSUPPORTED: &[&str] = &[
    "chat_template",
    "chat_template_kwargs",
    "media_io_kwargs",
    "mm_processor_kwargs",
];

/// Fields that mean something for a conversation, and nothing for a text.
const ONLY_WITH_MESSAGES: &[&str] = &[
    "tools",
    "reasoning_effort",
    "add_generation_prompt",
    "continue_final_message",
];

/// A valid `/tokenize` body.
#[derive(Debug)]
pub(crate) struct TokenizeRequest {
    /// What to tokenize.
    pub source: Source,
    /// The tokens' texts are asked for.
    pub with_strings: bool,
}

/// What to tokenize.
#[derive(Debug)]
pub(crate) enum Source {
    /// Text as it stands.
    Text(String),
    /// A conversation, still to be rendered.
    Conversation(Box<Conversation>),
}

/// Reads a `/tokenize` body.
pub(crate) fn tokenize(body: Value, config: &ApiConfig) -> Result<TokenizeRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    let model = optional_model(&mut fields, config)?;
    fields.boolean("add_special_tokens")?;
    let with_strings = fields.boolean("return_token_strs")?.unwrap_or(false);
    let source = match (fields.string("prompt")?, fields.take("messages")) {
        (Some(text), None) => {
            for name in ONLY_WITH_MESSAGES {
                if fields.take(name).is_some() {
                    return Err(fields.invalid(name, "may only be given with 'messages'"));
                }
            }
            Source::Text(text)
        }
        (None, Some(messages)) => {
            fields.only_boolean("add_generation_prompt", true)?;
            fields.only_boolean("continue_final_message", false)?;
            let mut body = Map::from_iter([
                ("model".to_owned(), Value::String(model)),
                ("messages".to_owned(), messages),
            ]);
            for name in ["tools", "reasoning_effort"] {
                body.extend(fields.take(name).map(|value| (name.to_owned(), value)));
            }
            let request = chat::validate(Value::Object(body), config)?;
            Source::Conversation(Box::new(request.conversation))
        }
        (prompt, _) => return Err(one_of_both(&fields, prompt.is_some())),
    };
    fields.finish(UNSUPPORTED)?;
    Ok(TokenizeRequest {
        source,
        with_strings,
    })
}

/// Reads a `/detokenize` body: the token ids.
pub(crate) fn detokenize(body: Value, config: &ApiConfig) -> Result<Vec<u32>, ApiError> {
    let mut fields = Fields::new(body, "")?;
    optional_model(&mut fields, config)?;
    let tokens = fields
        .array("tokens")?
        .ok_or_else(|| fields.missing("tokens"))?;
    let tokens = sampling::token_ids(&tokens, "tokens")?;
    fields.finish(&[])?;
    Ok(tokens)
}

/// Takes `model`; the served one if it is absent.
pub(super) fn optional_model(fields: &mut Fields, config: &ApiConfig) -> Result<String, ApiError> {
    let model = fields
        .string("model")?
        .unwrap_or_else(|| config.model.clone());
    known_model(&model, config)?;
    Ok(model)
}

/// The error for a body with both or neither of `prompt` and `messages`.
pub(super) fn one_of_both(fields: &Fields, both: bool) -> ApiError {
    if both {
        return fields.invalid(
            "prompt",
            "and 'messages' exclude each other; give only one of them",
        );
    }
    ApiError::field(
        ErrorCode::MissingParameter,
        "prompt",
        "Missing required parameter: 'prompt' or 'messages'.",
    )
}
