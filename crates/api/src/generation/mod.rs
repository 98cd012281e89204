//! One HTTP request's streams, read as updates of its choices.
//!
//! Streamed and whole answers are made from the same [`Event`]s, so they cannot differ. Where these come from is one of two
//! sources, tokens of our scheduler (`tokens.rs`) or text of another engine (`text.rs`); what is counted, charged and ended
//! is the ledger's (`ledger.rs`), whatever the source.
//! Knows tokens and text, not the wire. Invariants: dropping a [`Generation`] drops its streams, which cancels everything
//! below; each choice ends exactly once; after `Finished` or `Failed` nothing comes.

mod answer;
mod chat;
pub(crate) mod constraint;
mod job;
mod ledger;
pub(crate) mod logprobs;
mod raw;
mod text;
mod tokens;

use std::rc::Rc;

use gossamer_metrics::ApiMetrics;
use gossamer_scheduler::{PromptLogprobs, TokenLogprobs as RawLogprobs};

pub(crate) use chat::{ChatAssembler, Messages, SEPARATOR};
pub(crate) use job::Job;
pub(crate) use raw::RawAssembler;
pub(crate) use text::TextJob;

use ledger::Ledger;
use text::TextSource;
use tokens::TokenSource;

use crate::error::ApiError;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::validate::Generate;
use crate::wire::chat::{FinishReason, TokenLogprob};
use crate::wire::usage::Usage;

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

/// A request that an engine has not accepted yet, which takes a while: its client may go away.
struct Waiting(Option<ApiMetrics>);

impl Waiting {
    /// It has been answered.
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(metrics) = &self.0 {
            metrics.cancelled();
        }
    }
}

/// Where events come from.
enum Source {
    Tokens(TokenSource),
    Text(TextSource),
}

/// A request being answered.
pub(crate) struct Generation {
    source: Source,
    ledger: Ledger,
}

impl Generation {
    /// Hands all prompts to the scheduler: all of them, or none.
    pub fn submit(
        job: Job,
        state: &AppState,
        context: Rc<RequestContext>,
        assembler: impl Fn(&Generate) -> Box<dyn Assembler>,
    ) -> Result<Self, ApiError> {
        let prompt_tokens = job.prompts.iter().map(Vec::len).sum();
        let num_choices = job.prompts.len() * job.generate.n as usize;
        context.charge_prompt(prompt_tokens)?;
        let source = TokenSource::submit(job, state, assembler)
            .inspect_err(|_| context.refund_prompt(prompt_tokens))?;
        Ok(Self {
            source: Source::Tokens(source),
            ledger: Ledger::new(num_choices, prompt_tokens, state, context),
        })
    }

    /// Hands a conversation to an engine that takes text.
    pub async fn submit_text(
        job: TextJob,
        state: &AppState,
        context: Rc<RequestContext>,
    ) -> Result<Self, ApiError> {
        let waiting = Waiting(Some(state.metrics.api.clone()));
        let source = TextSource::submit(job, state).await;
        waiting.over();
        let source = source?;
        let prompt_tokens = source.prompt_tokens();
        // How many they are is known only now; an error drops the stream, which cancels the request.
        context.charge_prompt(prompt_tokens)?;
        Ok(Self {
            ledger: Ledger::new(source.num_choices(), prompt_tokens, state, context),
            source: Source::Text(source),
        })
    }

    /// How many choices there will be.
    pub fn num_choices(&self) -> usize {
        self.ledger.num_choices()
    }

    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> usize {
        self.ledger.total_usage().prompt_tokens
    }

    /// The request that is being answered.
    pub fn context(&self) -> &RequestContext {
        self.ledger.context()
    }

    /// The next event; `None` after the last. Cancel-safe: a dropped future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ledger.pop() {
                return Some(event);
            }
            if self.ledger.has_ended() {
                return None;
            }
            match &mut self.source {
                Source::Tokens(source) => source.advance(&mut self.ledger).await,
                Source::Text(source) => source.advance(&mut self.ledger).await,
            }
        }
    }

    /// Token counts so far.
    pub fn total_usage(&self) -> Usage {
        self.ledger.total_usage()
    }
}
