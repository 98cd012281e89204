//! The HTTP layer over real sockets, the real scheduler and a scripted model.
//!
//! One binary, because linking is what takes time. Ordering comes from holding and releasing the executor, not from sleeps.
//! The client of the testkit checks on every answer what every answer must have; tests check the rest.

mod anthropic;
mod anthropic_errors;
mod api_table;
mod auth;
mod cancellation;
mod chat;
mod common;
mod compatibility;
mod completions;
mod contract;
mod cors;
mod docs;
mod errors;
mod fields;
mod http;
mod kept;
mod limits;
mod messages;
mod openapi;
mod operations;
mod overload;
mod parameters;
mod pipelines;
mod prompt;
mod raw;
mod responses;
mod simple;
mod stop;
mod streaming;
mod text_engine;
mod tokens;
mod tools;
