//! What the operator decides about the engine: which model, how much memory, how many threads.
//!
//! Plain values, resolved by the caller: no environment, no files, no `Default`.

use std::path::PathBuf;

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The small GPT-OSS inside the binary ([`crate::tiny`]).
    Tiny,
    /// A folder in the published Hugging Face layout.
    Folder(PathBuf),
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The accelerator that this build and this machine have, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An Apple GPU.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
}

impl DeviceChoice {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        }
    }
}

/// How large the KV cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// Chosen once it is known what computes and what the weights left free.
    Auto {
        /// Bytes on the CPU.
        cpu_bytes: u64,
        /// Percent of an accelerator's free memory, 1 to 100.
        device_percent: u8,
    },
    /// As many whole blocks as fit in this many bytes.
    Bytes(u64),
    /// Exactly this many blocks.
    Blocks(usize),
}

/// What is multiplied by. MXFP4 experts stay what they are in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// Dense matrices rounded to eight bits. On the CPU everything is repacked and multiplied by eight-bit activations;
    /// on Metal the matrices are AFQ8, on CUDA Q8_0.
    Int8,
    /// All weights as published: slower, and what the other is measured against. Activations are f32 on the CPU and bf16
    /// elsewhere.
    Bf16,
}

impl WeightFormat {
    /// Its name in settings: `"int8"` or `"bf16"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
        }
    }
}

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// What computes.
    pub device: DeviceChoice,
    /// Threads that compute on the CPU, the caller's included; 0 takes every core available to the process.
    pub threads: usize,
    /// Tokens per KV block: 8, 16 or 32 (what the accelerators' kernels know).
    pub block_size: usize,
    /// Size of the KV cache. On the CPU, memory is touched only as blocks are first used.
    pub kv_cache: KvCacheSize,
    /// Whether layers with a sliding window give back the blocks behind it. Without, every layer keeps every block.
    pub window_groups: bool,
    /// Most tokens of a sequence, at most what the model allows; `None` takes what the model allows.
    pub max_model_len: Option<usize>,
    /// What the weights are turned into at load.
    pub weights: WeightFormat,
    /// Instruction set of the CPU kernels, by name; `None` takes the best that this machine has.
    pub kernels: Option<String>,
    /// Folder where the CPU keeps repacked weights for the next start; `None` keeps none.
    pub repack_cache: Option<PathBuf>,
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of the weights that are loaded.
    pub bytes: u64,
    /// Bytes of all weights in the model's files.
    pub total_bytes: u64,
}
