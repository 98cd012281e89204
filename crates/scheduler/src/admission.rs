//! Can this request ever run here? Answered before it is queued, by the caller's thread and again by the core.
//!
//! "Not now" is not an answer of this file: an acceptable request waits (`planning.rs`).
//! Invariant: whatever passes [`Limits::check`] finishes alone in an empty pool.

use crate::config::SchedulerConfig;
use crate::executor::Capacity;
use crate::request::{NewRequest, SubmitError};

/// Most sequences of one request; the OpenAI API's own bound for `n`.
pub const MAX_CHOICES: u32 = 128;

/// What can never be exceeded by one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a sequence, prompt and output together.
    pub max_sequence_len: usize,
    /// Most requests waiting.
    pub max_waiting: usize,
}

impl Limits {
    /// The limits that follow from the engine's capacity and the operator's configuration.
    pub fn new(config: &SchedulerConfig, capacity: &Capacity) -> Self {
        let fits = capacity.longest_sequence(config.max_num_batched_tokens);
        Self {
            max_sequence_len: capacity.max_model_len.min(fits),
            max_waiting: config.max_waiting,
        }
    }

    /// Whether the request could run here at all.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`], [`SubmitError::NeverFits`] or [`SubmitError::OutputNeverFits`].
    pub fn check(&self, request: &NewRequest) -> Result<(), SubmitError> {
        let invalid = |field, message: String| Err(SubmitError::Invalid { field, message });
        let (prompt_len, max_tokens) = (request.prompt.len(), request.stop.max_tokens);
        if prompt_len == 0 {
            return invalid("prompt", "at least one token is needed".into());
        }
        if request.n == 0 || request.n > MAX_CHOICES {
            let message = format!("must be from 1 to {MAX_CHOICES}, not {}", request.n);
            return invalid("n", message);
        }
        if max_tokens == 0 {
            return invalid("stop.max_tokens", "must be at least 1".into());
        }
        if request.stop.min_tokens > max_tokens {
            let message = format!(
                "{} is more than max_tokens ({max_tokens})",
                request.stop.min_tokens
            );
            return invalid("stop.min_tokens", message);
        }
        if request
            .handover
            .as_ref()
            .is_some_and(|h| h.opens.is_empty())
        {
            return invalid("handover.opens", "at least one token is needed".into());
        }
        if prompt_len >= self.max_sequence_len {
            return Err(SubmitError::NeverFits {
                prompt_len,
                limit: self.max_sequence_len.saturating_sub(1),
            });
        }
        if max_tokens > self.max_sequence_len - prompt_len {
            return Err(SubmitError::OutputNeverFits {
                prompt_len,
                max_tokens,
                limit: self.max_sequence_len,
            });
        }
        Ok(())
    }
}
