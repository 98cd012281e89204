//! What becomes of a body before anything runs: read, validated, rendered, its grammars compiled.
//!
//! The routes' own functions, one table from path to function, without a connection around them. For programs that send
//! many bodies and want no answers: the fuzz targets, and tests. Knows no fields.
//! Invariant: what is accepted here is what the route would hand to the scheduler, or answer without it.

use serde_json::Value;

use crate::dialect::{self, Dialect};
use crate::error::ApiError;
use crate::json;
use crate::kept::Keeper;
use crate::routes::{chat_completions, completions, messages, responses, simple, tokens};
use crate::state::AppState;

/// A body that a route refuses.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The answer's body, in the form of the route's API.
    pub body: Value,
    /// The field that it is about, where it is about one; Anthropic's form has no place for it.
    pub param: Option<String>,
    /// OpenAI's code.
    pub code: &'static str,
}

type Read = fn(Value, &Keeper, &AppState) -> Result<usize, ApiError>;

/// Every route that takes a body, and what reads it: to the tokens of the prompt, or of the answer where nothing is run.
const READERS: [(&str, Read); 11] = [
    ("/v1/chat/completions", |body, keeper, state| {
        Ok(chat_completions::read(body, keeper, state)?.prompt_len())
    }),
    ("/v1/chat/completions/render", |body, keeper, state| {
        Ok(tokens::read_render(body, keeper, state)?.count)
    }),
    ("/v1/completions", |body, _, state| {
        Ok(completions::read(body, state)?.prompt_len())
    }),
    ("/v1/responses", |body, keeper, state| {
        // What it continues is in the store, which is not asked.
        Ok(responses::Ready::new(body, Vec::new(), keeper, state)?.prompt_len())
    }),
    ("/v1/messages", |body, keeper, state| {
        Ok(messages::read(body, keeper, state)?.0.prompt_len())
    }),
    ("/v1/messages/count_tokens", |body, keeper, state| {
        Ok(messages::read_count(body, keeper, state)?.input_tokens)
    }),
    ("/tokenize", |body, _, state| {
        Ok(tokens::read_tokenize(body, state)?.count)
    }),
    ("/detokenize", |body, _, state| {
        tokens::read_detokenize(body, state).map(|answer| answer.prompt.len())
    }),
    ("/generate", |body, _, state| {
        Ok(simple::read(body, false, state)?.prompt_len())
    }),
    ("/chat", |body, _, state| {
        Ok(simple::read(body, false, state)?.prompt_len())
    }),
    ("/stream", |body, _, state| {
        Ok(simple::read(body, true, state)?.prompt_len())
    }),
];

/// The paths of all routes that take a body.
pub fn paths() -> impl Iterator<Item = &'static str> {
    READERS.iter().map(|(path, _)| *path)
}

/// Reads `body` as the route at `path` does. Returns the tokens of its prompt (of `/detokenize`, the bytes of its text);
/// `None` if no route there takes a body.
///
/// # Errors
/// What the client would be answered.
pub fn read(path: &str, body: &[u8], state: &AppState) -> Option<Result<usize, Refusal>> {
    let (_, read) = READERS.iter().find(|(known, _)| *known == path)?;
    let keeper = state.keeper("anonymous".into());
    let result = json::read(body).and_then(|body| read(body, &keeper, state));
    Some(result.map_err(|error| refusal(path, &error)))
}

fn refusal(path: &str, error: &ApiError) -> Refusal {
    let (status, body) = match Dialect::of(path) {
        Dialect::OpenAi => (error.code().status(), serde_json::to_value(error.body())),
        Dialect::Anthropic => {
            let body = dialect::body(error, "req_dry_run");
            (dialect::status(error.code()), serde_json::to_value(body))
        }
    };
    Refusal {
        status: status.as_u16(),
        // Strings only: this cannot fail.
        body: body.unwrap_or_default(),
        param: error.param().map(str::to_owned),
        code: error.code().as_str(),
    }
}
