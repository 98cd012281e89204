//! The vocabulary above the scheduler: what callers submit and what comes back.
//!
//! Knows token ids, never text, HTTP or users.
//! Invariant: every accepted request yields exactly one terminal [`TokenEvent`]
//! (`Finished` or `Failed`), and nothing after it.

use std::sync::Arc;

use crate::config::Speculation;
use crate::constraint::ConstraintSource;

/// A token id of the model's vocabulary.
pub type TokenId = u32;

/// One submitted request (one prompt, `n` sequences).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One sequence: one choice of one request, a row of the engine's batch while it runs.
/// Ids are given in order of arrival, so of two sequences of one priority the smaller is the more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// How the next token is chosen from the logits. Every field is resolved: no `Option` stands for a default.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 means greedy (the largest logit; ties go to the smallest id).
    pub temperature: f32,
    /// Keep the `top_k` largest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of every token seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every token already in the output; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, before anything else.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the counter-based random stream; the choice's index and the token's position complete it.
    pub seed: u64,
    /// `Some(k)`: report the sampled token's log-probability and those of the `k` likeliest tokens.
    pub logprobs: Option<u8>,
}

impl SamplingParams {
    /// Greedy decoding with every modifier off.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }

    /// Whether sampling needs to see the tokens already in the sequence.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// When a sequence ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopConditions {
    /// Any of these ends the sequence with [`FinishReason::Stop`]; the stop token itself is also emitted as an event.
    pub stop_token_ids: Arc<[TokenId]>,
    /// Most tokens to generate, at least 1.
    pub max_tokens: usize,
    /// Stop tokens cannot be sampled before this many tokens were generated.
    pub min_tokens: usize,
}

/// A request that has passed validation and rendering.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Prompt, at least one token.
    pub prompt: Vec<TokenId>,
    /// Number of sequences (choices) continuing the prompt, at least 1.
    pub n: u32,
    /// Shared by all sequences; each draws from its own random stream (`seed`, index).
    pub sampling: Arc<SamplingParams>,
    /// Shared by all sequences.
    pub stop: StopConditions,
    /// Requests share prefix-cache blocks only with requests of the same salt.
    pub cache_salt: u64,
    /// The smaller, the sooner started and the later preempted; requests of one priority go in order of arrival.
    /// Strict: whoever comes last waits for as long as others keep coming.
    pub priority: i32,
    /// A bound on a part of the output; shared by all sequences, counted for each.
    pub handover: Option<Arc<Handover>>,
    /// `Some(k)`: report how likely each token of the prompt but the first was, and the `k` likeliest at its place. The
    /// prefix cache then serves nothing to this request: its logits would be missing.
    pub prompt_logprobs: Option<u8>,
    /// What the output may be; each sequence has its own state. `None`: anything.
    pub constraint: Option<Arc<dyn ConstraintSource>>,
    /// Whether its tokens may be drafted, where the scheduler does that at all. The answer is the same.
    pub speculation: Speculation,
}

/// Ends a part of the output after so many tokens: other tokens are put in as if they had been drawn.
///
/// ```text
/// output   opens | counted ............ | closes     the sequence closed the part itself: nothing happens
/// output   opens | counted: max_tokens | tokens      the bound is reached: `tokens` follow, then drawing goes on
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The output enters the part with these tokens, which do not count. Not empty.
    pub opens: Vec<TokenId>,
    /// Any of these leaves it, and does not count.
    pub closes: Vec<TokenId>,
    /// Most tokens in all such parts of a sequence together.
    pub max_tokens: usize,
    /// What is put into the output then. They count against the request's `max_tokens` and may be stop tokens.
    pub tokens: Vec<TokenId>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens` or the model's context length was reached.
    Length,
    /// The caller ended this one sequence ([`crate::TokenStream::finish_sequence`]), e.g. on a stop string.
    Caller,
    /// The request's constraint allows no token any more. Like [`FinishReason::Length`], the output is what there is of it.
    DeadEnd,
}

/// Log-probabilities at one position, natural logarithm, of the distribution before temperature and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the sampled token.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// How likely a token of the prompt was.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprobs {
    /// Its place among all tokens of the vocabulary, the likeliest being 1; of equally likely ones the smaller id comes
    /// first.
    pub rank: u32,
    /// Of the token, and of the likeliest at its place.
    pub logprobs: TokenLogprobs,
}

/// What the scheduler says about a request, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// When asked for: the next tokens of the prompt, from the second on; all of them before the first `Token`.
    Prompt(Vec<PromptLogprobs>),
    /// Sequence `index` (0..n) grew by one token.
    Token {
        /// Which of the request's `n` sequences.
        index: u32,
        /// The sampled token; a stop token is reported too, just before its `SequenceFinished`.
        token: TokenId,
        /// Present when asked for, unless the token was not drawn but put in by a [`Handover`].
        logprobs: Option<Box<TokenLogprobs>>,
    },
    /// Sequence `index` ended. Not terminal: the others may go on.
    SequenceFinished {
        /// Which of the request's `n` sequences.
        index: u32,
        /// Why.
        reason: FinishReason,
    },
    /// Terminal: every sequence ended.
    Finished(RequestSummary),
    /// Terminal: the request could not be completed.
    Failed(RequestError),
}

/// Counts for a finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RequestSummary {
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Of those, tokens served by the prefix cache when the request was first admitted.
    pub cached_len: usize,
    /// Tokens generated, all sequences together, stop tokens included.
    pub output_len: usize,
    /// How often a sequence of it was preempted and recomputed.
    pub preemptions: usize,
}

/// Why an accepted request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The executor failed the step that this request was part of.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// It waited longer than the configured bound without starting.
    #[error("the request waited in the queue for longer than {limit_ms} ms")]
    QueueTimeout {
        /// The configured bound.
        limit_ms: u64,
    },
    /// The server is stopping and the grace period is over.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a request was not accepted. Nothing was queued and no event will come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Never fits: the prompt alone leaves no room for one generated token in the model's context or in the KV cache.
    #[error("the prompt has {prompt_len} tokens, but at most {limit} fit")]
    NeverFits {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Most prompt tokens that a request can have here.
        limit: usize,
    },
    /// Never fits, by `max_tokens`: prompt and requested output together exceed the context length or the whole KV cache.
    #[error(
        "prompt ({prompt_len} tokens) and max_tokens ({max_tokens}) together exceed {limit} tokens"
    )]
    OutputNeverFits {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Requested output.
        max_tokens: usize,
        /// Most tokens a sequence can have here.
        limit: usize,
    },
    /// The waiting queue is at its bound.
    #[error("the queue is full ({limit} requests are waiting)")]
    QueueFull {
        /// The configured bound.
        limit: usize,
    },
    /// The request contradicts itself (empty prompt, `n` = 0, ...); `field` names where.
    #[error("{field}: {message}")]
    Invalid {
        /// The field of [`NewRequest`].
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The worker has stopped or is draining.
    #[error("the server is shutting down")]
    ShuttingDown,
}
