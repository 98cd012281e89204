//! `POST /v1/completions`: request, answer and chunk (which has the answer's shape).

use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::chat::{FinishReason, PromptLogprob, PromptTokenLogprobs};
use super::chat_request::Speculation;
use super::usage::Usage;

/// Body of `POST /v1/completions`. `null` means the same as leaving a field out.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gossamer-tiny", "prompt": "Once upon a time", "max_tokens": 16}))]
pub struct CompletionRequest {
    /// Id of a served model.
    pub model: String,
    /// Raw text or tokens: no template is put around it. In text, `<|start|>` and the like are ordinary characters.
    pub prompt: Prompt,
    /// Most tokens to generate. Default 16, as in OpenAI's API; 0 generates nothing.
    #[schema(minimum = 0)]
    pub max_tokens: Option<u32>,
    /// How many texts per prompt. Default 1.
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<u32>,
    /// Generates so many texts and returns the `n` with the highest log-probability per token. At least `n`; not more
    /// with `stream`.
    #[schema(minimum = 1, maximum = 20)]
    pub best_of: Option<u32>,
    /// The text begins with the prompt; with `logprobs`, so do the log-probabilities.
    pub echo: Option<bool>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Ends the text; not part of it.
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
    /// Report log-probabilities with this many alternatives.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<u8>,
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
    /// Accepted and not used.
    pub user: Option<String>,
}

/// One prompt or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several sequences of token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// One to four strings.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopStrings {
    /// One.
    One(String),
    /// Up to four.
    Many(Vec<String>),
}

/// What a streamed answer contains.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// A last chunk with token counts.
    pub include_usage: Option<bool>,
    /// Only `false`.
    pub include_obfuscation: Option<bool>,
    /// Token counts so far in every chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// Answer of `POST /v1/completions`, and one event of a streamed one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    /// `cmpl-...`, the same in all chunks.
    pub id: String,
    /// Always `text_completion`.
    #[schema(example = "text_completion")]
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    /// Id of the model that answered.
    pub model: String,
    /// `n` per prompt: those of the first prompt, then those of the second.
    pub choices: Vec<CompletionChoice>,
    /// Token counts. In chunks: with `include_usage`, null in all but the last; with `continuous_usage_stats`, counts so
    /// far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// Changes when the same seed may give another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
}

/// One text.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Prompt times `n` plus number of the text.
    pub index: usize,
    /// The text, without control tokens; in chunks, to be appended.
    pub text: String,
    /// When asked for.
    #[schema(required)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ends here; null in chunks until the last.
    #[schema(required)]
    pub finish_reason: Option<FinishReason>,
    /// When asked for: of each token of the prompt; null for the first, before which there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<Vec<Option<PromptTokenLogprobs>>>,
}

/// Log-probabilities, one entry per token in each list.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Natural logarithms of their probabilities; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at each place; null for the first token of an echoed prompt.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins, in characters of the text.
    pub text_offset: Vec<usize>,
}
