//! What can be wrong with a configuration; every message names the key and where it was given.

use std::path::PathBuf;

use super::Origin;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    /// A key or section that does not exist.
    #[error("{origin}: unknown {what} {name}{}", did_you_mean(nearest))]
    Unknown {
        origin: Origin,
        /// "key", "section" or "environment variable".
        what: &'static str,
        name: String,
        nearest: Option<String>,
    },
    /// A value that the key does not accept.
    #[error("{origin}: {key} is {given}, but must be {expected}")]
    Value {
        origin: Origin,
        key: String,
        given: String,
        expected: String,
    },
    /// Values that are right alone and wrong together.
    #[error("{0}")]
    Conflict(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => String::new(),
    }
}
