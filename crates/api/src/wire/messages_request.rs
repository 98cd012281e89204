//! Bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`, as far as they are read here.
//!
//! Shapes as in the declarations of Anthropic's Python SDK 2.12.0 and its API reference. What the API has besides is refused
//! by name (`validate/anthropic`).

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Body of `POST /v1/messages`. `null` means the same as leaving a field out.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "model": "gossamer-tiny", "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello!"}]
}))]
pub struct MessagesRequest {
    /// Id of a served model, or one of its aliases.
    pub model: String,
    /// The conversation, oldest first. Ends with the user's message.
    #[schema(min_items = 1)]
    pub messages: Vec<MessagesTurn>,
    /// Most tokens to generate, reasoning included. 0 only reads the prompt into the cache.
    #[schema(minimum = 0)]
    pub max_tokens: u32,
    /// Instructions.
    pub system: Option<SystemPrompt>,
    /// Tools that the model may call.
    pub tools: Option<Vec<InputTool>>,
    /// `auto` (default) or `none`; forcing a call is not supported yet. Needs `tools`.
    pub tool_choice: Option<InputToolChoice>,
    /// How long to think, and whether to show it. Without it the model thinks as long as it likes, and nothing of it is shown.
    pub thinking: Option<ThinkingConfig>,
    /// How much effort to make.
    pub output_config: Option<OutputConfig>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// End the answer; not part of it. Applied to text, not to reasoning and calls.
    #[schema(max_items = 64)]
    pub stop_sequences: Option<Vec<String>>,
    /// 0 is greedy. Default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub temperature: Option<f64>,
    /// Default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    #[schema(minimum = 0, maximum = 4_294_967_295_i64)]
    pub top_k: Option<u64>,
    /// Accepted and not used.
    pub metadata: Option<InputMetadata>,
    /// Accepted and not used: prefixes are always cached.
    pub cache_control: Option<CacheControl>,
    /// Accepted and not used: only edits that keep all thinking.
    pub context_management: Option<ContextManagement>,
    /// `auto` or `standard_only`, which mean the same here.
    pub service_tier: Option<String>,
    /// Only `standard`.
    pub speed: Option<String>,
    /// Accepted and not used.
    pub user_profile_id: Option<String>,
}

/// Body of `POST /v1/messages/count_tokens`: what of `POST /v1/messages` decides about the prompt.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gossamer-tiny", "messages": [{"role": "user", "content": "Hello!"}]}))]
pub struct CountMessageTokensRequest {
    /// Id of a served model, or one of its aliases.
    pub model: String,
    /// The conversation, oldest first. Ends with the user's message.
    #[schema(min_items = 1)]
    pub messages: Vec<MessagesTurn>,
    /// Instructions.
    pub system: Option<SystemPrompt>,
    /// Tools that the model may call.
    pub tools: Option<Vec<InputTool>>,
    /// As in `POST /v1/messages`.
    pub tool_choice: Option<InputToolChoice>,
    /// As in `POST /v1/messages`.
    pub thinking: Option<ThinkingConfig>,
    /// As in `POST /v1/messages`.
    pub output_config: Option<OutputConfig>,
    /// Accepted and not used: prefixes are always cached.
    pub cache_control: Option<CacheControl>,
    /// Accepted and not used: only edits that keep all thinking.
    pub context_management: Option<ContextManagement>,
    /// Only `standard`.
    pub speed: Option<String>,
    /// Accepted and not used.
    pub user_profile_id: Option<String>,
}

/// A message of the conversation.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessagesTurn {
    /// Who speaks.
    pub role: MessagesRole,
    /// What is said.
    pub content: MessagesContent,
}

/// Who speaks.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessagesRole {
    /// The person, and the results of tools.
    User,
    /// The model.
    Assistant,
    /// Instructions in mid-conversation.
    System,
}

/// Text, or blocks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessagesContent {
    /// The same as one text block.
    Text(String),
    /// Blocks. A blank line is put between texts.
    Blocks(Vec<InputBlock>),
}

/// A block of a message.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// Accepted and not used: prefixes are always cached.
        cache_control: Option<CacheControl>,
    },
    /// Assistant only: its reasoning, kept between tool calls.
    Thinking {
        /// The reasoning.
        thinking: String,
        /// Accepted and not checked.
        signature: Option<String>,
    },
    /// Assistant only. Accepted and not used: nobody here can read it.
    RedactedThinking {
        /// Opaque.
        data: String,
    },
    /// Assistant only: a call that it made.
    ToolUse {
        /// Chosen by the server that made the call.
        id: String,
        /// Name of the tool.
        name: String,
        /// The arguments.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
        /// Accepted and not used.
        cache_control: Option<CacheControl>,
    },
    /// User only: the result of a call. Results come before other blocks.
    ToolResult {
        /// The call's id.
        tool_use_id: String,
        /// The result: text, or text blocks. Default: nothing.
        content: Option<ResultContent>,
        /// The call failed; the model is told so.
        is_error: Option<bool>,
        /// Accepted and not used.
        cache_control: Option<CacheControl>,
    },
}

/// Text, or text blocks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResultContent {
    /// Text.
    Text(String),
    /// Text blocks.
    Blocks(Vec<InputTextBlock>),
}

/// Instructions: text, or text blocks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum SystemPrompt {
    /// Text.
    Text(String),
    /// Text blocks. A blank line is put between them.
    Blocks(Vec<InputTextBlock>),
}

/// A block of text.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTextBlock {
    /// `text`.
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Accepted and not used: prefixes are always cached.
    pub cache_control: Option<CacheControl>,
}

/// A breakpoint of Anthropic's prompt cache. Nothing depends on it here.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheControl {
    /// `ephemeral`.
    #[serde(rename = "type")]
    #[schema(pattern = "^ephemeral$")]
    pub kind: String,
    /// `5m` or `1h`.
    #[schema(pattern = "^(5m|1h)$")]
    pub ttl: Option<String>,
}

/// A tool that the model may call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTool {
    /// `custom`, the only type that there is here. Default `custom`.
    #[serde(rename = "type")]
    #[schema(pattern = "^custom$")]
    pub kind: Option<String>,
    /// Letters, digits, `_`, `-`; at most 64.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// When to use it.
    pub description: Option<String>,
    /// JSON schema of the arguments.
    #[schema(value_type = Object)]
    pub input_schema: Value,
    /// Hold the arguments to the schema; a call that `tool_choice` forces is held to it in any case.
    pub strict: Option<bool>,
    /// Accepted and not used: arguments are always streamed as they come.
    pub eager_input_streaming: Option<bool>,
    /// Accepted and not used: prefixes are always cached.
    pub cache_control: Option<CacheControl>,
}

/// Whether tools may be called, or must.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputToolChoice {
    /// Whether.
    #[serde(rename = "type")]
    pub kind: InputToolChoiceType,
    /// With `tool`: the tool that must be called.
    pub name: Option<String>,
    /// Accepted; the model makes at most one call per turn.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether tools may be called, or must.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputToolChoiceType {
    /// As the model likes.
    Auto,
    /// One of them must be.
    Any,
    /// The one named must be.
    Tool,
    /// Not at all.
    None,
}

/// How long to think, and whether to show it.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ThinkingConfig {
    /// At most so long. The effort follows from the budget, unless `output_config` names one: `low` below 4096 tokens,
    /// `high` from 16384 on.
    Enabled {
        /// Most tokens of reasoning; then the answer begins, without any further call.
        #[schema(minimum = 1024)]
        budget_tokens: u64,
        /// `summarized` (default) shows the reasoning as it is, `omitted` shows that there was some.
        display: Option<ThinkingDisplay>,
    },
    /// As long as the model likes.
    Adaptive {
        /// As with `enabled`.
        display: Option<ThinkingDisplay>,
    },
    /// As little as possible, and nothing of it is shown.
    Disabled {},
}

/// How reasoning is shown.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingDisplay {
    /// As it is.
    Summarized,
    /// As a block without text.
    Omitted,
}

/// How the answer is to be.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// The model knows three levels; `xhigh` and `max` are its `high`.
    pub effort: Option<OutputEffort>,
    /// What the text must be.
    pub format: Option<JsonOutputFormat>,
}

/// JSON that is valid by a schema. The model reads the schema and is held to it; its thinking is not.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonOutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^json_schema$")]
    pub kind: String,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Value,
}

/// How much effort to make.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputEffort {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// Much.
    Xhigh,
    /// Much.
    Max,
}

/// About the request.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputMetadata {
    /// Accepted and not used.
    pub user_id: Option<String>,
}

/// What is to be taken out of the conversation: nothing.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextManagement {
    /// Only edits that change nothing.
    pub edits: Option<Vec<ContextEdit>>,
}

/// An edit of the conversation.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextEdit {
    /// `clear_thinking_20251015`.
    #[serde(rename = "type")]
    #[schema(pattern = "^clear_thinking_20251015$")]
    pub kind: String,
    /// `all`.
    #[schema(pattern = "^all$")]
    pub keep: String,
}
