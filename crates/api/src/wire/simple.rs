//! `/generate`, `/chat` and `/stream`: a few fields of a chat completion, for programs that do not speak OpenAI's API.

use serde::Serialize;
use utoipa::ToSchema;

use super::chat::{FinishReason, ResponseMessage};
use super::chat_request::{ReasoningEffort, RequestMessage};
use super::completions::StopStrings;
use super::usage::Usage;

/// Body of `POST /generate`, `/chat` and `/stream`: `prompt` or `messages`, and how to answer.
///
/// Everything else of a chat completion is a matter for `/v1/chat/completions`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimpleRequest {
    /// What the user says. It gets the model's template, as the only message of a conversation.
    pub prompt: Option<String>,
    /// The conversation instead, oldest message first.
    #[schema(min_items = 1)]
    pub messages: Option<Vec<RequestMessage>>,
    /// How long to think. Default `medium`.
    pub reasoning_level: Option<ReasoningEffort>,
    /// Id of a served model. Default: the one that is served.
    pub model: Option<String>,
    /// Most tokens to generate, reasoning included. Default: what is left of the context.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// 0 is greedy. Default 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Same seed and request, same answer.
    pub seed: Option<i64>,
    /// Ends the answer; not part of it.
    pub stop: Option<StopStrings>,
}

/// Answer of `POST /generate`.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerateResponse {
    /// `gen-...`
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Id of the model that answered.
    pub model: String,
    /// The answer.
    pub text: String,
    /// What the model thought; null if nothing.
    #[schema(required)]
    pub reasoning: Option<String>,
    /// Why the answer ends.
    pub finish_reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
}

/// Answer of `POST /chat`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    /// `chat-...`
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Id of the model that answered.
    pub model: String,
    /// The answer; append it to `messages` and go on.
    pub message: ResponseMessage,
    /// Why the answer ends.
    pub finish_reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
}
