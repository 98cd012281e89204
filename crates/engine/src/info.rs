//! What was loaded and on what: for the banner and `/info`. Plain facts, no behaviour.

use crate::config::WeightFormat;

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
    /// Where it computes: `"cpu"`, `"metal"` or `"cuda"`.
    pub backend: &'static str,
    /// The accelerator, by its own name.
    pub device: Option<String>,
    /// Instruction set of the kernels, or whose they are.
    pub kernels: &'static str,
    /// What the weights were turned into.
    pub weights: WeightFormat,
    /// Threads that compute; 0 where a device does.
    pub num_threads: usize,
    /// Bytes of the KV cache when every block is in use.
    pub kv_cache_bytes: u64,
    /// Why the KV cache has this size, where the device's memory decided.
    pub kv_cache_reason: Option<String>,
    /// What came of keeping repacked weights, if that was asked for.
    pub repack_cache: Option<String>,
}
