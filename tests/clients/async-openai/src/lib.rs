//! Nothing: the client's tests are in `client.rs`.
