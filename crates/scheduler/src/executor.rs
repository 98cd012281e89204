//! The seam below: what the scheduler needs from an engine. Owned here, implemented there.

use crate::batch_plan::BatchPlan;
use crate::constraint::{Bearing, Part};
use crate::request::{PromptLogprobs, TokenId, TokenLogprobs};

/// What an engine can hold; fixed from start to stop.
///
/// There is one pool of blocks for all groups: a block has room for the keys and values of the group with the most
/// layers, and belongs to the group that took it until it is given back. So nothing has to be split between groups
/// beforehand, whatever the lengths of the sequences that come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens per KV block.
    pub block_size: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: usize,
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Bytes of one block, keys and values of all layers of its group.
    pub block_bytes: usize,
    /// The KV groups, at least one. The first has no window: its blocks name the prefixes that are cached.
    pub groups: Vec<KvGroup>,
}

/// One KV group: layers that share block tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvGroup {
    /// How many tokens a query sees, its own included, at least 1; `None`: all.
    pub window: Option<usize>,
}

impl KvGroup {
    /// Index of the first block that a query at `position` reads: those before it are behind the window.
    ///
    /// ```text
    /// blocks     |   0   |   1   |   2   |   3   |
    /// window               [sees ........ p]          first_block(p) = 1
    /// ```
    pub fn first_block(&self, position: usize, block_size: usize) -> usize {
        self.window.map_or(0, |window| {
            (position + 1).saturating_sub(window) / block_size
        })
    }

    /// Most blocks of this group that a sequence of `len` tokens holds at once when it is computed in chunks of at
    /// most `chunk` tokens: those that the first query of a chunk sees, and those that the chunk writes.
    pub fn max_held(&self, len: usize, chunk: usize, block_size: usize) -> usize {
        let all = len.div_ceil(block_size);
        let Some(window) = self.window else {
            return all;
        };
        // A run of tokens may begin at the last slot of a block.
        let run = (window - 1).saturating_add(chunk.min(len));
        all.min(run.saturating_sub(1).div_ceil(block_size) + 1)
    }
}

impl Capacity {
    /// Most blocks, of all groups together, that a sequence of `len` tokens holds at once when it is computed in
    /// chunks of at most `chunk` tokens. With 1 for `chunk`: what it holds while it decodes.
    pub fn blocks_held(&self, len: usize, chunk: usize) -> usize {
        let held = |group: &KvGroup| group.max_held(len, chunk, self.block_size);
        self.groups.iter().map(held).sum()
    }

    /// The longest sequence that the pool holds when it is computed in chunks of at most `chunk` tokens.
    pub fn longest_sequence(&self, chunk: usize) -> usize {
        let (mut fits, mut too_many) = (0, self.num_blocks + 1);
        while too_many - fits > 1 {
            let blocks = fits.midpoint(too_many);
            match self.blocks_held(blocks * self.block_size, chunk) <= self.num_blocks {
                true => fits = blocks,
                false => too_many = blocks,
            }
        }
        fits.saturating_mul(self.block_size)
    }
}

/// Runs steps. Called from one thread; a step's effects are complete when `execute` returns.
pub trait Executor: Send {
    /// What the engine can hold.
    fn capacity(&self) -> Capacity;

    /// Whether what a row gives does not depend on the other rows of the step. Only then can drafts be verified without
    /// changing what is drawn; without, no plan has any.
    fn verifies_drafts(&self) -> bool {
        false
    }

    /// Runs one step: block copies, forward pass with the KV writes, sampling.
    ///
    /// # Errors
    /// The step had no usable result. The scheduler fails the requests of the plan and goes on, unless the error is fatal.
    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError>;
}

/// The answer to a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// One per [`BatchPlan::sample_specs`], in that order. Where the slice has drafts, as many as follow from
    /// [`BatchPlan::drafts`]: one more behind each that is the draft at its place, and none behind a dead end.
    pub samples: Vec<SampledToken>,
    /// One per target of [`crate::PromptScores`], slice by slice.
    pub scores: Vec<PromptLogprobs>,
}

/// One drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub token: TokenId,
    /// Present when the spec's parameters ask for it.
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// Where the sequence is constrained: in what, and what that meant for this token.
    pub constrained: Option<(Part, Bearing)>,
}

impl SampledToken {
    /// Whether nothing was allowed: there is no token, and the sequence ends.
    pub fn is_dead_end(&self) -> bool {
        matches!(self.constrained, Some((_, Bearing::DeadEnd)))
    }
}

/// A step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The step failed; the next one may succeed.
    #[error("{0}")]
    Step(String),
    /// The step failed because the device did. The next one may succeed, but until one does the engine is not ready.
    #[error("the device failed: {0}")]
    Device(String),
    /// The engine is unusable; the process should stop accepting work.
    #[error("fatal: {0}")]
    Fatal(String),
}
