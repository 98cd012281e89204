//! The JSON that goes over the wire, in OpenAI's shapes. Data only: no logic, no defaults, no validation.
//!
//! Answers are serialized from these types. Requests are *described* by them (for the OpenAPI document) and *read* by
//! `validate`, which can name the field that is wrong; a test holds the two together, field by field.

pub mod chat;
pub mod chat_request;
pub mod completions;
pub mod error;
pub mod messages;
pub mod messages_request;
pub mod models;
pub mod responses;
pub mod simple;
pub mod tokens;
pub mod usage;
