//! What a device must be able to do for [`crate::model::GptOss`]; the only home of device and vendor code.
//!
//! A backend owns its tensors, its copies (or views) of the weights and the KV cache. It knows no plan and no layer
//! order. Invariant where [`Backend::BATCH_INVARIANT`] says so (*batch invariance*): the row that an operation computes for
//! one token does not depend on the other rows of the step, so the same prompt gives the same answer alone and in a crowd.
//! So it is on the CPU. On an accelerator it depends on them in the last bits, where its kernels choose their way by the
//! number of rows.

// What knows no device is compiled and tested in every build.
#[cfg(any(test, feature = "metal", feature = "cuda"))]
mod accelerated;
mod cpu;
mod open;

use gossamer_kernels::YarnParams;
use gossamer_scheduler::{PromptLogprobs, SampleSpec, SampledToken};

use crate::config::KvDtype;
use crate::error::{LoadError, StepError};
use crate::kv_cache::KvShape;
use crate::model::ModelConfig;
use crate::step::{Score, Step};
use crate::weights::Weight;

pub use open::{OnBackend, open};

/// A backend, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// `"cpu"`, `"metal"` or `"cuda"`.
    pub backend: &'static str,
    /// The accelerator, by its own name.
    pub device: Option<String>,
    /// Instruction set of the kernels, or whose they are.
    pub kernels: &'static str,
    /// Threads that compute; 0 where a device does.
    pub num_threads: usize,
    /// What came of keeping repacked weights, where they are kept.
    pub repack_cache: Option<String>,
}

/// Memory of a device that a KV cache may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Free bytes.
    pub free: u64,
    /// How many of them.
    pub bytes: u64,
    /// Why that many, for people.
    pub reason: String,
}

/// The rotary embedding of a model, as the kernels' table wants it.
fn yarn_params(model: &ModelConfig) -> YarnParams {
    let yarn = model.rope.yarn;
    YarnParams {
        head_dim: model.head_dim,
        theta: model.rope.theta,
        // A factor of 1 is plain rotary embedding.
        factor: yarn.map_or(1.0, |yarn| yarn.factor),
        beta_fast: yarn.map_or(32.0, |yarn| yarn.beta_fast),
        beta_slow: yarn.map_or(1.0, |yarn| yarn.beta_slow),
        original_context: yarn.map_or(model.max_position_embeddings, |yarn| {
            yarn.original_context_len
        }),
        truncate: yarn.is_some_and(|yarn| yarn.truncate),
    }
}

/// The weights of one layer's experts, as published.
#[derive(Clone)]
pub struct ExpertWeights {
    /// Gate and up projections, rows interleaved.
    pub gate_up: Mxfp4Weight,
    /// Down projection.
    pub down: Mxfp4Weight,
    /// Clamp of the activation.
    pub swiglu_limit: f32,
}

/// An MXFP4 matrix per expert.
#[derive(Clone)]
pub struct Mxfp4Weight {
    /// `[num_experts, rows, cols / 32, 16]`, two elements per byte.
    pub blocks: Weight,
    /// E8M0, `[num_experts, rows, cols / 32]`.
    pub scales: Weight,
    /// bf16, `[num_experts, rows]`.
    pub bias: Weight,
}

/// What the attention of one layer adds to queries, keys and values.
pub struct AttentionParams<'a, B: Backend> {
    /// Index of the layer: selects its part of the KV cache.
    pub layer: usize,
    /// One learned logit per query head.
    pub sinks: &'a B::Sinks,
    /// Tokens that a query sees, its own included; `None` for all.
    pub window: Option<usize>,
}

/// A device. Tensors are `[rows, width]`, one row per token of the step.
pub trait Backend: Send + 'static {
    /// Activations.
    type Tensor: Send;
    /// Token embeddings on the device.
    type Embedding: Send;
    /// Weights of a normalization.
    type Norm: Send;
    /// A bf16 matrix, perhaps with a bias.
    type Linear: Send;
    /// The output projection.
    type Head: Send;
    /// Logits, in whatever form the device samples from.
    type Logits: Send;
    /// Attention sinks of one layer.
    type Sinks: Send;
    /// The experts of one layer.
    type Experts: Send;

    /// Whether a row does not depend on the other rows of its step: then drafts may be verified in one.
    const BATCH_INVARIANT: bool;

    /// What it is.
    fn info(&self) -> BackendInfo;

    /// Takes the embedding, `[vocab_size, hidden]`.
    ///
    /// # Errors
    /// Like every `load_*`: the device has no room or refuses the weight.
    fn load_embedding(&mut self, table: Weight) -> Result<Self::Embedding, LoadError>;
    /// Takes a normalization's weight, `[width]`.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_norm(&mut self, weight: Weight, eps: f32) -> Result<Self::Norm, LoadError>;
    /// Takes a matrix `[outputs, inputs]` and a bias `[outputs]`.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_linear(
        &mut self,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<Self::Linear, LoadError>;
    /// Takes a router, `[num_experts, hidden]`, and its bias: small, and a rounding error in it would change which
    /// experts a token goes to.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_router(&mut self, weight: Weight, bias: Weight) -> Result<Self::Linear, LoadError>;
    /// Takes the output projection, `[vocab_size, hidden]`.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_head(&mut self, weight: Weight) -> Result<Self::Head, LoadError>;
    /// Takes a layer's sinks, `[num_heads]`.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_sinks(&mut self, sinks: Weight) -> Result<Self::Sinks, LoadError>;
    /// Takes a layer's experts.
    ///
    /// # Errors
    /// As [`Backend::load_embedding`].
    fn load_experts(&mut self, experts: ExpertWeights) -> Result<Self::Experts, LoadError>;
    /// What it can keep keys and values as.
    fn kv_cache_dtypes(&self) -> &'static [KvDtype];
    /// What a KV cache may take of the device's memory, `percent` of it at most, with all weights loaded; `None` where the
    /// memory is not the device's own.
    ///
    /// # Errors
    /// [`LoadError::Device`] where the device does not say what is free.
    fn kv_cache_budget(&self, percent: u8) -> Result<Option<Budget>, LoadError>;
    /// Makes the KV cache. Called once, with all weights loaded, before any step.
    ///
    /// # Errors
    /// [`LoadError::Setting`] when there is no room for it.
    fn allocate_kv_cache(&mut self, shape: &KvShape) -> Result<(), LoadError>;

    /// Copies whole blocks, in order: (source, destination).
    ///
    /// # Errors
    /// Like every operation of a step: the device failed.
    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), StepError>;
    /// Announces a step, before its first operation: what is the same for all layers is prepared here.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn begin_step(&mut self, step: &Step<'_>) -> Result<(), StepError>;
    /// The embeddings of the step's tokens, `[num_tokens, hidden]`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn embed(
        &mut self,
        table: &Self::Embedding,
        step: &Step<'_>,
    ) -> Result<Self::Tensor, StepError>;
    /// Each row over its root mean square, times the weight.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn rms_norm(&mut self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, StepError>;
    /// `x Wᵀ + bias`, `[rows, outputs]`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn linear(
        &mut self,
        x: &Self::Tensor,
        linear: &Self::Linear,
    ) -> Result<Self::Tensor, StepError>;
    /// Rotates every head of each row of queries and keys by the row's position.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn rope(
        &mut self,
        q: Self::Tensor,
        k: Self::Tensor,
        step: &Step<'_>,
    ) -> Result<(Self::Tensor, Self::Tensor), StepError>;
    /// Writes `k` and `v` to the cache, then attends `q` over each row's sequence up to the row's position.
    /// `q` is `[num_tokens, num_heads * head_dim]`, like the result; `k` and `v` are `[num_tokens, num_kv_heads * head_dim]`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn attention(
        &mut self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        params: AttentionParams<'_, Self>,
        step: &Step<'_>,
    ) -> Result<Self::Tensor, StepError>
    where
        Self: Sized;
    /// Each row through its `top_k` best experts by `router`, weighted by the softmax over those.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn moe(
        &mut self,
        x: &Self::Tensor,
        router: &Self::Linear,
        experts: &Self::Experts,
        top_k: usize,
    ) -> Result<Self::Tensor, StepError>;
    /// `x + y`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, StepError>;
    /// Some rows of `x`, in the order given.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn select_rows(&mut self, x: &Self::Tensor, rows: &[usize]) -> Result<Self::Tensor, StepError>;
    /// `x Wᵀ` by the output projection, for `x` of `[rows, hidden]`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn logits(&mut self, x: &Self::Tensor, head: &Self::Head) -> Result<Self::Logits, StepError>;
    /// Draws one token per spec from row `draws[i].0` of `logits`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`], and those of the sampler.
    fn sample(
        &mut self,
        logits: &Self::Logits,
        draws: &[(usize, &SampleSpec)],
    ) -> Result<Vec<SampledToken>, StepError>;
    /// Scores one token per entry by row `scores[i].0` of `logits`.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`], and those of the sampler.
    fn score(
        &mut self,
        logits: &Self::Logits,
        scores: &[(usize, Score)],
    ) -> Result<Vec<PromptLogprobs>, StepError>;
    /// All logits on the host, `[rows, vocab_size]`, row-major.
    ///
    /// # Errors
    /// As [`Backend::copy_blocks`].
    fn to_host(&mut self, logits: &Self::Logits) -> Result<Vec<f32>, StepError>;
}
