//! JSON to typed requests: the only way to make one.
//!
//! Types, ranges and combinations are checked here, before anything is rendered or queued.
//!
//! # What is accepted, what is refused
//!
//! A field is in one of four classes. None is ignored in silence.
//!
//! | class | answer | chat completions | completions |
//! |---|---|---|---|
//! | implemented | used | `messages` `max_completion_tokens` `tools` `tool_choice` `response_format` `guided_json` `guided_regex` `guided_choice` `guided_grammar` `structured_outputs` `constrain_headers` `reasoning_effort` `max_reasoning_tokens` `include_reasoning` `top_logprobs` | `prompt` `best_of` `echo` |
//! | | | both: `model` `max_tokens` `n` `stream` `stream_options` `stop` `seed` `temperature` `top_p` `top_k` `min_p` `repetition_penalty` `presence_penalty` `frequency_penalty` `logit_bias` `logprobs` `min_tokens` `ignore_eos` `stop_token_ids` `prompt_logprobs` `priority` `cache_salt` `speculation` | |
//! | harmless | checked, not used: it cannot change the answer | `user` `safety_identifier` `metadata` `prompt_cache_key` `parallel_tool_calls` (one call per turn is what the model can do), `messages[].name` of others than users, an assistant message's `provider_specific_fields` (LiteLLM sends them back) | `user` |
//! | one value only | that value passes, others are `unsupported_value` | `store` (`false`) `service_tier` (`auto`, `default`) `modalities` (`["text"]`) `verbosity` (`medium`) `prompt_cache_retention` (`in_memory`) | |
//! | | | both: `stream_options.include_obfuscation` (`false`) | |
//! | of the API, not here | `unsupported_parameter` | [`chat::UNSUPPORTED`] | [`completions::UNSUPPORTED`] |
//! | anything else | `unknown_parameter` | | |
//!
//! `tests/contract/*.txt` says the same by example, and is run.
//!
//! Two decisions that are easy to ask about. `store: true` is refused rather than ignored: a client that means to fetch the
//! answer again would find nothing. A chat without `max_tokens` may use the rest of the context, as in OpenAI's API; an
//! operator who fears a model that repeats itself sets `api.default_max_tokens`.
//!
//! The values that pass in the third class are those which say what happens anyway, and SDKs send them unasked.

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod fields;
mod items;
mod messages;
pub(crate) mod outputs;
pub(crate) mod response_tools;
pub(crate) mod responses;
mod sampling;
pub(crate) mod simple;
pub(crate) mod text_engine;
pub(crate) mod tokens;
mod tools;

use gossamer_scheduler::{SamplingParams, Speculation};

use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;
use fields::{Fields, quote};

/// What both endpoints ask of the scheduler, per prompt.
#[derive(Debug)]
pub(crate) struct Generate {
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Choices per prompt that are generated.
    pub n: u32,
    /// Most tokens, perhaps 0 (completions only); `None` leaves it to [`Generate::max_tokens_for`].
    pub max_tokens: Option<usize>,
    /// Fewest tokens.
    pub min_tokens: usize,
    /// Token ids that end a choice, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// The model's own ends do not count.
    pub ignore_eos: bool,
    /// Strings that end the answer.
    pub stop_strings: Vec<String>,
    /// Whether and how to stream.
    pub stream: Option<StreamOptions>,
    /// The smaller, the sooner.
    pub priority: i32,
    /// Who gives the same one shares prefixes in the cache.
    pub cache_salt: Option<String>,
    /// Whether tokens may be drafted.
    pub speculation: Speculation,
    /// Log-probabilities of the prompt, with so many alternatives.
    pub prompt_logprobs: Option<u8>,
    /// Chat only: after so many tokens of reasoning the answer begins.
    pub max_reasoning_tokens: Option<usize>,
}

/// How to stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamOptions {
    /// A last chunk with token counts.
    pub include_usage: bool,
    /// Token counts so far in every chunk.
    pub continuous_usage: bool,
}

impl Generate {
    /// # Errors
    /// More tokens are asked for than the `most` that may be generated.
    pub fn check_min_tokens(&self, most: usize) -> Result<(), ApiError> {
        if self.min_tokens > most {
            let why = format!(
                "is {}, more than the {most} tokens that may be generated",
                self.min_tokens
            );
            return Err(fields::invalid("min_tokens", why));
        }
        Ok(())
    }

    /// How many tokens may follow a prompt of `prompt_len` tokens in a sequence of at most `limit`.
    ///
    /// # Errors
    /// `context_length_exceeded`: the prompt leaves no room, or less than was asked for.
    pub fn max_tokens_for(
        &self,
        prompt_len: usize,
        limit: usize,
        config: &ApiConfig,
        prompt_param: &'static str,
    ) -> Result<usize, ApiError> {
        let room = limit.saturating_sub(prompt_len);
        if room == 0 {
            return Err(ApiError::context_length(
                prompt_param,
                prompt_len,
                None,
                limit,
            ));
        }
        let max_tokens = match self.max_tokens {
            Some(asked) if asked > room => {
                return Err(ApiError::context_length(
                    prompt_param,
                    prompt_len,
                    Some(asked),
                    limit,
                ));
            }
            Some(asked) => asked,
            None => config.default_max_tokens.map_or(room, |cap| cap.min(room)),
        };
        self.check_min_tokens(max_tokens)?;
        Ok(max_tokens)
    }
}

/// Takes `model` and checks that it is served here.
fn model(fields: &mut Fields, config: &ApiConfig) -> Result<(), ApiError> {
    let model = fields.required_string("model")?;
    known_model(&model, config)
}

/// Checks that a model is served here.
fn known_model(model: &str, config: &ApiConfig) -> Result<(), ApiError> {
    if config.serves(model) {
        return Ok(());
    }
    Err(ApiError::field(
        ErrorCode::ModelNotFound,
        "model",
        format!(
            "The model {} does not exist here. GET /v1/models lists those that do.",
            quote(model)
        ),
    ))
}
