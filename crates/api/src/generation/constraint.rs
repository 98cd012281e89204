//! What the model may say, between harmony, which knows, and the scheduler, which asks.
//!
//! Compiles what a request wants its output held to, and lends a turn's guard the scheduler's trait. Waiting for a
//! compilation takes milliseconds: only on a thread of the blocking pool (`routes/body.rs`).

use std::sync::Arc;
use std::time::Instant;

use gossamer_harmony::{
    Callable, Compiled, Grammar, Next, TurnGuard, TurnRules, TurnWishes, Writing,
};
use gossamer_scheduler::{Allowed, ConstraintSource, Part, TokenConstraint};

use crate::error::ApiError;
use crate::state::AppState;
use crate::validate::fields::invalid;
use crate::validate::outputs::{Held, Outputs};

/// The rules of a request's turns; `None` if anything goes.
pub(crate) fn rules(
    outputs: Outputs,
    state: &AppState,
) -> Result<Option<Arc<TurnRules>>, ApiError> {
    let compile = |held: &Held| compile(held, state);
    let json_answer = outputs.answer.as_ref().is_some_and(Held::is_json);
    let mut functions = Vec::with_capacity(outputs.functions.len());
    for (name, held) in outputs.functions {
        let arguments = held.as_ref().map(compile).transpose()?;
        functions.push(Callable { name, arguments });
    }
    let rules = TurnRules::new(TurnWishes {
        functions,
        must_call: outputs.must_call,
        answer: outputs.answer.as_ref().map(compile).transpose()?,
        json_answer,
        headers: outputs.headers,
    });
    Ok(rules.is_any().then(|| Arc::new(rules)))
}

/// Says what is wrong with a grammar, if anything is.
pub(crate) fn check(held: &Held, state: &AppState) -> Result<(), ApiError> {
    compile(held, state).map(|_| ())
}

fn compile(held: &Held, state: &AppState) -> Result<Arc<Grammar>, ApiError> {
    let started = Instant::now();
    let result = state.grammars.get(&held.source);
    let took = match &result {
        Ok((_, Compiled::Cached)) => None,
        _ => Some(started.elapsed()),
    };
    state.metrics.api.grammar(took);
    match result {
        Ok((grammar, _)) => Ok(grammar),
        Err(error) => Err(invalid(&held.param, format!("cannot be enforced: {error}"))),
    }
}

/// A turn's rules, as the scheduler knows them.
#[derive(Debug)]
pub(super) struct Source(Arc<TurnRules>);

impl Source {
    /// For the sequences of a request.
    pub fn shared(rules: Arc<TurnRules>) -> Arc<dyn ConstraintSource> {
        Arc::new(Self(rules))
    }
}

impl ConstraintSource for Source {
    fn start(&self) -> Box<dyn TokenConstraint> {
        Box::new(Guarded(TurnGuard::new(Arc::clone(&self.0))))
    }
}

struct Guarded(TurnGuard);

impl TokenConstraint for Guarded {
    fn part(&self) -> Part {
        match self.0.writing() {
            Writing::Anything => Part::Free,
            Writing::Header => Part::Header,
            Writing::Text => Part::Text,
            Writing::Grammar => Part::Body,
        }
    }

    fn allows(&mut self, token: u32) -> bool {
        self.0.allows(token)
    }

    fn allowed(&mut self) -> Allowed<'_> {
        match self.0.allowed() {
            Next::Anything => Allowed::Everything,
            Next::AllBut(tokens) => Allowed::AllBut(tokens),
            Next::Only(tokens) => Allowed::Only(tokens),
            Next::Mask(words) => Allowed::Mask(words),
        }
    }

    fn advance(&mut self, token: u32) {
        self.0.advance(token);
    }
}
