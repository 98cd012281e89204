//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API.
//!
//! Shapes as in the declarations of Anthropic's Python SDK 2.12.0 and its API reference. What a request may hold is in
//! `messages_request.rs`.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Answer of `POST /v1/messages`; without its end, also what `message_start` carries.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Message {
    /// `msg_...`
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    #[schema(example = "message")]
    pub kind: &'static str,
    /// Always `assistant`.
    #[schema(example = "assistant")]
    pub role: &'static str,
    /// Id of the model that answered.
    pub model: String,
    /// What it said, in the order in which it said it.
    pub content: Vec<ContentBlock>,
    /// Why it ended; null in `message_start`.
    #[schema(required)]
    pub stop_reason: Option<StopReason>,
    /// Which of `stop_sequences` ended it.
    #[schema(required)]
    pub stop_sequence: Option<String>,
    /// Token counts.
    pub usage: MessageUsage,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Reasoning, where `thinking` asks for it.
    Thinking {
        /// The reasoning; empty with `display: "omitted"`.
        thinking: String,
        /// Opaque. May be sent back, and is not checked.
        signature: String,
    },
    /// The answer, or what is said beside a call.
    Text {
        /// The text.
        text: String,
    },
    /// A call of a tool.
    ToolUse {
        /// `toolu_...`; the result names it.
        id: String,
        /// Name of the tool.
        name: String,
        /// The arguments. What the model wrote and what is no JSON object stands in `raw_arguments`.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model was done.
    EndTurn,
    /// `max_tokens` were generated.
    MaxTokens,
    /// One of `stop_sequences` came up.
    StopSequence,
    /// The model called a tool.
    ToolUse,
}

/// Token counts. All of the prompt is `input_tokens` and `cache_read_input_tokens` together.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Tokens of the prompt that were computed. In `message_start`, where it is not known yet, all of them.
    pub input_tokens: usize,
    /// Always 0: writing to the cache costs nothing.
    pub cache_creation_input_tokens: usize,
    /// Tokens of the prompt that were found in the prefix cache.
    pub cache_read_input_tokens: usize,
    /// Tokens generated, reasoning and control tokens included.
    pub output_tokens: usize,
    /// Parts of `output_tokens`.
    pub output_tokens_details: MessageOutputTokensDetails,
}

/// Parts of `output_tokens`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct MessageOutputTokensDetails {
    /// Spent on reasoning, shown or not.
    pub thinking_tokens: usize,
}

/// An event of a streamed answer. Its name, in the line `event:`, is its `type`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessageEvent {
    /// The first event: the answer, still empty.
    MessageStart {
        /// The answer.
        message: Message,
    },
    /// A block begins, still empty.
    ContentBlockStart {
        /// From 0.
        index: usize,
        /// The block.
        content_block: ContentBlock,
    },
    /// A block grows.
    ContentBlockDelta {
        /// Which.
        index: usize,
        /// By what.
        delta: BlockDelta,
    },
    /// A block ended; the next one may begin.
    ContentBlockStop {
        /// Which.
        index: usize,
    },
    /// The answer ended.
    MessageDelta {
        /// How.
        delta: MessageEnd,
        /// Token counts of all of it.
        usage: MessageUsage,
    },
    /// The last event.
    MessageStop {},
    /// Nothing new; keeps the connection open.
    Ping {},
}

/// What a block grows by.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// More text.
    TextDelta {
        /// To append.
        text: String,
    },
    /// More reasoning.
    ThinkingDelta {
        /// To append.
        thinking: String,
    },
    /// The signature of reasoning, once, as its last delta.
    SignatureDelta {
        /// The whole signature.
        signature: String,
    },
    /// More of a call's arguments.
    InputJsonDelta {
        /// To append; JSON only when the block has ended.
        partial_json: String,
    },
}

/// How an answer ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessageEnd {
    /// Why.
    pub stop_reason: StopReason,
    /// Which of `stop_sequences` ended it.
    #[schema(required)]
    pub stop_sequence: Option<String>,
}

impl MessageEvent {
    /// The name, which also stands in `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
            Self::Ping {} => "ping",
        }
    }
}

/// Answer of `POST /v1/messages/count_tokens`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct MessageTokensCount {
    /// Tokens of the prompt.
    pub input_tokens: usize,
}

/// The body of every error answer of these routes, and the last event (`error`) of a stream that fails.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesErrorBody {
    /// Always `error`.
    #[serde(rename = "type")]
    #[schema(example = "error")]
    pub kind: &'static str,
    /// The error.
    pub error: MessagesError,
    /// The request's id, as in the header `request-id`.
    #[schema(example = "req_W1cV9kQm3xYb7nRtZ5sLhJdf")]
    pub request_id: String,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesError {
    /// The kind of error, by status.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: &'static str,
    /// For people. Names the field that is wrong.
    #[schema(example = "Missing required parameter: 'max_tokens'.")]
    pub message: String,
}
