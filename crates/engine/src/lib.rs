//! GPT-OSS over packed ragged batches and a paged KV cache: token ids in, token ids out.
//!
//! Implements [`gossamer_scheduler::Executor`]. A plan becomes a `Step`; `GptOss` runs it on a `Backend`; the
//! sampler draws. Does not know: text, HTTP, users, fairness, time. Which device runs is decided in
//! `backend/`, and no code outside that folder knows one.

mod backend;
mod config;
mod drafts;
mod error;
mod executor;
mod info;
mod kv_cache;
mod model;
mod sampler;
mod step;
mod threads;
mod tiny;
mod weights;

pub use config::{
    DeviceChoice, EngineConfig, KvCacheSize, KvDtype, LoadProgress, ModelSource, WeightFormat,
};
pub use error::{LoadError, StepError};
pub use executor::{Engine, EngineExecutor};
pub use info::EngineInfo;
pub use tiny::{EmbeddedModel, tiny};
pub(crate) use weights::Weight;
