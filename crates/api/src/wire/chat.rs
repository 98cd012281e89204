//! Answer of `POST /v1/chat/completions`: whole, or chunk by chunk.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::chat_request::{FunctionCall, FunctionType};
use super::usage::Usage;

/// Answer of `POST /v1/chat/completions`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-...`
    pub id: String,
    /// Always `chat.completion`.
    #[schema(example = "chat.completion")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    /// Id of the model that answered.
    pub model: String,
    /// One per answer.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// `default`, when the request named a tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// Changes when the same seed may give another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// When asked for: of each token of the prompt; null for the first, before which there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<Vec<Option<PromptTokenLogprobs>>>,
}

/// What could have stood at one place of a prompt, by token id: the token that did, and the likeliest ones.
pub type PromptTokenLogprobs = BTreeMap<u32, PromptLogprob>;

/// A token that did or could have stood at one place of a prompt. The shape is vLLM's.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural logarithm of its probability; -9999 stands for impossible.
    pub logprob: f32,
    /// Its place among all tokens, the likeliest being 1.
    pub rank: u32,
    /// Its text; a part of a character is shown as U+FFFD.
    pub decoded_token: String,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// From 0.
    pub index: usize,
    /// The answer.
    pub message: ResponseMessage,
    /// When asked for.
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ends here.
    pub finish_reason: FinishReason,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done, or a stop string or stop token came up.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
    /// The model called a function.
    ToolCalls,
}

impl FinishReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// What the assistant said.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResponseMessage {
    /// Always `assistant`.
    #[schema(example = "assistant")]
    pub role: &'static str,
    /// The answer; null when the model only called a function.
    #[schema(required)]
    pub content: Option<String>,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<String>,
    /// What the model thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same text, for clients that read this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// A call of a function.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ToolCall {
    /// `call_...`
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionType,
    /// What was called.
    pub function: FunctionCall,
}

/// Log-probabilities of the tokens whose text is in `content` (preamble and answer). Reasoning, function calls and
/// control tokens have none.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One per token.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// One token of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text; a part of a character is shown as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability before temperature and filters; -9999 stands for impossible.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A likely token.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// As in [`TokenLogprob`].
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The same in all chunks.
    pub id: String,
    /// Always `chat.completion.chunk`.
    #[schema(example = "chat.completion.chunk")]
    pub object: &'static str,
    /// The same in all chunks: seconds since 1970.
    pub created: i64,
    /// Id of the model that answers.
    pub model: String,
    /// One, or none in the chunk that carries `usage`.
    pub choices: Vec<ChunkChoice>,
    /// With `include_usage`: null in all chunks but the last. With `continuous_usage_stats`: counts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// `default`, when the request named a tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<&'static str>,
    /// Changes when the same seed may give another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
}

/// What is new in one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Which answer.
    pub index: usize,
    /// To be appended.
    pub delta: Delta,
    /// When asked for.
    #[schema(required)]
    pub logprobs: Option<ChatLogprobs>,
    /// Null until the answer's last chunk.
    #[schema(required)]
    pub finish_reason: Option<FinishReason>,
}

/// Text to append; empty in an answer's last chunk.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// In an answer's first chunk: `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of the reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same text, for clients that read this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls opened, or arguments to append to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub tool_calls: Vec<DeltaToolCall>,
}

/// A call opened, or more of its arguments.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeltaToolCall {
    /// Which call of the message.
    pub index: usize,
    /// Only when the call is opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only when the call is opened.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FunctionType>,
    /// Name once, then arguments piece by piece.
    pub function: DeltaFunction,
}

/// Part of a call.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DeltaFunction {
    /// Only when the call is opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// To append; empty when the call is opened.
    pub arguments: String,
}
