//! What tests share: models of random weights; a scripted executor, a server on a free port, an HTTP and SSE client,
//! a checker of streamed responses.
//!
//! Nothing here is linked into the server. The client knows nothing of the server's code: it speaks sockets and checks on
//! every answer what every answer must have.

pub mod client;
#[cfg(feature = "server")]
mod control;
pub mod random_model;
pub mod response_events;
#[cfg(feature = "server")]
mod script;
#[cfg(feature = "server")]
mod scripted_executor;
#[cfg(feature = "server")]
mod server;

#[cfg(feature = "server")]
pub use control::Control;
#[cfg(feature = "server")]
pub use script::{Script, tokens};
#[cfg(feature = "server")]
pub use scripted_executor::ScriptedExecutor;
#[cfg(feature = "server")]
pub use server::{BelowHttp, TestServer, TestSetup};
