//! gossamer-harmony against openai-harmony 0.0.8, the format's official implementation.
//!
//! Random conversations must render to the same tokens, random well-formed generations must parse
//! to the same messages. Nothing is downloaded: the official crate's vocabulary file is written
//! from ours, and its own check of the file's SHA-256 shows that they are the same.

mod official;
mod parsing;
mod rendering;
mod strategies;
