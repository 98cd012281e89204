//! Which drafts a step verifies, when the batch leaves room.
//!
//! A *draft* is a token that a sequence in decode is guessed to draw next. It is computed in the same step, as the row
//! behind the newest token's; where the token drawn from the row before turns out to be the draft, the token drawn from
//! its own row counts too. Random streams are by position, so what is drawn is what would have been drawn without:
//! drafts change when tokens come, and never which.
//!
//! They take what the plan has left: of the token budget after all decodes and chunks of prefill, and of the blocks those
//! that are free without preempting anybody. What a rejected draft had is given back at commit. How many are worth their
//! rows is decided by how often this sequence's guesses come true (`drafter.rs`) and by what a row costs (`step_cost.rs`).
//! Invariant: prefix cache, windows and lengths only ever see committed tokens.

use crate::planning::Share;
use crate::request::TokenId;
use crate::scheduler::Scheduler;

/// Most drafts of a sequence in a step.
const MAX_DRAFTS: usize = 15;

/// Drafts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Decodes that came with drafts.
    pub decodes: u64,
    /// Tokens drafted for them.
    pub drafted: u64,
    /// Of those, tokens that were drawn and taken.
    pub accepted: u64,
}

impl Scheduler {
    /// Adds drafts to the shares of decodes.
    pub(crate) fn add_drafts(&mut self, shares: &mut [Share]) {
        if !self.speculates {
            return;
        }
        let num_rows: usize = shares.iter().map(|&(_, share)| share).sum();
        let mut budget = self.max_num_batched_tokens - num_rows;
        let floor = self.step_cost.share_of_rows(num_rows);
        for (rank, share) in shares {
            let drafts = self.guess(*rank, floor, budget);
            let sequence = self.sequences.get_mut(&rank.seq).expect("running");
            // The newest token's place is its own by now, so nothing is copied.
            let has_blocks = !drafts.is_empty()
                && (self.kv).make_writable(&mut sequence.kv, 1 + drafts.len(), &mut Vec::new());
            if has_blocks {
                budget -= drafts.len();
                *share += drafts.len();
                sequence.drafts = drafts;
            }
        }
    }

    /// Drafts for one sequence; none unless it is in decode.
    fn guess(&mut self, rank: crate::sequence::Rank, floor: f32, budget: usize) -> Vec<TokenId> {
        let sequence = self.sequences.get_mut(&rank.seq).expect("running");
        let request = &self.requests[&sequence.request];
        let output_len = sequence.output_len();
        // Before the first token siblings may follow, and the logits belong to all of them.
        if !request.speculates || sequence.remaining_len() > 1 || output_len == 0 {
            return Vec::new();
        }
        // Also where there is no room: what would have come true is worth knowing.
        sequence.drafter.take_in(&sequence.tokens);
        let stop = &request.stop;
        // All rows draw with the same bans.
        let same_bans = match output_len < stop.min_tokens {
            true => stop.min_tokens - output_len - 1,
            false => usize::MAX,
        };
        // The last token of all is drawn, not drafted.
        let room = stop.max_tokens - output_len - 1;
        let most = budget.min(MAX_DRAFTS).min(same_bans).min(room);
        let mut drafts = sequence.drafter.guess(&sequence.tokens, floor, most);
        // Behind a stop token nothing is drawn.
        let end = |draft: &TokenId| stop.stop_token_ids.contains(draft);
        let len = drafts.iter().position(end).unwrap_or(drafts.len());
        drafts.truncate(len);
        drafts
    }
}
