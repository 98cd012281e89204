//! What `/v1/responses` answers: the response, its items, its token counts, lists of items.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Truncation;
use crate::wire::chat::TokenLogprob;
use crate::wire::usage::Usage;

/// A response: what was asked, and what became of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Response {
    /// `resp_...`
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Always null: there are none.
    #[schema(required, value_type = Option<Object>)]
    pub access_programs: Option<Value>,
    /// What has become of it.
    pub status: ResponseStatus,
    /// When it was completed: seconds since 1970.
    #[schema(required)]
    pub completed_at: Option<i64>,
    /// It goes on without the client.
    pub background: bool,
    /// Why it failed.
    #[schema(required)]
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    #[schema(required)]
    pub incomplete_details: Option<IncompleteDetails>,
    /// As asked.
    #[schema(required)]
    pub instructions: Option<String>,
    /// As asked.
    #[schema(required)]
    pub max_output_tokens: Option<usize>,
    /// As asked.
    #[schema(required)]
    pub max_tool_calls: Option<usize>,
    /// Id of the model that answers.
    pub model: String,
    /// What the model said, thought and called, in order.
    pub output: Vec<OutputItem>,
    /// As asked.
    pub parallel_tool_calls: bool,
    /// As asked.
    #[schema(required)]
    pub previous_response_id: Option<String>,
    /// As asked.
    #[schema(required)]
    pub prompt_cache_key: Option<String>,
    /// As asked.
    pub reasoning: ReasoningShown,
    /// As asked.
    #[schema(required)]
    pub safety_identifier: Option<String>,
    /// Always `default`.
    #[schema(example = "default")]
    pub service_tier: &'static str,
    /// Whether it can be fetched and continued.
    pub store: bool,
    /// As asked.
    pub temperature: f64,
    /// As asked.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As asked.
    pub tool_choice: Value,
    /// As asked.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As asked.
    pub top_logprobs: u8,
    /// As asked.
    pub top_p: f64,
    /// As asked.
    pub truncation: Truncation,
    /// Token counts, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResponseUsage>,
    /// As asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As asked.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// What has become of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It waits to be started; background only.
    Queued,
    /// The model works on it.
    InProgress,
    /// The model was done.
    Completed,
    /// There was no room for more; `incomplete_details` says why.
    Incomplete,
    /// The server could not go on; `error` says why.
    Failed,
    /// It was cancelled; background only.
    Cancelled,
}

impl ResponseStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a response failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseError {
    /// For programs: `server_error`.
    #[schema(example = "server_error")]
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens`: that many tokens, or the context's end.
    #[schema(example = "max_output_tokens")]
    pub reason: &'static str,
}

/// How the model was asked to think.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReasoningShown {
    /// How long.
    pub effort: String,
    /// As asked.
    #[schema(required)]
    pub summary: Option<String>,
}

/// Something that the model said, thought or called.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What it thought.
    Reasoning {
        /// `rs_...`
        id: String,
        /// Whether it is whole.
        status: ItemStatus,
        /// Always empty: the reasoning is in `content`.
        summary: Vec<super::SummaryPart>,
        /// The thought, in one part.
        content: Vec<ReasoningPart>,
    },
    /// What it said.
    Message {
        /// `msg_...`
        id: String,
        /// Whether it is whole.
        status: ItemStatus,
        /// Always `assistant`.
        #[schema(example = "assistant")]
        role: &'static str,
        /// Whether it is the answer or was said on the way.
        phase: Phase,
        /// The text, in one part.
        content: Vec<OutputPart>,
    },
    /// What it called.
    FunctionCall {
        /// `fc_...`
        id: String,
        /// Whether it is whole.
        status: ItemStatus,
        /// `call_...`: to be named by the result.
        call_id: String,
        /// The function.
        name: String,
        /// Where it was declared in one.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// As the model wrote them: usually JSON, not always valid.
        arguments: String,
    },
}

/// Whether an item is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// More of it comes.
    InProgress,
    /// It is whole.
    Completed,
    /// It was cut.
    Incomplete,
}

/// Whether a message is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Said on the way to a call.
    Commentary,
    /// The answer.
    FinalAnswer,
}

/// A part of a thought.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReasoningPart {
    /// Text.
    ReasoningText {
        /// The text.
        text: String,
    },
}

/// A part of a message of the model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    /// Text.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        annotations: Vec<Value>,
        /// One per token, when asked for; else empty.
        logprobs: Vec<TokenLogprob>,
    },
}

/// Token counts of a response.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: usize,
    /// Of these.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated, control tokens included.
    pub output_tokens: usize,
    /// Of these.
    pub output_tokens_details: OutputTokensDetails,
    /// The sum.
    pub total_tokens: usize,
}

/// Parts of `input_tokens`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct InputTokensDetails {
    /// Served by the prefix cache.
    pub cached_tokens: usize,
    /// Always 0: nothing is charged for writing to the cache.
    pub cache_write_tokens: usize,
}

/// Parts of `output_tokens`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: usize,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: usage.completion_tokens_details.reasoning_tokens,
            },
            total_tokens: usage.total_tokens,
        }
    }
}

/// A page of a response's input items.
#[derive(Debug, Serialize, ToSchema)]
pub struct InputItemList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// The items.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    /// Id of the first one; empty if there is none.
    pub first_id: String,
    /// Id of the last one: `after` of the next page.
    pub last_id: String,
    /// Whether there is a next page.
    pub has_more: bool,
}

/// A response that was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedResponse {
    /// Its id.
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}
