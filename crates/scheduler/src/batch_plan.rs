//! What one step runs: packed tokens, ragged sequences, block tables, which rows to sample.
//!
//! Built by the scheduler, read by the executor, given back at commit.
//! Invariant: `slices` tile `tokens` without gaps, in order.

use std::ops::Range;
use std::sync::Arc;

use crate::constraint::ConstraintState;
use crate::request::{SamplingParams, SeqId, TokenId};

/// A KV block id: an index into the engine's block pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Stands in a block table where a block was given back because it is behind the group's window. No block has
    /// this id, and nobody reads it.
    pub const BEHIND_WINDOW: Self = Self(u32::MAX);

    /// Whether there is a block.
    pub fn is_block(self) -> bool {
        self != Self::BEHIND_WINDOW
    }
}

/// One step.
#[derive(Clone, Debug, Default)]
pub struct BatchPlan {
    /// Copies to make before anything else (copy on write), in any order: no block is copied to twice, and none is
    /// both a source and a destination.
    pub copies: Vec<BlockCopy>,
    /// Packed token ids of all sequences, `num_tokens` long.
    pub tokens: Vec<TokenId>,
    /// The sequences, in the order in which their tokens are packed.
    pub slices: Vec<SeqSlice>,
}

/// Copy one whole block: all layers of the group that it belongs to, and the destination after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Source.
    pub src: BlockId,
    /// Destination.
    pub dst: BlockId,
}

/// The part of one sequence that this step computes.
///
/// ```text
/// positions   0 ............... context_len - query_len ............ context_len
///             | already in the KV cache | computed in this step     |
///                                        tokens[query_start .. query_start + query_len]
/// ```
#[derive(Clone, Debug)]
pub struct SeqSlice {
    /// Which sequence.
    pub seq: SeqId,
    /// First row in `BatchPlan::tokens`.
    pub query_start: usize,
    /// Rows: 1 for a decode and one more for each of its drafts, more for a chunk of prefill.
    pub query_len: usize,
    /// Tokens of the sequence, drafts included, whose keys and values are in the cache after this step.
    pub context_len: usize,
    /// How many of the rows, the last ones, are drafts: tokens that the sequence does not have and may draw next. Only of a
    /// decode, which has one sample then; what to draw is said at [`BatchPlan::drafts`].
    pub num_drafts: usize,
    /// One block table per KV group, with at least the blocks of `context_len` tokens, often with more (a prompt gets
    /// all blocks of the first group with its first chunk); slot of position `p` =
    /// `table[p / block_size] * block_size + p % block_size`. In a group with a window, entries before
    /// [`crate::KvGroup::first_block`] of the slice's first position are [`BlockId::BEHIND_WINDOW`].
    pub block_tables: Vec<Vec<BlockId>>,
    /// What to sample from the logits of the slice's last row, or of the last before its drafts. Empty for a chunk that
    /// does not complete the prompt; several when `n` sequences continue the same prompt.
    pub samples: Vec<SampleSpec>,
    /// Which of the slice's tokens are to be scored by what follows them.
    pub scores: Option<PromptScores>,
}

/// Tokens of the prompt whose probability is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptScores {
    /// Rows of the slice, counted from its first, that predict them.
    pub rows: Range<usize>,
    /// The tokens, one per row: each is the one that follows in the prompt.
    pub targets: Vec<TokenId>,
    /// How many of the likeliest tokens to report at each place.
    pub top: u8,
}

/// One token to draw.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// The sequence that receives the token.
    pub seq: SeqId,
    /// Index of the choice: selects the random stream together with the seed.
    pub choice: u32,
    /// Tokens generated so far: the counter of the random stream.
    pub output_len: usize,
    /// How to sample.
    pub params: Arc<SamplingParams>,
    /// Tokens that must not be drawn now (stop tokens before `min_tokens`), nor from the rows of drafts.
    pub banned: Option<Arc<[TokenId]>>,
    /// The sequence's tokens, when the penalties need them.
    pub history: Option<History>,
    /// What may be drawn.
    pub constraint: Option<Arc<ConstraintState>>,
}

/// A sequence's tokens so far, for penalties.
#[derive(Clone, Debug)]
pub struct History {
    /// Prompt, then output.
    pub tokens: Vec<TokenId>,
    /// Where the output starts.
    pub prompt_len: usize,
}

impl BatchPlan {
    /// Rows in the step.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The drafts of one of the slices.
    ///
    /// ```text
    /// rows       newest | draft 0 | draft 1 | draft 2        drawn: t0 and, while each t is the draft at its place,
    /// sampled      t0   |   t1    |   t2    |   t3                  the one behind it
    /// ```
    /// So 1 to `num_drafts + 1` tokens are drawn, one after the other: `t1` with an `output_len` of one more, with `t0` in
    /// the history and taken in by the constraint ([`ConstraintState::suppose`]), as if it were the next step.
    pub fn drafts(&self, slice: &SeqSlice) -> &[TokenId] {
        let end = slice.query_start + slice.query_len;
        &self.tokens[end - slice.num_drafts..end]
    }

    /// Every token to draw, drafts aside, in the order in which [`crate::StepOutput::samples`] answers.
    pub fn sample_specs(&self) -> impl Iterator<Item = &SampleSpec> {
        self.slices.iter().flat_map(|slice| &slice.samples)
    }

    /// How many tokens of prompts to score: as many as [`crate::StepOutput::scores`] has.
    pub fn num_scores(&self) -> usize {
        let scores = self.slices.iter().filter_map(|slice| slice.scores.as_ref());
        scores.map(|scores| scores.targets.len()).sum()
    }
}
