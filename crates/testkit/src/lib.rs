//! What tests share. Nothing here is linked into the server.

pub mod random_model;
