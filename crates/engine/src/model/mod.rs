//! The architecture: its configuration and its forward pass, both free of any device.

mod config;
mod gpt_oss;

pub use config::{ARCHITECTURE, LayerKind, ModelConfig, parse_stop_token_ids};
pub use gpt_oss::{GptOss, Loader, Totals};
