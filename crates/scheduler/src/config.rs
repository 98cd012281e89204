//! What the operator decides about scheduling.
//!
//! Plain values: no defaults, no environment, no parsing (the gateway resolves those).
//! What the engine decides (block size, block count, context length) is in [`crate::Capacity`].

use std::time::Duration;

/// Limits of the scheduler. Every value is the operator's; there is no `Default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The step budget: most tokens of one step, decodes and prefill chunks together. At least 1; below
    /// `max_num_seqs` the latest of the running sequences may have to skip steps.
    pub max_num_batched_tokens: usize,
    /// Most sequences that run at the same time, at least 1. A sequence counts from the first chunk of its
    /// prefill until it ends or is preempted; the siblings of an `n > 1` request count once the shared prompt
    /// is computed.
    pub max_num_seqs: usize,
    /// Most requests that wait, at least 1. A request counts from `submit` until its first chunk is planned;
    /// a preempted sequence does not count again.
    pub max_waiting: usize,
    /// Whether full blocks stay reusable after their sequence ended.
    pub enable_prefix_caching: bool,
    /// Whether tokens that the prompt makes likely are verified ahead.
    pub speculation: Speculation,
    /// How long a request may wait for its first chunk; `None` is forever. Enforced by the worker.
    pub queue_timeout: Option<Duration>,
}

/// Whether to draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// Where it pays, by what came true and by what steps took (`speculation.rs`).
    Auto,
    /// Never.
    Off,
}
