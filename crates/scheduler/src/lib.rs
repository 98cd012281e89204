//! Paged-KV continuous batching: a pure state machine ([`Scheduler`]) and one worker thread ([`start`]).
//!
//! Owns both seams: [`SchedulerHandle`] above, [`Executor`] below. Knows token ids, never text, HTTP or tensors.
//!
//! # Words
//! - *request*: what a caller submits; it becomes `n` *sequences*, each a row of the engine's batch while it runs.
//! - *block*: a fixed run of token slots in the KV cache; *slot* = block * block_size + offset;
//!   *block table*: a sequence's blocks in order, one table per *KV group* (layers that share tables).
//! - *plan*: what one *step* runs; *budget*: most tokens of a step.
//! - *prefill*: computing tokens that are already known; *decode*: computing one token to draw the next.
//! - *draft*: a token that a sequence may draw next, computed in advance with the one before it (*speculation*).
//! - *preempt*: take a running sequence's blocks; it waits, and prompt and output are computed again (*recompute*).
//! - *carrier*: of `n` sequences, the one that computes the prompt they share; the others *follow* and are *forked*
//!   from it when the prompt is computed.
//!
//! # A request's way
//! ```text
//! submit -> waiting -> running (prefill in chunks -> decode) -> one terminal event
//!              ^            |
//!              +- preempted-+            cancel, finish_sequence, failure: from everywhere
//! ```
//! The invariants are numbered in `invariants.rs`.

mod admission;
mod batch_plan;
mod block_pool;
mod commit;
mod config;
mod constraint;
mod drafter;
mod executor;
mod handle;
pub mod invariants;
mod kv_groups;
mod planning;
mod prefix_cache;
mod request;
mod scheduler;
mod sequence;
mod speculation;
mod step_cost;
mod worker;

pub use admission::{Limits, MAX_CHOICES};
pub use batch_plan::*;
pub use commit::OutputMismatch;
pub use config::{SchedulerConfig, Speculation};
pub use constraint::*;
pub use executor::*;
pub use handle::{SchedulerHandle, TokenStream};
pub use request::*;
pub use scheduler::{Scheduler, Started, Stats};
pub use speculation::DraftCounts;
pub use worker::{StartError, Worker, WorkerPanicked, start};
