//! Body of `POST /v1/chat/completions`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::completions::{StopStrings, StreamOptions};

/// Body of `POST /v1/chat/completions`. `null` means the same as leaving a field out.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gossamer-tiny", "messages": [{"role": "user", "content": "Hello!"}]}))]
pub struct ChatCompletionRequest {
    /// Id of a served model.
    pub model: String,
    /// The conversation, oldest first.
    #[schema(min_items = 1)]
    pub messages: Vec<RequestMessage>,
    /// Most tokens to generate, reasoning included. Default: what is left of the context.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// Most tokens of reasoning; then the answer begins, without any further tool call. Default: no bound.
    #[schema(minimum = 0)]
    pub max_reasoning_tokens: Option<u32>,
    /// Whether the answer shows the reasoning. Default true.
    pub include_reasoning: Option<bool>,
    /// Older name of `max_completion_tokens`; only one of them may be given.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// How many answers to generate. Default 1.
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Functions that the model may call.
    pub tools: Option<Vec<RequestTool>>,
    /// `auto` (default), `none`, `required`, one function or some of them. A forced call's arguments are valid by the
    /// function's parameters. Needs `tools`.
    pub tool_choice: Option<ToolChoice>,
    /// Accepted; the model makes at most one call per turn. Needs `tools`.
    pub parallel_tool_calls: Option<bool>,
    /// How long to think. Default `medium`.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Ends the answer; not part of it. Applied to `content`, not to the reasoning.
    pub stop: Option<StopStrings>,
    /// Same seed and request, same answer.
    pub seed: Option<i64>,
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
    /// Report log-probabilities of the tokens of `content`.
    pub logprobs: Option<bool>,
    /// With `logprobs`: how many alternatives to report.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// Do not stop before this many tokens.
    #[schema(minimum = 0)]
    pub min_tokens: Option<u32>,
    /// Go on after the model's own end until `max_tokens`.
    pub ignore_eos: Option<bool>,
    /// More tokens that end the generation.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Report log-probabilities of the prompt's tokens, with this many alternatives. Not with `stream`.
    #[schema(minimum = 0, maximum = 20)]
    pub prompt_logprobs: Option<u8>,
    /// The smaller, the sooner it is started and the later it is preempted. Default 0.
    pub priority: Option<i32>,
    /// Shares cached prefixes only with requests of the same salt.
    #[schema(min_length = 1)]
    pub cache_salt: Option<String>,
    /// Whether tokens that repeat what stands before them may be drafted and verified together. `auto` (default) where the
    /// server does that at all, `off` never. The answer is the same, it only comes sooner.
    pub speculation: Option<Speculation>,
    /// What the answer must be. Reasoning and calls are not held to it.
    pub response_format: Option<ResponseFormat>,
    /// As `response_format` with a schema, of which the model is not told; an object, or one as a string. Only one field may
    /// say what the answer must be.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Value>,
    /// A regular expression that the whole answer matches.
    #[schema(min_length = 1)]
    pub guided_regex: Option<String>,
    /// The answer is one of these texts.
    #[schema(min_items = 1, max_items = 1024)]
    pub guided_choice: Option<Vec<String>>,
    /// A grammar of the answer, in llguidance's variant of Lark.
    #[schema(min_length = 1)]
    pub guided_grammar: Option<String>,
    /// The same in one object, as newer versions of vLLM have it.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Hold the headers of the model's messages to their form. Default: the server's setting, which is on.
    pub constrain_headers: Option<bool>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
    /// Only `medium`.
    pub verbosity: Option<String>,
    /// Accepted and not used.
    pub user: Option<String>,
    /// Accepted and not used.
    #[schema(max_length = 128)]
    pub safety_identifier: Option<String>,
    /// Accepted and not used: prefixes are always cached.
    pub prompt_cache_key: Option<String>,
    /// Only `in_memory`, which is how prefixes are cached.
    pub prompt_cache_retention: Option<String>,
    /// Accepted and not used. At most 16 entries, keys of at most 64 and values of at most 512 characters.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Only `false`: nothing is stored.
    pub store: Option<bool>,
    /// Only `auto` and `default`; the answer then says `default`.
    pub service_tier: Option<String>,
}

/// Whether tokens may be drafted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// Where the server does that at all and finds that it pays.
    Auto,
    /// Never.
    Off,
}

/// A message of the conversation.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestMessage {
    /// Who speaks. `system` and `developer` mean the same.
    pub role: RequestRole,
    /// What is said. May be absent for an assistant that called a function.
    pub content: Option<MessageContent>,
    /// Assistant only: its reasoning, kept between tool calls.
    pub reasoning: Option<String>,
    /// Another name for `reasoning`.
    pub reasoning_content: Option<String>,
    /// Assistant only: the calls it made.
    pub tool_calls: Option<Vec<RequestToolCall>>,
    /// Tool only: the call that this message answers.
    pub tool_call_id: Option<String>,
    /// Assistant only: a refusal, used when there is no content.
    pub refusal: Option<String>,
    /// User: who of several speaks, told to the model. Tool: the function's name, which must be the call's. Others:
    /// accepted and not used.
    #[schema(max_length = 64)]
    pub name: Option<String>,
}

/// Who speaks.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestRole {
    /// Instructions.
    System,
    /// Instructions.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A function's result.
    Tool,
}

/// Text, whole or in parts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// Whole.
    Text(String),
    /// In parts, which are joined as they stand.
    Parts(Vec<ContentPart>),
}

/// A part of a message's text.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// Assistant only: a refusal, read as text.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// A call that the assistant made.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestToolCall {
    /// Chosen by the server that made the call.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: Option<FunctionType>,
    /// What was called.
    pub function: FunctionCall,
}

/// The only type there is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FunctionType {
    /// A function.
    Function,
}

/// A function's name and arguments.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The name.
    pub name: String,
    /// The arguments, as the model wrote them: usually JSON, not always valid.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionType,
    /// The function.
    pub function: FunctionDefinition,
}

/// What the model is told about a function.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionDefinition {
    /// Letters, digits, `_`, `-`; at most 64.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// When to use it.
    pub description: Option<String>,
    /// JSON schema of the arguments; absent for a function without.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Hold the arguments to `parameters`. Forced calls are in any case.
    pub strict: Option<bool>,
}

/// Whether functions may be called.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// All or none.
    Mode(ToolChoiceMode),
    /// One, which must be called.
    Function(NamedTool),
    /// Some.
    Allowed(AllowedToolChoice),
}

/// Whether functions may be called.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoiceMode {
    /// As the model likes.
    Auto,
    /// Not at all.
    None,
    /// One must be called.
    Required,
}

/// Some of the declared functions.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedToolChoice {
    /// `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: AllowedToolsType,
    /// Which.
    pub allowed_tools: AllowedTools,
}

/// The only type there is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllowedToolsType {
    /// Some of the functions.
    AllowedTools,
}

/// Functions that may be called; the model is told of no other.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedTools {
    /// Whether one of them must be called.
    pub mode: AllowedToolsMode,
    /// By name.
    pub tools: Vec<NamedTool>,
}

/// Whether one of them must be called.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllowedToolsMode {
    /// As the model likes.
    Auto,
    /// One of them must be called.
    Required,
}

/// A declared function.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: FunctionType,
    /// Which.
    pub function: FunctionName,
}

/// A function's name.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionName {
    /// One of `tools`.
    pub name: String,
}

/// How long to think.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// The form of the answer.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Free text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that is valid by a schema.
    JsonSchema {
        /// The schema.
        json_schema: JsonSchemaFormat,
    },
}

/// A schema with a name.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSchemaFormat {
    /// Letters, digits, `_`, `-`; at most 64.
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// What the format is for; the model is told.
    #[schema(max_length = 16384)]
    pub description: Option<String>,
    /// JSON schema of the answer; without one any object will do. The model is told.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Accepted: the schema holds in any case.
    pub strict: Option<bool>,
}

/// What the answer must be: exactly one of the fields.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// As `guided_json`.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// As `guided_regex`.
    #[schema(min_length = 1)]
    pub regex: Option<String>,
    /// As `guided_choice`.
    #[schema(min_items = 1, max_items = 1024)]
    pub choice: Option<Vec<String>>,
    /// As `guided_grammar`.
    #[schema(min_length = 1)]
    pub grammar: Option<String>,
    /// `true`: a JSON object.
    pub json_object: Option<bool>,
}
