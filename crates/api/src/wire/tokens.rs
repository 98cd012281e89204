//! `/tokenize`, `/detokenize` and `/v1/chat/completions/render`: text and the tokens that it is.
//!
//! The first two have vLLM's shapes (`vllm/entrypoints/serve/tokenize/protocol.py`), so that its clients work here.

use serde::Serialize;
use utoipa::ToSchema;

use super::chat_request::{ReasoningEffort, RequestMessage, RequestTool};

/// Body of `POST /tokenize`: either `prompt`, or `messages` with what goes with them.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// Id of a served model. Default: the one that is served.
    pub model: Option<String>,
    /// A text as `/v1/completions` reads it: `<|start|>` and the like are ordinary characters.
    pub prompt: Option<String>,
    /// A conversation as `/v1/chat/completions` reads it.
    #[schema(min_items = 1)]
    pub messages: Option<Vec<RequestMessage>>,
    /// Only with `messages`: functions that the model may call.
    pub tools: Option<Vec<RequestTool>>,
    /// Only with `messages`: how long to think, which the prompt says. Default `medium`.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Return the tokens' texts too. Default `false`.
    pub return_token_strs: Option<bool>,
    /// Accepted; the vocabulary has no tokens to put before a text.
    pub add_special_tokens: Option<bool>,
    /// Only with `messages`, only `true`: a prompt ends where the answer begins.
    pub add_generation_prompt: Option<bool>,
    /// Only with `messages`, only `false`.
    pub continue_final_message: Option<bool>,
}

/// Answer of `POST /tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many tokens.
    pub count: usize,
    /// Most tokens of prompt and output together.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, when asked for; a part of a character is shown as U+FFFD.
    #[schema(required)]
    pub token_strs: Option<Vec<String>>,
}

/// Body of `POST /detokenize`.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// Id of a served model. Default: the one that is served.
    pub model: Option<String>,
    /// Token ids of the vocabulary.
    pub tokens: Vec<u32>,
}

/// Answer of `POST /detokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text. Control tokens are spelled out, and what is no UTF-8 is shown as U+FFFD.
    pub prompt: String,
}

/// Answer of `POST /v1/chat/completions/render`: what the model would read.
#[derive(Debug, Serialize, ToSchema)]
pub struct RenderedPrompt {
    /// Always `chat.completion.prompt`.
    #[schema(example = "chat.completion.prompt")]
    pub object: &'static str,
    /// Id of the model.
    pub model: String,
    /// The prompt as text, control tokens spelled out.
    pub prompt: String,
    /// The prompt as tokens.
    pub token_ids: Vec<u32>,
    /// How many tokens; `prompt_tokens` of the answer's usage.
    pub count: usize,
    /// Most tokens of prompt and output together. A longer prompt is rendered, but would not be answered.
    pub max_model_len: usize,
}
