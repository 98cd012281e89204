//! What a request asks of the scheduler: checked against its limits, then handed over, all prompts or none.
//!
//! Knows the scheduler's vocabulary and the control tokens that end and steer a generation. Nothing is queued before
//! [`Job::submit`].

use std::sync::Arc;

use gossamer_harmony::{Tokenizer, TurnRules, special};
use gossamer_scheduler::{Handover, NewRequest, StopConditions, SubmitError, TokenStream};

use super::constraint::Source;
use crate::error::{ApiError, ErrorCode};
use crate::state::AppState;
use crate::validate::Generate;
use crate::validate::fields::invalid;

/// The ends that the model writes itself (`eos_token_id` of gpt-oss-20b's `generation_config.json`).
const MODEL_ENDS: [u32; 3] = [special::RETURN, special::CALL, special::END_OF_TEXT];

/// Most log-probabilities reported of prompts: each takes 50 to 100 bytes of the answer.
const MAX_PROMPT_LOGPROBS: usize = 1 << 18;

/// Prompts and what to make of them.
pub(crate) struct Job {
    /// At least one.
    pub prompts: Vec<Vec<u32>>,
    /// The same for all.
    pub generate: Generate,
    /// Name of the field that holds the prompt, for errors.
    pub prompt_param: &'static str,
    /// What the answers are held to.
    pub rules: Option<Arc<TurnRules>>,
    /// Most new tokens, per prompt.
    max_tokens: Vec<usize>,
}

impl Job {
    /// Checks that every prompt fits, before anything is queued.
    pub fn new(
        prompts: Vec<Vec<u32>>,
        generate: Generate,
        prompt_param: &'static str,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let limit = (state.engine.tokens(prompt_param)?).max_sequence_len();
        let max_tokens = prompts
            .iter()
            .map(|prompt| generate.max_tokens_for(prompt.len(), limit, &state.config, prompt_param))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            prompts,
            generate,
            prompt_param,
            rules: None,
            max_tokens,
        })
    }

    /// Checks that the answer does not become too large by what it says about the prompts. `param` is the field that asks
    /// for it.
    pub fn check_prompt_logprobs(&self, param: &'static str) -> Result<(), ApiError> {
        let Some(alternatives) = self.generate.prompt_logprobs else {
            return Ok(());
        };
        let num_tokens: usize = self.prompts.iter().map(Vec::len).sum();
        let each = usize::from(alternatives) + 1;
        match num_tokens.saturating_mul(each) {
            count if count > MAX_PROMPT_LOGPROBS => Err(invalid(
                param,
                format!(
                    "asks for {count} log-probabilities ({each} for each of {num_tokens} tokens), more than \
                     {MAX_PROMPT_LOGPROBS}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Hands every prompt to the scheduler.
    pub fn submit(self, state: &AppState) -> Result<Vec<TokenStream>, ApiError> {
        let scheduler = state.engine.tokens(self.prompt_param)?;
        let generate = self.generate;
        let own_ends: &[u32] = if generate.ignore_eos {
            &[]
        } else {
            &MODEL_ENDS
        };
        let stop_token_ids: Arc<[u32]> = [own_ends, &generate.stop_token_ids].concat().into();
        let sampling = Arc::new(generate.sampling);
        let handover = generate.max_reasoning_tokens.map(|max| {
            let forced = self.rules.as_ref().and_then(|rules| rules.forced_call());
            Arc::new(behind_the_reasoning(max, forced))
        });
        let constraint = self.rules.map(Source::shared);
        let cache_salt = state.cache_salt(generate.cache_salt.as_deref());
        let num_prompts = self.prompts.len();
        let mut streams = Vec::with_capacity(num_prompts);
        for (prompt, max_tokens) in self.prompts.into_iter().zip(self.max_tokens) {
            let request = NewRequest {
                prompt,
                n: generate.n,
                sampling: Arc::clone(&sampling),
                stop: StopConditions {
                    stop_token_ids: Arc::clone(&stop_token_ids),
                    // The scheduler always draws one.
                    max_tokens: max_tokens.max(1),
                    min_tokens: generate.min_tokens,
                },
                cache_salt,
                priority: generate.priority,
                handover: handover.clone(),
                prompt_logprobs: generate.prompt_logprobs,
                constraint: constraint.clone(),
                speculation: generate.speculation,
            };
            // On an error the streams so far are dropped, which cancels them.
            let stream = scheduler
                .submit(request)
                .map_err(|error| refusal(error, num_prompts, self.prompt_param, state))?;
            streams.push(stream);
        }
        Ok(streams)
    }
}

/// After so many tokens of reasoning: the end of that message and the header of the answer, or as much of that of a call as
/// is known, as the model writes them.
fn behind_the_reasoning(max_tokens: usize, forced_call: Option<String>) -> Handover {
    let word = |word| Tokenizer::get().encode(word);
    let (start, channel, message) = ([special::START], [special::CHANNEL], [special::MESSAGE]);
    Handover {
        opens: [&channel[..], &word("analysis"), &message].concat(),
        // What else could not be reasoning any more, however it was written.
        closes: vec![
            special::END,
            special::START,
            special::CHANNEL,
            special::RETURN,
            special::CALL,
            special::END_OF_TEXT,
        ],
        max_tokens,
        tokens: [
            &[special::END][..],
            &start,
            &match forced_call {
                None => [&word("assistant")[..], &channel, &word("final"), &message].concat(),
                Some(header) => Tokenizer::get().encode_with_special(&header),
            },
        ]
        .concat(),
    }
}

/// Why a request of so many prompts was not accepted. More prompts than the queue has places is nothing to try again.
fn refusal(
    error: SubmitError,
    num_prompts: usize,
    prompt_param: &'static str,
    state: &AppState,
) -> ApiError {
    match error {
        SubmitError::QueueFull { limit } if num_prompts > limit => ApiError::field(
            ErrorCode::ArrayAboveMaxLength,
            prompt_param,
            format!("The queue holds at most {limit} prompts, not {num_prompts}."),
        ),
        error => ApiError::from_submit(error, prompt_param, state.config.retry_after),
    }
}
