//! One sequence: its tokens, what of them is computed, and where it stands.
//!
//! All length arithmetic lives here. Knows no other sequence and no policy.
//! Invariant: `computed_len < len` for a live sequence: the newest token is always still to be computed.

use std::ops::Range;
use std::sync::Arc;

use crate::constraint::ConstraintState;
use crate::drafter::Drafter;
use crate::kv_groups::SequenceKv;
use crate::request::{FinishReason, Handover, RequestId, SeqId, TokenId};

/// Prompt (shared by the request's sequences), then output.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) output: Vec<TokenId>,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.prompt.len() + self.output.len()
    }

    /// The token at a position below `len`.
    pub(crate) fn at(&self, position: usize) -> TokenId {
        match position.checked_sub(self.prompt.len()) {
            None => self.prompt[position],
            Some(index) => self.output[index],
        }
    }

    /// Appends the tokens at these positions to `to`.
    pub(crate) fn extend(&self, range: Range<usize>, to: &mut Vec<TokenId>) {
        let prompt_len = self.prompt.len();
        to.extend_from_slice(&self.prompt[range.start.min(prompt_len)..range.end.min(prompt_len)]);
        let output =
            range.start.max(prompt_len) - prompt_len..range.end.max(prompt_len) - prompt_len;
        to.extend_from_slice(&self.output[output]);
    }

    /// The tokens of the `index`-th full block.
    pub(crate) fn block(&self, index: usize, block_size: usize) -> Box<[TokenId]> {
        let mut tokens = Vec::with_capacity(block_size);
        self.extend(index * block_size..(index + 1) * block_size, &mut tokens);
        tokens.into_boxed_slice()
    }
}

/// Where a live sequence stands. An ended one is gone from the scheduler.
///
/// ```text
///              admit                       preempt, or no seat after the fork
/// Waiting ---------------> Running ---------------------------------------------> Waiting
/// Following -- the carrier computed the prompt --> Running
/// Following -- the carrier was ended by the caller --> takes the carrier's place and phase
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the queue; holds no blocks.
    Waiting,
    /// Has a seat and block tables.
    Running,
    /// Waits for a sibling (the carrier) to compute the prompt they share; holds no blocks, is in no queue.
    Following,
}

/// Who comes first: smaller is more important. A total order that never changes while a sequence lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Its request's.
    pub(crate) priority: i32,
    /// Order of arrival. Siblings are neighbours.
    pub(crate) seq: SeqId,
}

/// How much of a [`Handover`]'s bound a sequence has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) spent: usize,
    /// The output is inside a counted part.
    pub(crate) open: bool,
}

impl Counter {
    /// Takes the token that was just added to `output`. True if the bound is reached: the part must end now.
    pub(crate) fn push(&mut self, rule: &Handover, output: &[TokenId]) -> bool {
        let Some(token) = output.last() else {
            return false;
        };
        if !self.open {
            self.open = output.ends_with(&rule.opens);
        } else if rule.closes.contains(token) {
            self.open = false;
        } else {
            self.spent += 1;
        }
        self.open && self.spent >= rule.max_tokens
    }
}

/// What is to happen to a sequence that was ended while a step with it was being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doom {
    /// End it with this reason.
    Finish(FinishReason),
    /// Its request is already closed: free it silently.
    Discard,
}

/// One choice of one request.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: RequestId,
    pub(crate) rank: Rank,
    /// Which of the request's `n`.
    pub(crate) index: u32,
    pub(crate) tokens: Tokens,
    pub(crate) counter: Counter,
    pub(crate) constraint: Option<Arc<ConstraintState>>,
    pub(crate) phase: Phase,
    /// Empty unless running.
    pub(crate) kv: SequenceKv,
    /// Rows of this sequence in the step being executed, drafts included; 0 when it is not in it. Set by `next_plan`,
    /// cleared by `commit`.
    pub(crate) in_flight: usize,
    /// The last of these rows. Set and cleared together with it.
    pub(crate) drafts: Vec<TokenId>,
    /// Guesses them.
    pub(crate) drafter: Drafter,
    /// Set when it is ended while in flight; honoured at commit.
    pub(crate) doom: Option<Doom>,
}

impl Sequence {
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn output_len(&self) -> usize {
        self.tokens.output.len()
    }

    /// Tokens still to compute before the next one can be drawn: 1 for a decode, more for a prefill.
    pub(crate) fn remaining_len(&self) -> usize {
        self.len() - self.kv.computed_len
    }
}
