//! Paged-KV continuous batching.

mod batch_plan;
mod executor;
mod request;

pub use batch_plan::*;
pub use executor::*;
pub use request::*;
