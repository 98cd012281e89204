//! What a sequence may say next: the seam between who knows the rule and who draws the token.
//!
//! Owns the trait, and the state that a sequence carries ([`ConstraintState`]). Knows no rule: which tokens are allowed
//! is decided above, how one is drawn below.
//! Invariant: when it is asked, a constraint has seen the tokens of its sequence's output, each once and in order, however
//! often the sequence is preempted and computed again, and whether a token was drawn, drafted or put in by a
//! [`crate::Handover`]; and nothing else but what the question supposes.

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
pub struct ConstraintState {
    source: Arc<dyn ConstraintSource>,
    inner: Mutex<Inner>,
}

/// ```text
/// output   known ............... | new ........ | supposed
/// taken in by the constraint:    | ahead
/// ```
#[derive(Default)]
struct Inner {
    /// `None`: nothing was asked yet.
    constraint: Option<Box<dyn TokenConstraint>>,
    /// What was noted.
    output: Vec<TokenId>,
    /// Tokens that may follow the output: what the next question supposes.
    supposed: Vec<TokenId>,
    /// How many tokens of the output the constraint has taken in.
    known: usize,
    /// What it has taken in behind them: supposed then, perhaps in the output by now.
    ahead: Vec<TokenId>,
}

impl ConstraintState {
    /// The state of a sequence without output.
    pub fn new(source: Arc<dyn ConstraintSource>) -> Self {
        let inner = Mutex::default();
        Self { source, inner }
    }

    /// The output grew by this token.
    pub(crate) fn note(&self, token: TokenId) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.output.push(token);
            inner.supposed.clear();
        }
    }

    /// Until the output grows, questions are about what may follow it and these tokens: drafts that were drawn, of which
    /// the scheduler will decide whether they count.
    pub fn suppose(&self, tokens: &[TokenId]) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.supposed.clear();
            inner.supposed.extend_from_slice(tokens);
        }
    }

    /// Asks the constraint, which knows the whole output by then, and what is supposed. `None` if it has panicked before.
    pub fn ask<R>(&self, question: impl FnOnce(&mut dyn TokenConstraint) -> R) -> Option<R> {
        // A poisoned lock: the constraint panicked, and its state is anything.
        let mut inner = self.inner.lock().ok()?;
        let Inner {
            constraint,
            output,
            supposed,
            known,
            ahead,
        } = &mut *inner;
        let came = |known: usize| output[known..].iter().chain(supposed.iter()).copied();
        // A constraint cannot go back: where it has taken in what did not come it starts again.
        if !came(*known).take(ahead.len()).eq(ahead.iter().copied()) {
            (*constraint, *known) = (None, 0);
            ahead.clear();
        }
        let constraint = constraint.get_or_insert_with(|| self.source.start());
        for token in came(*known).skip(ahead.len()) {
            constraint.advance(token);
        }
        *known = output.len();
        ahead.clone_from(supposed);
        Some(question(constraint.as_mut()))
    }
}

impl fmt::Debug for ConstraintState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConstraintState")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

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

    /// Counts its constraints.
    #[derive(Debug)]
    struct Source(Arc<AtomicUsize>);

    impl ConstraintSource for Source {
        fn start(&self) -> Box<dyn TokenConstraint> {
            self.0.fetch_add(1, SeqCst);
            Box::new(Seen(Vec::new()))
        }
    }

    fn known(state: &ConstraintState) -> Option<Vec<TokenId>> {
        state.ask(|constraint| match constraint.allowed() {
            Allowed::Only(tokens) => tokens.to_vec(),
            _ => Vec::new(),
        })
    }

    #[test]
    fn what_was_noted_is_known_when_asked_and_known_once() {
        let state = ConstraintState::new(Arc::new(Source(Arc::default())));
        state.note(1);
        state.note(2);
        for _ in 0..2 {
            assert_eq!(known(&state), Some(vec![1, 2]));
        }
        state.note(3);
        assert_eq!(state.ask(|constraint| constraint.allows(3)), Some(true));
    }

    #[test]
    fn what_is_supposed_is_known_until_something_else_comes() {
        let starts = Arc::new(AtomicUsize::new(0));
        let state = ConstraintState::new(Arc::new(Source(Arc::clone(&starts))));
        let check = |expected: &[TokenId], num_starts| {
            assert_eq!(known(&state).as_deref(), Some(expected));
            assert_eq!(starts.load(SeqCst), num_starts, "{expected:?}");
        };
        state.note(1);
        check(&[1], 1);
        state.suppose(&[2]);
        check(&[1, 2], 1);
        state.suppose(&[2, 3]);
        check(&[1, 2, 3], 1);
        // It comes true, and one more.
        for token in [2, 3, 4] {
            state.note(token);
        }
        check(&[1, 2, 3, 4], 1);
        // A part of it comes, then something else.
        state.suppose(&[5, 6]);
        check(&[1, 2, 3, 4, 5, 6], 1);
        state.note(5);
        state.note(7);
        check(&[1, 2, 3, 4, 5, 7], 2);
        // Something else is supposed, then nothing.
        state.suppose(&[8]);
        check(&[1, 2, 3, 4, 5, 7, 8], 2);
        state.suppose(&[9]);
        check(&[1, 2, 3, 4, 5, 7, 9], 3);
        state.suppose(&[]);
        check(&[1, 2, 3, 4, 5, 7], 4);
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
