//! For tests: a scripted executor, a server on a free port, an HTTP and SSE client.
//!
//! Nothing here is part of the binary. The client knows nothing of the server's code: it speaks sockets and checks on every
//! answer what every answer must have.

pub mod client;
mod control;
mod script;
mod scripted_executor;
#[cfg(feature = "server")]
mod server;

pub use control::Control;
pub use script::{Script, tokens};
pub use scripted_executor::ScriptedExecutor;
#[cfg(feature = "server")]
pub use server::{TestServer, TestSetup};
