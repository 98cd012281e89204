//! What was loaded and on what: for the banner and `/info`. Plain facts, no behaviour.

use crate::config::{KvDtype, WeightFormat};

/// A loaded engine, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// Name of the model: its folder's, or the embedded model's.
    pub name: String,
    /// Architecture.
    pub architecture: &'static str,
    /// Layers.
    pub num_layers: usize,
    /// Parameters.
    pub num_parameters: u64,
    /// Bytes of the weights as stored.
    pub weight_bytes: u64,
    /// Most tokens of one sequence.
    pub max_model_len: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Token ids that end a sequence (`generation_config.json`).
    pub stop_token_ids: Vec<u32>,
    /// Where it computes: `"cpu"`.
    pub backend: &'static str,
    /// Instruction set of the kernels.
    pub kernels: &'static str,
    /// What the weights were turned into.
    pub weights: WeightFormat,
    /// Threads that compute.
    pub num_threads: usize,
    /// What keys and values are rounded to.
    pub kv_cache_dtype: KvDtype,
    /// Bytes of the KV cache when every block is in use.
    pub kv_cache_bytes: u64,
}
