//! The seam below: what the scheduler needs from an engine. Owned here, implemented there.

use crate::batch_plan::BatchPlan;
use crate::constraint::{Bearing, Part};
use crate::request::{PromptLogprobs, TokenId, TokenLogprobs};

/// What an engine can hold; fixed from start to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens per KV block.
    pub block_size: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: usize,
    /// Blocks of each KV group. One group today: all layers.
    pub groups: Vec<GroupCapacity>,
}

/// One KV group: layers that share block tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupCapacity {
    /// Blocks in the pool.
    pub num_blocks: usize,
    /// Bytes of one block, all layers of the group, keys and values.
    pub block_bytes: usize,
}

/// Runs steps. Called from one thread; a step's effects are complete when `execute` returns.
pub trait Executor: Send {
    /// What the engine can hold.
    fn capacity(&self) -> Capacity;

    /// Runs one step: block copies, forward pass with the KV writes, sampling.
    ///
    /// # Errors
    /// The step had no usable result. The scheduler fails the requests of the plan and goes on, unless the error is fatal.
    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError>;
}

/// The answer to a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// One per [`BatchPlan::sample_specs`], in that order.
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

/// A step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The step failed; the next one may succeed.
    #[error("{0}")]
    Step(String),
    /// The engine is unusable; the process should stop accepting work.
    #[error("fatal: {0}")]
    Fatal(String),
}
