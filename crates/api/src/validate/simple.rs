//! The body of `POST /generate`, `/chat` and `/stream`: translated to that of a chat completion, and read as one.
//!
//! So there is one meaning of every field and one way to the scheduler. Invariant: an error names the field that the
//! client sent, not the one that it was translated to.

use serde_json::{Map, Value, json};

use super::chat::{self, ChatRequest};
use super::fields::Fields;
use super::tokens::{one_of_both, optional_model};
use crate::error::ApiError;
use crate::state::ApiConfig;

/// Fields that go over as they stand.
const SAME: &[&str] = &["max_tokens", "temperature", "top_p", "seed", "stop"];

/// Reads the body. Also returns the name of the field that holds the prompt.
pub(crate) fn validate(
    body: Value,
    stream: bool,
    config: &ApiConfig,
) -> Result<(ChatRequest, &'static str), ApiError> {
    let mut fields = Fields::new(body, "")?;
    let model = optional_model(&mut fields, config)?;
    let level = fields.word("reasoning_level", &["low", "medium", "high"], &[])?;
    let (messages, prompt_param) = match (fields.string("prompt")?, fields.take("messages")) {
        (Some(text), None) => (json!([{"role": "user", "content": text}]), "prompt"),
        (None, Some(messages)) => (messages, "messages"),
        (prompt, _) => return Err(one_of_both(&fields, prompt.is_some())),
    };
    let mut body = Map::from_iter([
        ("model".to_owned(), Value::String(model)),
        ("messages".to_owned(), messages),
        ("stream".to_owned(), Value::Bool(stream)),
    ]);
    if stream {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    body.extend(level.map(|level| ("reasoning_effort".to_owned(), level.into())));
    for name in SAME {
        body.extend(fields.take(name).map(|value| ((*name).to_owned(), value)));
    }
    let request = chat::validate(Value::Object(body), config)?;
    fields.finish(&[])?;
    Ok((request, prompt_param))
}
