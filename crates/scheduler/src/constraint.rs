//! What a sequence may say next: the seam between who knows the rule and who draws the token.
//!
//! Owns the trait, and the state that a sequence carries ([`ConstraintState`]). Knows no rule: which tokens are allowed
//! is decided above, how one is drawn below.
//! Invariant: a constraint sees every token of its sequence's output once, in order, however often the sequence is
//! preempted and computed again, and whether a token was drawn or put in by a [`crate::Handover`].

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::request::TokenId;

/// A rule for the output of a request; makes one [`TokenConstraint`] for each of its sequences.
pub trait ConstraintSource: Send + Sync + fmt::Debug {
    /// The rule at the beginning of an output. Called by the engine's threads.
    fn start(&self) -> Box<dyn TokenConstraint>;
}

/// A rule for one sequence, and how far the sequence has come.
///
/// [`TokenConstraint::allows`] and [`TokenConstraint::allowed`] must agree: a sampler asks whichever is cheaper.
pub trait TokenConstraint: Send {
    /// What the sequence is about to write.
    fn part(&self) -> Part;
    /// Whether `token` may come next. Cheap: it is asked for nearly every token.
    fn allows(&mut self, token: TokenId) -> bool;
    /// All tokens that may come next. Asked where a drawn token was refused.
    fn allowed(&mut self) -> Allowed<'_>;
    /// The output grew by this token, allowed or not.
    fn advance(&mut self, token: TokenId);
}

/// What a sequence is about to write, as far as it matters who restrains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Anything.
    Free,
    /// Free text, of which only the control tokens are restrained.
    Text,
    /// A message header.
    Header,
    /// Text that follows a grammar.
    Body,
}

impl Part {
    /// The part as a metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Free => "free",
            Part::Text => "text",
            Part::Header => "header",
            Part::Body => "body",
        }
    }
}

/// Tokens that may come next.
#[derive(Clone, Copy, Debug)]
pub enum Allowed<'a> {
    /// All.
    Everything,
    /// All but these few, ascending and distinct.
    AllBut(&'a [TokenId]),
    /// These few, ascending and distinct; perhaps none.
    Only(&'a [TokenId]),
    /// Those whose bit is set, one bit per token from the lowest of the first word; tokens beyond the end are not allowed.
    Mask(&'a [u32]),
}

impl Allowed<'_> {
    /// Whether `token` is among them.
    pub fn contains(&self, token: TokenId) -> bool {
        match self {
            Self::Everything => true,
            Self::AllBut(refused) => refused.binary_search(&token).is_err(),
            Self::Only(tokens) => tokens.binary_search(&token).is_ok(),
            Self::Mask(words) => words
                .get(token as usize / 32)
                .is_some_and(|word| word >> (token % 32) & 1 == 1),
        }
    }
}

/// How a constraint bore on a drawn token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bearing {
    /// The model drew an allowed token by itself.
    Kept,
    /// Refused tokens were taken out of the distribution.
    Masked,
    /// No token was allowed: the sequence ends.
    DeadEnd,
}

impl Bearing {
    /// The way as a metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Bearing::Kept => "kept",
            Bearing::Masked => "masked",
            Bearing::DeadEnd => "dead_end",
        }
    }
}

/// A sequence's constraint. The scheduler notes tokens, which costs nothing; the constraint takes them in when it is asked
/// next, on a thread of the engine, where many sequences do that at the same time.
///
/// The lock is never contended: scheduler and engine take turns.
pub struct ConstraintState(Mutex<Inner>);

enum Inner {
    /// Nothing was asked yet.
    Fresh(Arc<dyn ConstraintSource>, Vec<TokenId>),
    /// With the tokens that it has not taken in yet.
    Live(Box<dyn TokenConstraint>, Vec<TokenId>),
    /// Nothing is allowed any more.
    Dead,
}

impl ConstraintState {
    /// The state of a sequence without output.
    pub fn new(source: Arc<dyn ConstraintSource>) -> Self {
        Self(Mutex::new(Inner::Fresh(source, Vec::new())))
    }

    /// The output grew by this token.
    pub(crate) fn note(&self, token: TokenId) {
        if let Ok(mut inner) = self.0.lock() {
            match &mut *inner {
                Inner::Fresh(_, tokens) | Inner::Live(_, tokens) => tokens.push(token),
                Inner::Dead => {}
            }
        }
    }

    /// Asks the constraint, which knows the whole output by then. `None` once nothing is allowed any more.
    pub fn ask<R>(&self, question: impl FnOnce(&mut dyn TokenConstraint) -> R) -> Option<R> {
        // A poisoned lock: the constraint panicked, and its state is anything.
        let mut inner = self.0.lock().ok()?;
        if let Inner::Fresh(source, tokens) = &mut *inner {
            *inner = Inner::Live(source.start(), std::mem::take(tokens));
        }
        match &mut *inner {
            Inner::Live(constraint, tokens) => {
                for token in tokens.drain(..) {
                    constraint.advance(token);
                }
                Some(question(constraint.as_mut()))
            }
            Inner::Fresh(..) | Inner::Dead => None,
        }
    }

    /// Nothing is allowed: the sequence ends when the step is committed, and the token drawn for it does not count.
    pub fn give_up(&self) {
        if let Ok(mut inner) = self.0.lock() {
            *inner = Inner::Dead;
        }
    }

    /// Whether nothing is allowed any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.0
            .lock()
            .map_or(true, |inner| matches!(*inner, Inner::Dead))
    }
}

impl fmt::Debug for ConstraintState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConstraintState")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it saw; allows nothing but that.
    struct Seen(Vec<TokenId>);

    impl TokenConstraint for Seen {
        fn part(&self) -> Part {
            Part::Text
        }
        fn allows(&mut self, token: TokenId) -> bool {
            self.0.contains(&token)
        }
        fn allowed(&mut self) -> Allowed<'_> {
            Allowed::Only(&self.0)
        }
        fn advance(&mut self, token: TokenId) {
            self.0.push(token);
        }
    }

    #[derive(Debug)]
    struct Source;

    impl ConstraintSource for Source {
        fn start(&self) -> Box<dyn TokenConstraint> {
            Box::new(Seen(Vec::new()))
        }
    }

    #[test]
    fn what_was_noted_is_known_when_asked_and_known_once() {
        let state = ConstraintState::new(Arc::new(Source));
        state.note(1);
        state.note(2);
        for _ in 0..2 {
            let known = state.ask(|constraint| match constraint.allowed() {
                Allowed::Only(tokens) => tokens.to_vec(),
                _ => Vec::new(),
            });
            assert_eq!(known, Some(vec![1, 2]));
        }
        state.note(3);
        assert_eq!(state.ask(|constraint| constraint.allows(3)), Some(true));
        assert!(!state.is_dead());
        state.give_up();
        state.note(4);
        assert!(state.is_dead());
        assert_eq!(state.ask(|constraint| constraint.allows(3)), None);
    }

    #[test]
    fn every_form_of_a_set_says_the_same() {
        let tokens = [0, 5, 31, 32, 63];
        let others: Vec<TokenId> = (0..70).filter(|token| !tokens.contains(token)).collect();
        let mut words = [0u32; 2];
        for token in tokens {
            words[token as usize / 32] |= 1 << (token % 32);
        }
        for token in 0..70 {
            let expected = tokens.contains(&token);
            assert_eq!(Allowed::Only(&tokens).contains(token), expected);
            assert_eq!(Allowed::AllBut(&others).contains(token), expected);
            assert_eq!(Allowed::Mask(&words).contains(token), expected, "{token}");
            assert!(Allowed::Everything.contains(token));
        }
    }
}
