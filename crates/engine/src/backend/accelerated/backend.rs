//! The device as a [`Backend`]: each operation, put together from candle's and the kernels'.
//!
//! Owns what outlives a step: the device, the rotary table, the cache. Knows no plan and no layer order.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use gossamer_kernels::{Isa, RopeTable, YarnParams};
use gossamer_scheduler::{PromptLogprobs, SampleSpec, SampledToken};

use super::attention::{self, Heads, Layer, StepTensors};
use super::device::{self, TRAITS};
use super::head::{self, Head};
use super::kv::PagedKv;
use super::linear::{Form, Linear, bf16};
use super::moe::Experts;
use crate::backend::{AttentionParams, Backend, BackendInfo, Budget, ExpertWeights, yarn_params};
use crate::config::{KvDtype, WeightFormat};
use crate::error::{LoadError, StepError};
use crate::kv_cache::KvShape;
use crate::model::ModelConfig;
use crate::sampler::Scratch;
use crate::step::{Score, Step};
use crate::weights::Weight;

/// Positions covered by the first rotary table; it doubles when a longer sequence appears.
const FIRST_POSITIONS: usize = 4096;

/// An accelerator.
pub struct Accelerated {
    device: Device,
    name: Option<String>,
    /// Of activations.
    dtype: DType,
    weights: WeightFormat,
    heads: Heads,
    yarn: YarnParams,
    rope: Option<RopeTensors>,
    kv: Option<PagedKv>,
    step: Option<StepInputs>,
    isa: Isa,
    scratch: Scratch,
}

/// A normalization's weight.
pub struct Norm {
    weight: Tensor,
    eps: f32,
}

/// Cosines and sines by position, `[num_positions, head_dim / 2]` each.
struct RopeTensors {
    cos: Tensor,
    sin: Tensor,
}

/// A step on the device.
struct StepInputs {
    tokens: Tensor,
    cos: Tensor,
    sin: Tensor,
    attention: StepTensors,
}

impl Accelerated {
    /// Opens the device of this build.
    ///
    /// # Errors
    /// There is none.
    #[cfg(any(feature = "metal", feature = "cuda"))]
    pub fn open(
        model: &ModelConfig,
        engine: &crate::config::EngineConfig,
    ) -> Result<Self, LoadError> {
        let device = device::open()?;
        let name = device::name(&device);
        Ok(Self::new(model, engine.weights, device, name, DType::BF16))
    }

    /// The stand-ins, on the CPU.
    #[cfg(test)]
    pub fn reference(model: &ModelConfig, weights: WeightFormat, dtype: DType) -> Self {
        Self::new(model, weights, Device::Cpu, None, dtype)
    }

    fn new(
        model: &ModelConfig,
        weights: WeightFormat,
        device: Device,
        name: Option<String>,
        dtype: DType,
    ) -> Self {
        Self {
            device,
            name,
            dtype,
            weights,
            heads: Heads {
                num_heads: model.num_heads,
                num_kv_heads: model.num_kv_heads,
                head_dim: model.head_dim,
            },
            yarn: yarn_params(model),
            rope: None,
            kv: None,
            step: None,
            isa: Isa::detect(),
            scratch: Scratch::default(),
        }
    }

    /// Makes the rotary table cover `positions`.
    fn cover(&mut self, positions: usize) -> CandleResult<&RopeTensors> {
        let covered = match &self.rope {
            None => 0,
            Some(rope) => rope.cos.dim(0)?,
        };
        if covered < positions || self.rope.is_none() {
            let count = positions.next_power_of_two().max(FIRST_POSITIONS);
            let table = RopeTable::new(&self.yarn, count);
            let half = self.heads.head_dim / 2;
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for position in 0..count {
                let angles = table.at(position);
                cos.extend_from_slice(angles.0);
                sin.extend_from_slice(angles.1);
            }
            let upload = |values: Vec<f32>| {
                let tensor = Tensor::from_vec(values, (count, half), &self.device)?;
                tensor.to_dtype(self.dtype)
            };
            self.rope = Some(RopeTensors {
                cos: upload(cos)?,
                sin: upload(sin)?,
            });
        }
        Ok(self.rope.as_ref().expect("made above"))
    }

    fn step(&self) -> &StepInputs {
        self.step.as_ref().expect("begin_step comes first")
    }

    /// `[t, heads * head_dim]` as `[t, heads, head_dim]`.
    fn by_head(&self, x: Tensor) -> CandleResult<Tensor> {
        let (rows, width) = x.dims2()?;
        x.reshape((rows, width / self.heads.head_dim, self.heads.head_dim))
    }
}

impl Backend for Accelerated {
    type Tensor = Tensor;
    type Embedding = Tensor;
    type Norm = Norm;
    type Linear = Linear;
    type Head = Head;
    type Logits = Tensor;
    type Sinks = Tensor;
    type Experts = Experts;

    const BATCH_INVARIANT: bool = false;

    fn info(&self) -> BackendInfo {
        BackendInfo {
            backend: TRAITS.name,
            device: self.name.clone(),
            kernels: TRAITS.kernels,
            num_threads: 0,
            repack_cache: None,
        }
    }

    fn load_embedding(&mut self, table: Weight) -> Result<Tensor, LoadError> {
        Ok(bf16(&table, &self.device)?)
    }

    fn load_norm(&mut self, weight: Weight, eps: f32) -> Result<Norm, LoadError> {
        let weight = bf16(&weight, &self.device)?.to_dtype(self.dtype)?;
        Ok(Norm { weight, eps })
    }

    fn load_linear(&mut self, weight: Weight, bias: Option<Weight>) -> Result<Linear, LoadError> {
        let form = Form {
            format: self.weights,
            eight_bits: TRAITS.eight_bits,
            input: self.dtype,
        };
        Ok(Linear::new(&weight, bias.as_ref(), form, &self.device)?)
    }

    fn load_router(&mut self, weight: Weight, bias: Weight) -> Result<Linear, LoadError> {
        let form = Form {
            format: WeightFormat::Bf16,
            eight_bits: TRAITS.eight_bits,
            input: DType::F32,
        };
        Ok(Linear::new(&weight, Some(&bias), form, &self.device)?)
    }

    fn load_head(&mut self, weight: Weight) -> Result<Head, LoadError> {
        let (format, dtype) = (self.weights, self.dtype);
        Ok(Head::new(&weight, format, dtype, &TRAITS, &self.device)?)
    }

    fn load_sinks(&mut self, sinks: Weight) -> Result<Tensor, LoadError> {
        Ok(attention::sinks(bf16(&sinks, &self.device)?)?)
    }

    fn load_experts(&mut self, experts: ExpertWeights) -> Result<Experts, LoadError> {
        Ok(Experts::new(&experts, self.dtype, &self.device)?)
    }

    fn kv_cache_dtypes(&self) -> &'static [KvDtype] {
        &[KvDtype::Bf16]
    }

    fn kv_cache_budget(&self, percent: u8) -> Result<Option<Budget>, LoadError> {
        let Some(free) = device::free_memory(&self.device)? else {
            return Ok(None);
        };
        let cap = TRAITS.kv_cache_cap;
        Ok(Some(budget(free, percent, cap)))
    }

    fn allocate_kv_cache(&mut self, shape: &KvShape) -> Result<(), LoadError> {
        self.kv = Some(PagedKv::new(shape, &self.device)?);
        Ok(())
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), StepError> {
        let kv = self.kv.as_ref().expect("the cache comes before steps");
        Ok(kv.copy_blocks(copies, &self.device)?)
    }

    fn begin_step(&mut self, step: &Step<'_>) -> Result<(), StepError> {
        self.step = None;
        let device = self.device.clone();
        let positions: Vec<u32> = step.positions.iter().map(|at| *at as u32).collect();
        let covered = step.positions.iter().max().map_or(0, |last| last + 1);
        let positions = Tensor::new(positions, &device)?;
        let rope = self.cover(covered)?;
        let (cos, sin) = (
            rope.cos.index_select(&positions, 0)?,
            rope.sin.index_select(&positions, 0)?,
        );
        self.step = Some(StepInputs {
            tokens: Tensor::new(step.tokens, &device)?,
            cos,
            sin,
            attention: StepTensors::new(step, self.heads, &device)?,
        });
        Ok(())
    }

    fn embed(&mut self, table: &Tensor, _step: &Step<'_>) -> Result<Tensor, StepError> {
        let rows = table.index_select(&self.step().tokens, 0)?;
        Ok(rows.to_dtype(self.dtype)?)
    }

    fn rms_norm(&mut self, x: &Tensor, norm: &Norm) -> Result<Tensor, StepError> {
        Ok(candle_nn::ops::rms_norm(x, &norm.weight, norm.eps)?)
    }

    fn linear(&mut self, x: &Tensor, linear: &Linear) -> Result<Tensor, StepError> {
        Ok(linear.forward(x)?)
    }

    fn rope(
        &mut self,
        q: Tensor,
        k: Tensor,
        _step: &Step<'_>,
    ) -> Result<(Tensor, Tensor), StepError> {
        let StepInputs { cos, sin, .. } = self.step();
        let flat = [q.dims2()?, k.dims2()?];
        let (q, k) = device::rope(self.by_head(q)?, self.by_head(k)?, cos, sin)?;
        Ok((q.reshape(flat[0])?, k.reshape(flat[1])?))
    }

    fn attention(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        params: AttentionParams<'_, Self>,
        step: &Step<'_>,
    ) -> Result<Tensor, StepError> {
        let layer = Layer {
            kv: self.kv.as_ref().expect("the cache comes before steps"),
            index: params.layer,
            window: params.window,
            sinks: params.sinks,
        };
        let inputs = self.step.as_mut().expect("begin_step comes first");
        Ok(inputs.attention.attend(step, [q, k, v], layer, self.heads)?)
    }

    fn moe(
        &mut self,
        x: &Tensor,
        router: &Linear,
        experts: &Experts,
        top_k: usize,
    ) -> Result<Tensor, StepError> {
        Ok(experts.forward(x, router, top_k)?)
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor, StepError> {
        Ok((x + y)?)
    }

    fn select_rows(&mut self, x: &Tensor, rows: &[usize]) -> Result<Tensor, StepError> {
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        Ok(x.index_select(&Tensor::new(rows, &self.device)?, 0)?)
    }

    fn logits(&mut self, x: &Tensor, head: &Head) -> Result<Tensor, StepError> {
        Ok(head.forward(x)?)
    }

    fn sample(
        &mut self,
        logits: &Tensor,
        draws: &[(usize, &SampleSpec)],
    ) -> Result<Vec<SampledToken>, StepError> {
        head::sample(self.isa, logits, draws, &mut self.scratch)
    }

    fn score(
        &mut self,
        logits: &Tensor,
        scores: &[(usize, Score)],
    ) -> Result<Vec<PromptLogprobs>, StepError> {
        head::score(self.isa, logits, scores, &mut self.scratch)
    }

    fn to_host(&mut self, logits: &Tensor) -> Result<Vec<f32>, StepError> {
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}

/// `percent` of what is free, within a cap.
fn budget(free: u64, percent: u8, cap: Option<(u64, &str)>) -> Budget {
    let share = free / 100 * u64::from(percent);
    let of_free = format!("{percent} % of the {} MiB beside the weights", free >> 20);
    match cap {
        Some((cap, why)) if cap < share => Budget {
            free,
            bytes: cap,
            reason: format!("not {of_free}: {why}; kv_cache_bytes sets another size"),
        },
        _ => Budget {
            free,
            bytes: share,
            reason: of_free,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_takes_a_share_of_what_is_free_within_the_cap() {
        let gib = 1u64 << 30;
        let half = budget(10 * gib, 50, None);
        assert_eq!(half.bytes >> 20, 5 * 1024 - 1);
        assert_eq!(half.reason, "50 % of the 10240 MiB beside the weights");
        let capped = budget(10 * gib, 50, Some((4 * gib, "why")));
        assert_eq!((capped.bytes, capped.free), (4 * gib, 10 * gib));
        assert!(capped.reason.contains("not 50 %") && capped.reason.contains("why"));
        assert_eq!(budget(4 * gib, 100, Some((4 * gib, "why"))).reason[..5], *"100 %");
    }
}
