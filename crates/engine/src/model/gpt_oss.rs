//! GPT-OSS, top to bottom, for every device.
//!
//! Knows the order of operations and the names of the weights; the arithmetic is the [`Backend`]'s.
//! Reference: openai/gpt-oss `gpt_oss/torch/model.py` and transformers' `GptOssForCausalLM`, whose names the weights
//! have. Shapes below are per step: `t` rows (tokens), `h` hidden, `q` and `kv` all query and key/value heads.

use crate::backend::{AttentionParams, Backend, ExpertWeights, Mxfp4Weight};
use crate::error::{LoadError, StepError};
use crate::model::config::{LayerKind, ModelConfig};
use crate::step::Step;
use crate::weights::{Checkpoint, Dtype};

/// The weights on their device, and how they are applied.
pub struct GptOss<B: Backend> {
    config: ModelConfig,
    embedding: B::Embedding,
    layers: Vec<Layer<B>>,
    norm: B::Norm,
    lm_head: B::Head,
}

struct Layer<B: Backend> {
    input_norm: B::Norm,
    q: B::Linear,
    k: B::Linear,
    v: B::Linear,
    o: B::Linear,
    sinks: B::Sinks,
    window: Option<usize>,
    post_attention_norm: B::Norm,
    router: B::Linear,
    experts: B::Experts,
}

impl<B: Backend> GptOss<B> {
    /// Checks the checkpoint against `config` and hands every weight to the backend; `progress` hears how many bytes it
    /// has handed over.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or dtype, or what the backend objects to.
    pub fn load(
        config: ModelConfig,
        checkpoint: &mut Loader<'_>,
        backend: &mut B,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, LoadError> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = checkpoint.bf16("model.embed_tokens.weight", &[vocab, hidden])?;
        let embedding = backend.load_embedding(embedding)?;
        let mut layers = Vec::with_capacity(config.num_layers());
        for (index, kind) in config.layers.iter().enumerate() {
            layers.push(Layer::load(index, *kind, &config, checkpoint, backend)?);
            progress(checkpoint.totals.bytes);
        }
        let norm = checkpoint.bf16("model.norm.weight", &[hidden])?;
        let norm = backend.load_norm(norm, config.rms_norm_eps)?;
        let lm_head = checkpoint.bf16("lm_head.weight", &[vocab, hidden])?;
        let lm_head = backend.load_head(lm_head)?;
        progress(checkpoint.totals.bytes);
        Ok(Self {
            config,
            embedding,
            layers,
            norm,
            lm_head,
        })
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Runs all layers over the step's rows, writing their keys and values to the cache; the residual stream, `[t, h]`.
    ///
    /// # Errors
    /// The backend failed.
    pub fn forward(&self, step: &Step<'_>, backend: &mut B) -> Result<B::Tensor, StepError> {
        backend.begin_step(step)?;
        let mut x = backend.embed(&self.embedding, step)?; // [t, h]
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = layer.attention(index, &x, step, backend)?;
            x = backend.add(x, &attended)?;
            let mixed = layer.mlp(&x, self.config.experts_per_token, backend)?;
            x = backend.add(x, &mixed)?;
        }
        Ok(x)
    }

    /// Logits after the given rows of the residual stream, one row for each of them.
    ///
    /// # Errors
    /// The backend failed.
    pub fn logits(
        &self,
        x: &B::Tensor,
        rows: &[usize],
        backend: &mut B,
    ) -> Result<B::Logits, StepError> {
        let x = backend.select_rows(x, rows)?;
        let x = backend.rms_norm(&x, &self.norm)?;
        backend.logits(&x, &self.lm_head)
    }
}

impl<B: Backend> Layer<B> {
    fn attention(
        &self,
        layer: usize,
        x: &B::Tensor,
        step: &Step<'_>,
        backend: &mut B,
    ) -> Result<B::Tensor, StepError> {
        let x = backend.rms_norm(x, &self.input_norm)?; // [t, h]
        let q = backend.linear(&x, &self.q)?; // [t, q]
        let k = backend.linear(&x, &self.k)?; // [t, kv]
        let v = backend.linear(&x, &self.v)?; // [t, kv]
        let (q, k) = backend.rope(q, k, step)?;
        let params = AttentionParams {
            layer,
            sinks: &self.sinks,
            window: self.window,
        };
        let attended = backend.attention(&q, &k, &v, params, step)?; // [t, q]
        backend.linear(&attended, &self.o) // [t, h]
    }

    fn mlp(&self, x: &B::Tensor, top_k: usize, backend: &mut B) -> Result<B::Tensor, StepError> {
        let x = backend.rms_norm(x, &self.post_attention_norm)?; // [t, h]
        backend.moe(&x, &self.router, &self.experts, top_k) // [t, h]
    }

    fn load(
        index: usize,
        kind: LayerKind,
        config: &ModelConfig,
        checkpoint: &mut Loader<'_>,
        backend: &mut B,
    ) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q_width, kv_width) = (config.q_width(), config.kv_width());
        let num_experts = config.num_experts;
        let mut layer = checkpoint.within(&format!("model.layers.{index}."));

        let mut linear = |name: &str, outputs, inputs, backend: &mut B| {
            let weight = layer.bf16(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = layer.bf16(&format!("{name}.bias"), &[outputs])?;
            backend.load_linear(weight, Some(bias))
        };
        let q = linear("self_attn.q_proj", q_width, hidden, backend)?;
        let k = linear("self_attn.k_proj", kv_width, hidden, backend)?;
        let v = linear("self_attn.v_proj", kv_width, hidden, backend)?;
        let o = linear("self_attn.o_proj", hidden, q_width, backend)?;

        let weight = layer.bf16("mlp.router.weight", &[num_experts, hidden])?;
        let bias = layer.bf16("mlp.router.bias", &[num_experts])?;
        let router = backend.load_router(weight, bias)?;

        let mut norm = |name: &str, backend: &mut B| {
            let weight = layer.bf16(name, &[hidden])?;
            backend.load_norm(weight, config.rms_norm_eps)
        };
        let input_norm = norm("input_layernorm.weight", backend)?;
        let post_attention_norm = norm("post_attention_layernorm.weight", backend)?;

        let sinks = layer.bf16("self_attn.sinks", &[config.num_heads])?;
        let sinks = backend.load_sinks(sinks)?;
        let experts = ExpertWeights {
            gate_up: layer.mxfp4("mlp.experts.gate_up_proj", num_experts, 2 * inner, hidden)?,
            down: layer.mxfp4("mlp.experts.down_proj", num_experts, hidden, inner)?,
            swiglu_limit: config.swiglu_limit,
        };
        let experts = backend.load_experts(experts)?;
        Ok(Self {
            input_norm,
            q,
            k,
            v,
            o,
            sinks,
            window: (kind == LayerKind::Sliding).then_some(config.sliding_window),
            post_attention_norm,
            router,
            experts,
        })
    }
}

/// Reads weights by name, counting what it hands out.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    totals: &'a mut Totals,
}

/// Sums over the weights of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Parameters; an MXFP4 scale is not one.
    pub parameters: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

impl<'a> Loader<'a> {
    /// Reads from `checkpoint`, adding to `totals`.
    pub fn new(checkpoint: &'a Checkpoint, totals: &'a mut Totals) -> Self {
        Self {
            checkpoint,
            prefix: String::new(),
            totals,
        }
    }

    fn within(&mut self, prefix: &str) -> Loader<'_> {
        Loader {
            checkpoint: self.checkpoint,
            prefix: format!("{}{prefix}", self.prefix),
            totals: self.totals,
        }
    }

    fn get(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<crate::Weight, LoadError> {
        let weight = self
            .checkpoint
            .weight(&format!("{}{name}", self.prefix), dtype, shape)?;
        self.totals.bytes += weight.bytes().len() as u64;
        Ok(weight)
    }

    fn bf16(&mut self, name: &str, shape: &[usize]) -> Result<crate::Weight, LoadError> {
        let weight = self.get(name, Dtype::Bf16, shape)?;
        self.totals.parameters += weight.bytes().len() as u64 / 2;
        Ok(weight)
    }

    fn mxfp4(
        &mut self,
        name: &str,
        num_experts: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Mxfp4Weight, LoadError> {
        let blocks = self.get(
            &format!("{name}_blocks"),
            Dtype::U8,
            &[num_experts, rows, cols / 32, 16],
        )?;
        self.totals.parameters += 2 * blocks.bytes().len() as u64;
        Ok(Mxfp4Weight {
            blocks,
            scales: self.get(
                &format!("{name}_scales"),
                Dtype::U8,
                &[num_experts, rows, cols / 32],
            )?,
            bias: self.bf16(&format!("{name}_bias"), &[num_experts, rows])?,
        })
    }
}
