//! `/v1/models`, `/health`, `/ready`, `/info`.

use serde::Serialize;
use utoipa::ToSchema;

/// A model that can be named in `model`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Model {
    /// The name.
    pub id: String,
    /// Always `model`.
    #[schema(example = "model")]
    pub object: &'static str,
    /// When the model was loaded, in seconds since 1970.
    pub created: i64,
    /// Always `gossamer`.
    #[schema(example = "gossamer")]
    pub owned_by: &'static str,
    /// The model's id when this one is another name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Most tokens of prompt and output together.
    pub max_model_len: usize,
}

/// All models.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// The models.
    pub data: Vec<Model>,
}

/// The answer of `/health` and `/ready`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok` or `ready`.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// What is running here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Info {
    /// What the gateway said at start.
    #[serde(flatten)]
    pub server: ServerInfo,
    /// Most tokens of prompt and output together.
    pub max_sequence_len: usize,
    /// Tokens that the KV cache holds, as one sequence; each further sequence keeps a sliding window besides. Absent where
    /// each sequence has a cache of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens: Option<usize>,
    /// Whether `/ready` says yes.
    pub ready: bool,
    /// Sequences being worked on.
    pub running: usize,
    /// Sequences waiting.
    pub waiting: usize,
    /// Since the start, in seconds.
    pub uptime_seconds: u64,
}

/// What is fixed from start to stop; filled by whoever wires the server together.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServerInfo {
    /// Version of the server.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// Id of the model.
    pub model: String,
    /// The checkpoint's architecture.
    #[schema(example = "GptOssForCausalLM")]
    pub architecture: String,
    /// What computes: `cpu`, `metal`, `cuda`.
    #[schema(example = "cpu")]
    pub backend: String,
    /// Which kernels were chosen.
    #[schema(example = "avx2")]
    pub kernels: String,
    /// Bytes of the model's weights.
    pub weight_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_cache_bytes: u64,
}
