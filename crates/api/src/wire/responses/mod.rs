//! `/v1/responses`: what a client sends; what it gets is in `answer` and `event`.

pub mod answer;
pub mod event;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::chat_request::{FunctionType, ReasoningEffort, Speculation, ToolChoiceMode};
use answer::{ItemStatus, Phase};

/// Body of `POST /v1/responses`. `null` means the same as leaving a field out.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gossamer-tiny", "input": "Hello!"}))]
pub struct CreateResponse {
    /// Id of a served model.
    pub model: String,
    /// A user's text, or items: messages, reasoning, calls and their results, oldest first.
    pub input: ResponseInput,
    /// What the model is told first. Those of a previous response do not carry over.
    pub instructions: Option<String>,
    /// Continues the conversation of this response, which must have been stored and have ended.
    pub previous_response_id: Option<String>,
    /// Functions that the model may call. OpenAI's own tools are not there: `web_search` is accepted, because Codex declares it
    /// to every server, and not offered to the model; the others are refused.
    pub tools: Option<Vec<ResponseTool>>,
    /// Whether and which functions are called. Default `auto`.
    pub tool_choice: Option<ResponseToolChoice>,
    /// Accepted; the model makes at most one call per turn.
    pub parallel_tool_calls: Option<bool>,
    /// How to think.
    pub reasoning: Option<ReasoningConfig>,
    /// The form of the answer.
    pub text: Option<TextConfig>,
    /// Most tokens to generate, reasoning included; the response is then `incomplete`. Default: what is left of the context.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// Accepted and not used: it bounds OpenAI's own tools, which are not there.
    #[schema(minimum = 1)]
    pub max_tool_calls: Option<u64>,
    /// Most tokens of reasoning; then the answer begins, without any further tool call. Default: no bound.
    #[schema(minimum = 0)]
    pub max_reasoning_tokens: Option<u64>,
    /// 0 is greedy. Default 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Keep the `top_k` likeliest tokens; 0 and -1 keep all.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Above 1 discourages tokens of prompt and output.
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Discourages tokens of the output.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Discourages tokens of the output, once per occurrence.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Token id to a bias between -100 and 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Same seed and request, same answer.
    pub seed: Option<i64>,
    /// With `include` of `message.output_text.logprobs`: how many alternatives to report.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// The smaller, the sooner it is started and the later it is preempted. Default 0.
    pub priority: Option<i32>,
    /// Shares cached prefixes only with requests of the same salt.
    #[schema(min_length = 1)]
    pub cache_salt: Option<String>,
    /// Whether tokens that repeat what stands before them may be drafted and verified together. `auto` (default) where the
    /// server does that at all, `off` never. The answer is the same, it only comes sooner.
    pub speculation: Option<Speculation>,
    /// `message.output_text.logprobs` reports log-probabilities. `reasoning.encrypted_content` is accepted: reasoning is
    /// always given in full, so that it can be sent back without being stored. The others ask for what is not there.
    pub include: Option<Vec<Include>>,
    /// Kept with the response. At most 16 entries, keys of at most 64 and values of at most 512 characters.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Whether the response can be fetched and continued later. Default true, where the server stores anything.
    pub store: Option<bool>,
    /// Answer at once, and go on without the client. Needs `store`.
    pub background: Option<bool>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<ResponseStreamOptions>,
    /// `auto` drops the oldest turns of a conversation that does not fit; `disabled` (default) refuses it.
    pub truncation: Option<Truncation>,
    /// Only `auto` and `default`; the response says `default`.
    pub service_tier: Option<String>,
    /// Accepted and not used, but shown in the response.
    pub user: Option<String>,
    /// Accepted and not used, but shown in the response.
    #[schema(max_length = 128)]
    pub safety_identifier: Option<String>,
    /// Accepted and not used, but shown in the response: prefixes are always cached.
    pub prompt_cache_key: Option<String>,
    /// Only `in_memory`, which is how prefixes are cached.
    pub prompt_cache_retention: Option<String>,
    /// Accepted and not used: what a client (Codex) notes about itself.
    #[schema(value_type = Option<Object>)]
    pub client_metadata: Option<Value>,
}

/// What the model is asked.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponseInput {
    /// A user's message.
    Text(String),
    /// Items, oldest first.
    Items(Vec<InputItem>),
}

/// An item of the conversation. Output items of a response can be sent back as they came.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    /// What somebody said.
    Message(InputMessage),
    /// What the model thought.
    Reasoning(InputReasoning),
    /// A call that the model made.
    FunctionCall(InputFunctionCall),
    /// What the function returned.
    FunctionCallOutput(InputFunctionCallOutput),
}

/// What somebody said.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputMessage {
    /// `message`, or absent.
    #[serde(rename = "type")]
    pub kind: Option<MessageType>,
    /// Who. `system` and `developer` mean the same.
    pub role: InputRole,
    /// What.
    pub content: InputContent,
    /// Assistant only: whether it is the answer or was said before a call. Default: whatever stands before a call was.
    pub phase: Option<Phase>,
    /// Accepted and not used.
    pub id: Option<String>,
    /// Accepted and not used.
    pub status: Option<ItemStatus>,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// A message.
    Message,
}

/// Who speaks.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Instructions.
    System,
    /// Instructions.
    Developer,
}

/// Text, whole or in parts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum InputContent {
    /// Whole.
    Text(String),
    /// In parts, which are joined as they stand.
    Parts(Vec<InputPart>),
}

/// A part of a message's text.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputPart {
    /// What was said to the model.
    InputText {
        /// The text.
        text: String,
    },
    /// What the model said.
    OutputText {
        /// The text.
        text: String,
    },
    /// Assistant only: a refusal, read as text.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// What the model thought. It is told again where the format keeps it: since the last answer, between calls.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputReasoning {
    /// `reasoning`.
    #[serde(rename = "type")]
    pub kind: ReasoningType,
    /// The thought, in parts `{"type": "reasoning_text", "text": ...}`.
    pub content: Option<Vec<answer::ReasoningPart>>,
    /// Read where there is no `content`: parts `{"type": "summary_text", "text": ...}`.
    pub summary: Option<Vec<SummaryPart>>,
    /// Accepted and not used; it must not be all there is.
    pub encrypted_content: Option<String>,
    /// Accepted and not used.
    pub id: Option<String>,
    /// Accepted and not used.
    pub status: Option<ItemStatus>,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningType {
    /// Reasoning.
    Reasoning,
}

/// A part of a summary.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SummaryPart {
    /// Text.
    SummaryText {
        /// The text.
        text: String,
    },
}

/// A call that the model made.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFunctionCall {
    /// `function_call`.
    #[serde(rename = "type")]
    pub kind: FunctionCallType,
    /// Ties the call to its output.
    pub call_id: String,
    /// The function.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// Its namespace, where it has one.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub namespace: Option<String>,
    /// As the model wrote them.
    pub arguments: String,
    /// Accepted and not used.
    pub id: Option<String>,
    /// Accepted and not used.
    pub status: Option<ItemStatus>,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FunctionCallType {
    /// A call.
    FunctionCall,
}

/// What a function returned.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFunctionCallOutput {
    /// `function_call_output`.
    #[serde(rename = "type")]
    pub kind: FunctionCallOutputType,
    /// The call: one of an earlier item, or of the previous response.
    pub call_id: String,
    /// The result.
    pub output: InputContent,
    /// Accepted and not used.
    pub id: Option<String>,
    /// Accepted and not used.
    pub status: Option<ItemStatus>,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FunctionCallOutputType {
    /// A result.
    FunctionCallOutput,
}

/// What the model may call.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponseTool {
    /// A function.
    Function(FunctionTool),
    /// Functions with a name in common.
    Namespace(NamespaceTool),
    /// Accepted and not offered to the model.
    WebSearch(WebSearchTool),
}

/// Functions with a name in common. The model knows them as `namespace__function`, calls of them have both.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceTool {
    /// `namespace`.
    #[serde(rename = "type")]
    pub kind: NamespaceType,
    /// Letters, digits, `_`, `-`; with `__` and a function's name at most 64.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// What they are for.
    pub description: Option<String>,
    /// The functions.
    pub tools: Vec<FunctionTool>,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceType {
    /// A namespace.
    Namespace,
}

/// A search that this server does not have. Its fields are not looked at.
#[derive(Serialize, ToSchema)]
pub struct WebSearchTool {
    /// `web_search`.
    #[serde(rename = "type")]
    pub kind: WebSearchType,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebSearchType {
    /// A search.
    WebSearch,
}

/// A function that the model may call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionType,
    /// Letters, digits, `_`, `-`; at most 64.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// When to use it.
    pub description: Option<String>,
    /// JSON schema of the arguments; absent for a function without.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// As in `/v1/chat/completions`.
    pub strict: Option<bool>,
}

/// Whether functions may be called.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponseToolChoice {
    /// All or none.
    Mode(ToolChoiceMode),
    /// Some.
    Allowed(AllowedFunctions),
}

/// Some of the declared functions.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedFunctions {
    /// `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: super::chat_request::AllowedToolsType,
    /// Whether one of them must be called.
    pub mode: super::chat_request::AllowedToolsMode,
    /// By name.
    pub tools: Vec<NamedFunction>,
}

/// A function by name.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedFunction {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionType,
    /// One of `tools`.
    pub name: String,
}

/// How to think.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasoningConfig {
    /// How long. Default `medium`.
    pub effort: Option<ReasoningEffort>,
    /// Accepted and not used: the reasoning is given as it is, not as a summary.
    pub summary: Option<SummaryKind>,
}

/// What a summary would be like.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummaryKind {
    /// As the server likes.
    Auto,
    /// Short.
    Concise,
    /// Long.
    Detailed,
    /// None.
    None,
}

/// The form of the answer.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// As `response_format` of `/v1/chat/completions`, with the fields of `json_schema` beside `type`.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
    /// Only `medium`.
    pub verbosity: Option<String>,
}

/// More to report.
#[derive(Serialize, ToSchema)]
pub enum Include {
    /// Log-probabilities of the answer's tokens.
    #[serde(rename = "message.output_text.logprobs")]
    Logprobs,
    /// Accepted; see `include`.
    #[serde(rename = "reasoning.encrypted_content")]
    EncryptedReasoning,
}

/// How to stream.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseStreamOptions {
    /// Only `false`: events carry nothing that hides their length.
    pub include_obfuscation: Option<bool>,
}

/// What to do with a conversation that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Drop its oldest turns.
    Auto,
    /// Refuse it.
    Disabled,
}
