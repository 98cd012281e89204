//! One HTTP request's token streams, read as updates of its choices.
//!
//! Streamed and whole answers are made from the same [`Event`]s, so they cannot differ.
//! Knows tokens and text, not the wire. Invariants: dropping a [`Generation`] drops its `TokenStream`s, which cancels
//! everything in the scheduler; each choice ends exactly once; after `Finished` or `Failed` nothing comes.

mod answer;
mod chat;
pub(crate) mod constraint;
mod job;
pub(crate) mod logprobs;
mod raw;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use gossamer_metrics::ApiMetrics;
use gossamer_scheduler::{PromptLogprobs, TokenEvent, TokenLogprobs as RawLogprobs, TokenStream};

pub(crate) use chat::{ChatAssembler, Messages, SEPARATOR};
pub(crate) use job::Job;
pub(crate) use raw::RawAssembler;

use crate::error::ApiError;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::validate::Generate;
use crate::wire::chat::{FinishReason, TokenLogprob};
use crate::wire::usage::{CompletionTokensDetails, PromptTokensDetails, Usage};

/// What a message of the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Hidden reasoning.
    Reasoning,
    /// Said to the user on the way to a call.
    Preamble,
    /// The answer.
    Answer,
}

/// A piece of text of one choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Another message begins: what follows is its text. Only where messages are kept apart.
    Begin(Speech),
    /// More reasoning.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A call was opened; calls are numbered from 0.
    ToolCall {
        /// Number of the call in its message.
        index: usize,
        /// `call_...`
        id: String,
        /// Name of the function.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call.
        index: usize,
        /// To append.
        text: String,
    },
}

/// What is new in one choice.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Text, in order.
    pub pieces: Vec<Piece>,
    /// Log-probabilities of content that is now out.
    pub logprobs: Vec<TokenLogprob>,
}

impl Update {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.logprobs.is_empty()
    }
}

/// Turns one choice's tokens into text.
pub(crate) trait Assembler {
    /// Takes a token. True if a stop string ended the choice with it.
    fn push(&mut self, token: u32, logprobs: Option<Box<RawLogprobs>>, update: &mut Update)
    -> bool;
    /// The choice ended; what was held back comes out, unless a stop string ended it.
    fn finish(&mut self, update: &mut Update);
    /// The reason to tell the client when the model ended the choice itself.
    fn own_end(&self) -> FinishReason;
    /// The stop string that ended the choice, if one did.
    fn stop_string(&self) -> Option<&str>;
    /// Tokens spent on reasoning.
    fn reasoning_tokens(&self) -> usize;
    /// Reports what had to be repaired.
    fn report(&self, metrics: &ApiMetrics);
}

/// What happens to a request.
#[derive(Debug)]
pub(crate) enum Event {
    /// More of what was asked about a prompt's tokens, from the second on; all of it before the first `Update`.
    Prompt {
        prompt: usize,
        scored: Vec<PromptLogprobs>,
    },
    /// A choice grew.
    Update { choice: usize, update: Update },
    /// A choice ended, with its last text.
    ChoiceFinished {
        choice: usize,
        update: Update,
        reason: FinishReason,
        /// The stop string that ended it, if one did.
        stop_string: Option<String>,
        /// Mean log-probability of its tokens, where known.
        mean_logprob: f64,
    },
    /// All choices ended.
    Finished(Usage),
    /// The request failed.
    Failed(ApiError),
}

struct Choice {
    assembler: Box<dyn Assembler>,
    tokens: usize,
    /// Of the tokens whose log-probability is known.
    logprob_sum: f64,
    num_logprobs: usize,
    last_token: Option<Instant>,
    finished: bool,
}

/// A request being answered.
pub(crate) struct Generation {
    /// One per prompt.
    streams: Vec<TokenStream>,
    /// `n` per prompt: those of the first prompt, then those of the second.
    choices: Vec<Choice>,
    n: usize,
    /// Nothing was to be generated: what the scheduler drew, because it always draws, does not count.
    nothing_wanted: bool,
    open_streams: usize,
    /// Where polling starts, so that no prompt of a batch waits for another.
    next_stream: usize,
    /// Events made together with one that was already handed out.
    ready: VecDeque<Event>,
    usage: Usage,
    ended: bool,
    had_token: bool,
    retry_after: Duration,
    metrics: ApiMetrics,
    context: Rc<RequestContext>,
}

impl Generation {
    /// Hands all prompts to the scheduler: all of them, or none.
    pub fn submit(
        job: Job,
        state: &AppState,
        context: Rc<RequestContext>,
        assembler: impl Fn(&Generate) -> Box<dyn Assembler>,
    ) -> Result<Self, ApiError> {
        let generate = &job.generate;
        let (n, nothing_wanted) = (generate.n as usize, generate.max_tokens == Some(0));
        let choices = (0..job.prompts.len() * n)
            .map(|_| Choice {
                assembler: assembler(generate),
                tokens: 0,
                logprob_sum: 0.0,
                num_logprobs: 0,
                last_token: None,
                finished: false,
            })
            .collect();
        let prompt_tokens = job.prompts.iter().map(Vec::len).sum();
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        context.charge_prompt(prompt_tokens)?;
        let streams = job
            .submit(state)
            .inspect_err(|_| context.refund_prompt(prompt_tokens))?;
        Ok(Self {
            open_streams: streams.len(),
            streams,
            choices,
            n,
            nothing_wanted,
            next_stream: 0,
            ready: VecDeque::new(),
            usage,
            ended: false,
            had_token: false,
            retry_after: state.config.retry_after,
            metrics: state.metrics.api.clone(),
            context,
        })
    }

    /// How many choices there will be.
    pub fn num_choices(&self) -> usize {
        self.choices.len()
    }

    /// The request that is being answered.
    pub fn context(&self) -> &RequestContext {
        &self.context
    }

    /// The next event; `None` after the last. Cancel-safe: a dropped future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let (prompt, event) = poll_fn(|cx| self.poll_streams(cx)).await;
            self.digest(prompt, event);
        }
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

    fn digest(&mut self, prompt: usize, event: TokenEvent) {
        match event {
            TokenEvent::Prompt(scored) => self.ready.push_back(Event::Prompt { prompt, scored }),
            TokenEvent::Token {
                index,
                token,
                logprobs,
            } => self.token(prompt, index, token, logprobs),
            TokenEvent::SequenceFinished { index, reason } => {
                let choice = prompt * self.n + index as usize;
                use gossamer_scheduler::FinishReason as Ended;
                let cut = matches!(reason, Ended::Length | Ended::DeadEnd) || self.nothing_wanted;
                self.finish_choice(choice, Update::default(), cut);
            }
            TokenEvent::Finished(summary) => {
                self.usage.prompt_tokens_details = PromptTokensDetails {
                    cached_tokens: self.usage.prompt_tokens_details.cached_tokens
                        + summary.cached_len,
                };
                self.open_streams -= 1;
                if self.open_streams == 0 {
                    self.end(Event::Finished(self.total_usage()));
                }
            }
            TokenEvent::Failed(error) => {
                // Cancels the other prompts of the batch.
                self.streams.clear();
                self.end(Event::Failed(ApiError::from_request(
                    error,
                    self.retry_after,
                )));
            }
        }
    }

    fn token(&mut self, prompt: usize, index: u32, token: u32, logprobs: Option<Box<RawLogprobs>>) {
        let number = prompt * self.n + index as usize;
        let choice = &mut self.choices[number];
        if choice.finished || self.nothing_wanted {
            // Drawn before the scheduler heard that a stop string had ended the choice.
            return;
        }
        let now = Instant::now();
        if !std::mem::replace(&mut self.had_token, true) {
            self.metrics.first_token(now - self.context.arrived);
        }
        if let Some(last) = choice.last_token.replace(now) {
            self.metrics.inter_token(now - last);
        }
        choice.tokens += 1;
        if let Some(logprobs) = &logprobs {
            choice.logprob_sum += f64::from(logprobs.logprob);
            choice.num_logprobs += 1;
        }
        self.context.charge_generated(1);
        let mut update = Update::default();
        if choice.assembler.push(token, logprobs, &mut update) {
            self.streams[prompt].finish_sequence(index);
            self.finish_choice(number, update, false);
        } else if !update.is_empty() {
            self.ready.push_back(Event::Update {
                choice: number,
                update,
            });
        }
    }

    /// Ends a choice, once. `cut`: not by the model or a stop string, but because there was no room for more.
    fn finish_choice(&mut self, number: usize, mut update: Update, cut: bool) {
        let choice = &mut self.choices[number];
        if std::mem::replace(&mut choice.finished, true) {
            return;
        }
        choice.assembler.finish(&mut update);
        let reason = if cut {
            FinishReason::Length
        } else {
            choice.assembler.own_end()
        };
        choice.assembler.report(&self.metrics);
        self.metrics.choice_finished(reason.as_str());
        self.ready.push_back(Event::ChoiceFinished {
            choice: number,
            update,
            reason,
            stop_string: choice.assembler.stop_string().map(str::to_owned),
            mean_logprob: choice.logprob_sum / choice.num_logprobs.max(1) as f64,
        });
    }

    fn end(&mut self, event: Event) {
        self.ended = true;
        self.context.note_usage(self.total_usage());
        self.ready.push_back(event);
    }

    /// Token counts so far.
    pub fn total_usage(&self) -> Usage {
        let completion_tokens = self.choices.iter().map(|choice| choice.tokens).sum();
        let reasoning_tokens = self
            .choices
            .iter()
            .map(|choice| choice.assembler.reasoning_tokens())
            .sum();
        Usage {
            completion_tokens,
            total_tokens: self.usage.prompt_tokens + completion_tokens,
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens },
            ..self.usage
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.context.note_usage(self.total_usage());
            self.metrics.cancelled();
        }
    }
}
