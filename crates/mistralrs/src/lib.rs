//! The second engine: any text model that mistral.rs 0.8.1 loads, behind the api's `TextEngine`.
//!
//! ```text
//! TextRequest ──▶ queue (bound, places) ──▶ template and tokens ──▶ mistral.rs ──▶ chunks of text ──▶ TextEvents
//!                                                                  │ ▲
//!                                                            logits▼ │the token
//!                                                                  draw
//! ```
//!
//! Owns what mistral.rs lacks: a bound for its queue, a random stream per choice (`draw.rs`: mistral.rs has one generator for
//! everything that runs), cancelling at once, counts that are exact.
//! Knows no HTTP, no keys, no harmony. Invariants: GPT-OSS is refused before a weight is read; every accepted request ends in
//! one terminal event; mistral.rs never has more choices than may run.

mod draw;
mod engine;
mod load;
mod queue;
mod request;
mod run;

pub use engine::{MistralEngine, ProbeError};
pub use load::{LoadError, MistralConfig};
