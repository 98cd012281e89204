//! gossamer-harmony from outside: repairs by example, and what holds for all token sequences.
//! One binary, for the vocabulary's tables are built once per process.

mod constraints;
mod heard;
mod prompts;
mod properties;
mod repairs;
