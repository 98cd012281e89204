//! The HTTP layer: OpenAI's API over the scheduler. Owns text and identity.
//!
//! ```text
//!  bytes ──▶ connection ──▶ request_id ──▶ cors ──▶ auth ──▶ routes ──▶ validate ──▶ harmony::render ──▶ generation ──submit──▶ scheduler
//!            id, log,                               401,     size,      fields to    text to             │  ▲
//!            metrics                                403, 429 JSON       types, 400   tokens              │  └──── tokens ◀────────┘
//!                                                                                                        ▼ harmony::Parser, stop strings
//!                                                                             bytes ◀── sse │ json ◀── reply: updates to OpenAI's shapes
//! ```
//!
//! An engine that takes text stands in the place of render, scheduler and parser (`text_engine`); everything else is the same.
//!
//! Does not know the engine, its kernels, or block ids; its tests run over a scripted executor.
//! Invariants: whatever ends a request early (a client that goes away, a failure, a stop string) drops its token streams,
//! and that cancels it in the scheduler; an error answer always is OpenAI's error object,
//! or Anthropic's on the routes of its API (`dialect`); a field of a request is used,
//! known to be harmless, or refused by name.

pub mod auth;
mod connection;
mod cors;
mod dialect;
pub mod dry_run;
mod error;
mod generation;
mod grammars;
mod json;
mod kept;
mod openapi;
mod reply;
mod request_id;
mod routes;
mod server;
mod sse;
mod state;
mod stop;
mod store;
pub mod text_engine;
mod validate;
pub mod wire;

pub use error::{ApiError, ErrorCode};
pub use kept::KeptBounds;
pub use openapi::openapi;
pub use request_id::REQUEST_ID;
pub use server::{ServerConfig, serve};
pub use state::{ApiConfig, AppState, PromptDate, civil_date, unix_seconds};
pub use store::{ResponseStore, StoreConfig, StoreError};
pub use wire::models::ServerInfo;
