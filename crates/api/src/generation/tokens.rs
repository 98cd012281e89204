//! Events out of token streams: our scheduler's, with an assembler per choice that makes text of tokens.
//!
//! Knows tokens; what they mean is the assemblers' affair. Invariant: a choice that a stop string ended is ended in the
//! scheduler too, and tokens that it drew before it heard of that count for nothing.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use gossamer_scheduler::{FinishReason as Ended, TokenEvent, TokenLogprobs, TokenStream};

use super::ledger::Ledger;
use super::{Assembler, Event, Job, Update};
use crate::error::ApiError;
use crate::state::AppState;
use crate::validate::Generate;
use crate::wire::chat::FinishReason;

/// See the file's header.
pub(super) struct TokenSource {
    /// One per prompt.
    streams: Vec<TokenStream>,
    /// `n` per prompt: those of the first prompt, then those of the second.
    assemblers: Vec<Box<dyn Assembler>>,
    n: usize,
    /// Nothing was to be generated: what the scheduler drew, because it always draws, does not count.
    nothing_wanted: bool,
    open_streams: usize,
    /// Where polling starts, so that no prompt of a batch waits for another.
    next_stream: usize,
}

impl TokenSource {
    /// Hands all prompts to the scheduler: all of them, or none.
    pub fn submit(
        job: Job,
        state: &AppState,
        assembler: impl Fn(&Generate) -> Box<dyn Assembler>,
    ) -> Result<Self, ApiError> {
        let generate = &job.generate;
        let (n, nothing_wanted) = (generate.n as usize, generate.max_tokens == Some(0));
        let assemblers = (0..job.prompts.len() * n)
            .map(|_| assembler(generate))
            .collect();
        let streams = job.submit(state)?;
        Ok(Self {
            open_streams: streams.len(),
            streams,
            assemblers,
            n,
            nothing_wanted,
            next_stream: 0,
        })
    }

    /// Waits for the next token event and enters it. Cancel-safe.
    pub async fn advance(&mut self, ledger: &mut Ledger) {
        let (prompt, event) = poll_fn(|cx| self.poll_streams(cx)).await;
        self.digest(prompt, event, ledger);
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<(usize, TokenEvent)> {
        let count = self.streams.len();
        for offset in 0..count {
            let i = (self.next_stream + offset) % count;
            // `TokenStream::next` is cancel-safe and leaves the waker behind, so a fresh future per poll is enough.
            if let Poll::Ready(Some(event)) = pin!(self.streams[i].next()).poll(cx) {
                self.next_stream = (i + 1) % count;
                return Poll::Ready((i, event));
            }
        }
        Poll::Pending
    }

    fn digest(&mut self, prompt: usize, event: TokenEvent, ledger: &mut Ledger) {
        match event {
            TokenEvent::Prompt(scored) => ledger.push(Event::Prompt { prompt, scored }),
            TokenEvent::Token {
                index,
                token,
                logprobs,
            } => self.token(prompt, index, token, logprobs, ledger),
            TokenEvent::SequenceFinished { index, reason } => {
                let choice = prompt * self.n + index as usize;
                let cut = matches!(reason, Ended::Length | Ended::DeadEnd) || self.nothing_wanted;
                self.finish_choice(choice, Update::default(), cut, ledger);
            }
            TokenEvent::Finished(summary) => {
                ledger.add_cached(summary.cached_len);
                self.open_streams -= 1;
                if self.open_streams == 0 {
                    ledger.finish();
                }
            }
            TokenEvent::Failed(error) => {
                // Cancels the other prompts of the batch.
                self.streams.clear();
                ledger.fail(ApiError::from_request(error, ledger.retry_after));
            }
        }
    }

    fn token(
        &mut self,
        prompt: usize,
        index: u32,
        token: u32,
        logprobs: Option<Box<TokenLogprobs>>,
        ledger: &mut Ledger,
    ) {
        let number = prompt * self.n + index as usize;
        if ledger.is_finished(number) || self.nothing_wanted {
            // Drawn before the scheduler heard that a stop string had ended the choice.
            return;
        }
        ledger.tokens(number, 1);
        if let Some(logprobs) = &logprobs {
            ledger.logprob(number, logprobs.logprob);
        }
        let assembler = &mut self.assemblers[number];
        let mut update = Update::default();
        let stopped = assembler.push(token, logprobs, &mut update);
        ledger.set_reasoning_tokens(number, assembler.reasoning_tokens());
        if stopped {
            self.streams[prompt].finish_sequence(index);
            self.finish_choice(number, update, false, ledger);
        } else {
            ledger.update(number, update);
        }
    }

    /// Ends a choice, once. `cut`: not by the model or a stop string, but because there was no room for more.
    fn finish_choice(&mut self, number: usize, mut update: Update, cut: bool, ledger: &mut Ledger) {
        if ledger.is_finished(number) {
            return;
        }
        let assembler = &mut self.assemblers[number];
        assembler.finish(&mut update);
        let reason = if cut {
            FinishReason::Length
        } else {
            assembler.own_end()
        };
        assembler.report(&ledger.metrics);
        let stop_string = assembler.stop_string().map(str::to_owned);
        ledger.finish_choice(number, update, reason, stop_string);
    }
}
