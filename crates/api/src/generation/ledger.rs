//! What a request has cost and how it ended, whatever answers it: token counts, waiting times, charges, terminal events.
//!
//! Knows neither tokens nor text. Invariants: each choice ends exactly once; after the terminal event nothing is counted;
//! a ledger that is dropped before that counts as cancelled.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gossamer_metrics::ApiMetrics;

use super::{Event, Update};
use crate::error::ApiError;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::wire::chat::FinishReason;
use crate::wire::usage::{CompletionTokensDetails, Usage};

#[derive(Clone, Default)]
struct Choice {
    tokens: usize,
    reasoning_tokens: usize,
    /// Of the tokens whose log-probability is known.
    logprob_sum: f64,
    num_logprobs: usize,
    last_token: Option<Instant>,
    finished: bool,
}

/// See the file's header.
pub(super) struct Ledger {
    choices: Vec<Choice>,
    /// Events made together with one that was already handed out.
    ready: VecDeque<Event>,
    usage: Usage,
    ended: bool,
    had_token: bool,
    pub retry_after: Duration,
    pub metrics: ApiMetrics,
    context: Rc<RequestContext>,
}

impl Ledger {
    /// Of a request that was accepted.
    pub fn new(
        num_choices: usize,
        prompt_tokens: usize,
        state: &AppState,
        context: Rc<RequestContext>,
    ) -> Self {
        Self {
            choices: vec![Choice::default(); num_choices],
            ready: VecDeque::new(),
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
            ended: false,
            had_token: false,
            retry_after: state.config.retry_after,
            metrics: state.metrics.api.clone(),
            context,
        }
    }

    pub fn num_choices(&self) -> usize {
        self.choices.len()
    }

    pub fn context(&self) -> &RequestContext {
        &self.context
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing more of a choice counts.
    pub fn is_finished(&self, choice: usize) -> bool {
        self.choices[choice].finished
    }

    /// Tokens that were found in the prefix cache.
    pub fn add_cached(&mut self, tokens: usize) {
        self.usage.prompt_tokens_details.cached_tokens += tokens;
    }

    /// New tokens of a choice that has not ended, at least one, that came at the same time.
    pub fn tokens(&mut self, choice: usize, count: usize) {
        let choice = &mut self.choices[choice];
        let now = Instant::now();
        if !std::mem::replace(&mut self.had_token, true) {
            self.metrics.first_token(now - self.context.arrived);
        }
        if let Some(last) = choice.last_token.replace(now) {
            self.metrics.inter_token(now - last);
        }
        choice.tokens += count;
        self.context.charge_generated(count);
    }

    /// How likely a token was.
    pub fn logprob(&mut self, choice: usize, logprob: f32) {
        let choice = &mut self.choices[choice];
        choice.logprob_sum += f64::from(logprob);
        choice.num_logprobs += 1;
    }

    /// Tokens of a choice that were reasoning, so far.
    pub fn set_reasoning_tokens(&mut self, choice: usize, count: usize) {
        self.choices[choice].reasoning_tokens = count;
    }

    /// Hands out an event that ends nothing.
    pub fn push(&mut self, event: Event) {
        self.ready.push_back(event);
    }

    /// A choice has new text, perhaps none.
    pub fn update(&mut self, choice: usize, update: Update) {
        if !update.is_empty() {
            self.ready.push_back(Event::Update { choice, update });
        }
    }

    /// Ends a choice that has not ended yet.
    pub fn finish_choice(
        &mut self,
        number: usize,
        update: Update,
        reason: FinishReason,
        stop_string: Option<String>,
    ) {
        let choice = &mut self.choices[number];
        debug_assert!(!choice.finished, "a choice ends once");
        choice.finished = true;
        self.metrics.choice_finished(reason.as_str());
        self.ready.push_back(Event::ChoiceFinished {
            choice: number,
            update,
            reason,
            stop_string,
            mean_logprob: choice.logprob_sum / choice.num_logprobs.max(1) as f64,
        });
    }

    /// All choices ended.
    pub fn finish(&mut self) {
        self.end(Event::Finished(self.total_usage()));
    }

    /// The request failed.
    pub fn fail(&mut self, error: ApiError) {
        self.end(Event::Failed(error));
    }

    fn end(&mut self, event: Event) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.context.note_usage(self.total_usage());
        self.ready.push_back(event);
    }

    /// Token counts so far.
    pub fn total_usage(&self) -> Usage {
        let sum = |of: fn(&Choice) -> usize| self.choices.iter().map(of).sum::<usize>();
        let completion_tokens = sum(|choice| choice.tokens);
        Usage {
            completion_tokens,
            total_tokens: self.usage.prompt_tokens + completion_tokens,
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens: sum(|choice| choice.reasoning_tokens),
            },
            ..self.usage
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !self.ended {
            self.context.note_usage(self.total_usage());
            self.metrics.cancelled();
        }
    }
}
