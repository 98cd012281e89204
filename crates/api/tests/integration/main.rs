//! The HTTP layer over real sockets, the real scheduler and a scripted model.
//!
//! One binary, because linking is what takes time. Nothing waits for a fixed time: tests hold and release the executor.

mod chat;
