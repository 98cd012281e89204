//! The CPU: row-major f32 buffers, weights in place, arithmetic from `gossamer-kernels`.
//!
//! Owns the threads and splits each operation into disjoint parts of its output; a part costs the same arithmetic per
//! row whatever the split, so results depend on neither the number of threads nor the batch.
//! Invariant: activation buffers come from and return to one pool; a steady load allocates none.

mod buffers;
mod experts;
mod head;
mod kv;
mod linear;
mod moe;
mod packed;
mod repack_cache;

use gossamer_kernels::{
    Bf16Matrix, Bf16Slice, ColumnsMut, Isa, PackedMatrix, PagedQueries, QUANT_BLOCK, QuantBlock,
    RopeTable, YarnParams, add_assign, bf16_matmul, packed_matmul, paged_attention, quantize,
    rms_norm, rope, widen_bf16,
};
use gossamer_scheduler::{PromptLogprobs, SampleSpec, SampledToken};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::backend::{AttentionParams, Backend, BackendInfo, Budget, ExpertWeights, yarn_params};
use crate::config::{KvDtype, WeightFormat};
use crate::error::{LoadError, StepError};
use crate::kv_cache::KvShape;
use crate::model::ModelConfig;
use crate::sampler::{self, Scratch};
use crate::step::{Score, Step};
use crate::threads::Team;
use crate::weights::{Origin, Weight};

use buffers::Buffers;

pub use buffers::CpuTensor;
use experts::CpuExperts;
use head::{CpuHead, CpuLogits, HeadRows};
use kv::CpuKvCache;
use linear::{CpuLinear, bf16_matrix, widened};
use moe::MoeScratch;
use packed::Packer;
use repack_cache::RepackCache;

/// Multiply-adds below which waking the other threads costs more than it saves.
const MIN_PARALLEL_WORK: usize = 32 * 1024;

/// Parts per thread of a large operation: enough to even out threads of unequal speed.
const PARTS_PER_THREAD: usize = 4;

/// Output columns are handed out in multiples of this: whole vector registers and cache lines.
const COLUMN_UNIT: usize = 32;

/// Query rows of one attention task.
const QUERY_ROWS: usize = 16;

/// Positions covered by the first rotary table; it doubles when a longer sequence appears.
const FIRST_POSITIONS: usize = 4096;

/// The CPU as a [`Backend`].
pub struct Cpu {
    isa: Isa,
    team: Team,
    buffers: Arc<Buffers>,
    yarn: YarnParams,
    rope: Arc<RopeTable>,
    num_heads: usize,
    kv: CpuKvCache,
    moe: MoeScratch,
    weights: WeightFormat,
    cache: RepackCache,
    /// 0, 1, 2, ...: all rows of a step, in order.
    all_rows: Vec<u32>,
    /// One per thread.
    samplers: Vec<Mutex<sampler::Scratch>>,
}

/// A normalization's weight in place.
pub struct CpuNorm {
    weight: Weight,
    eps: f32,
}

impl Cpu {
    /// A backend for `model` with `threads` threads (0: one per available core), on the instruction set called
    /// `kernels` (`None`: the best one here), with weights in the given format.
    ///
    /// # Errors
    /// [`LoadError::Threads`]; [`LoadError::Setting`] if this machine has no such instruction set.
    pub fn new(
        model: &ModelConfig,
        threads: usize,
        kernels: Option<&str>,
        weights: WeightFormat,
    ) -> Result<Self, LoadError> {
        let isa = match kernels {
            None => Isa::detect(),
            Some(name) => Isa::from_name(name).ok_or_else(|| LoadError::Setting {
                setting: "kernels",
                message: format!("this machine runs {:?}, not {name}", Isa::available()),
            })?,
        };
        let team = Team::new(threads).map_err(LoadError::Threads)?;
        let yarn = yarn_params(model);
        let first_positions = FIRST_POSITIONS.min(model.max_position_embeddings);
        Ok(Self {
            isa,
            samplers: (0..team.size()).map(|_| Mutex::default()).collect(),
            team,
            buffers: Arc::default(),
            rope: Arc::new(RopeTable::new(&yarn, first_positions)),
            yarn,
            num_heads: model.num_heads,
            kv: CpuKvCache::default(),
            moe: MoeScratch::default(),
            weights,
            cache: RepackCache::off(),
            all_rows: Vec::new(),
        })
    }

    /// Packed weights go through the cache in `folder`, if they come from files.
    pub fn with_repack_cache(mut self, folder: &Path, origin: &Origin) -> Self {
        if self.weights == WeightFormat::Int8 {
            self.cache = RepackCache::open(folder, origin, self.isa);
        }
        self
    }

    fn packer(&mut self) -> Packer<'_> {
        Packer {
            isa: self.isa,
            team: &mut self.team,
            cache: &mut self.cache,
        }
    }

    fn tensor(&self, rows: usize, cols: usize) -> CpuTensor {
        CpuTensor::new(&self.buffers, rows, cols)
    }

    /// The rounded form of `x`.
    fn quantized<'x>(&mut self, x: &'x CpuTensor) -> &'x [QuantBlock] {
        let isa = self.isa;
        x.quantized(|x, out| {
            if self.team.size() == 1 || x.len() < MIN_PARALLEL_WORK {
                return quantize(isa, x, out);
            }
            let run = out.len().div_ceil(self.team.size() * PARTS_PER_THREAD);
            let runs = x.chunks(run * QUANT_BLOCK).zip(out.chunks_mut(run));
            self.team
                .for_each(runs, |_, (x, out)| quantize(isa, x, out));
        })
    }

    /// Makes `all_rows` at least `rows` long.
    fn count_rows(&mut self, rows: usize) {
        self.all_rows
            .extend(self.all_rows.len() as u32..rows as u32);
    }

    /// `x Wᵀ + bias` of packed weights, the matrix's rows shared out.
    fn multiply_packed(
        &mut self,
        x: &CpuTensor,
        matrix: PackedMatrix<'_>,
        bias: Option<&[f32]>,
    ) -> CpuTensor {
        let blocks = self.quantized(x);
        self.count_rows(x.rows());
        let tokens = &self.all_rows[..x.rows()];
        let mut out = self.tensor(x.rows(), matrix.rows());
        let mut columns = ColumnsMut::new(out.data_mut(), x.rows());
        let work = x.rows() * matrix.rows() * matrix.cols();
        if self.team.size() == 1 || work < MIN_PARALLEL_WORK {
            packed_matmul(blocks, tokens, matrix, bias, 0..matrix.rows(), &mut columns);
        } else {
            let parts = columns.split_even(self.team.size() * PARTS_PER_THREAD, COLUMN_UNIT);
            self.team.for_each(parts, |_, (rows, mut columns)| {
                packed_matmul(blocks, tokens, matrix, bias, rows, &mut columns);
            });
        }
        out
    }

    /// `x Wᵀ + bias`, the matrix's rows shared out.
    fn multiply(
        &mut self,
        x: &CpuTensor,
        matrix: Bf16Matrix<'_>,
        bias: Option<Bf16Slice<'_>>,
    ) -> CpuTensor {
        let isa = self.isa;
        let mut out = self.tensor(x.rows(), matrix.rows());
        let mut columns = ColumnsMut::new(out.data_mut(), x.rows());
        let work = x.rows() * matrix.rows() * matrix.cols();
        if self.team.size() == 1 || work < MIN_PARALLEL_WORK {
            bf16_matmul(isa, x.data(), matrix, 0..matrix.rows(), bias, &mut columns);
        } else {
            let parts = columns.split_even(self.team.size() * PARTS_PER_THREAD, COLUMN_UNIT);
            self.team.for_each(parts, |_, (rows, mut columns)| {
                bf16_matmul(isa, x.data(), matrix, rows, bias, &mut columns);
            });
        }
        out
    }

    /// `work(first_row, rows)` for runs of rows that cover `x`; `cost` is the work per row, in multiply-adds.
    fn for_row_runs(
        &mut self,
        x: &mut CpuTensor,
        cost: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (rows, cols) = (x.rows(), x.cols());
        if self.team.size() == 1 || rows == 1 || rows * cost < MIN_PARALLEL_WORK {
            return work(0, x.data_mut());
        }
        let run = rows.div_ceil(self.team.size() * PARTS_PER_THREAD);
        let runs = x.data_mut().chunks_mut(run * cols).enumerate();
        self.team
            .for_each(runs, |_, (index, rows)| work(index * run, rows));
    }
}

impl Cpu {
    /// One result per item, each made by one thread with a scratch of its own.
    fn for_each_row<T: Copy + Sync, R: Clone + Send>(
        &mut self,
        items: &[(usize, T)],
        of_row: impl Fn(usize, T, &mut Scratch) -> Result<R, StepError> + Sync,
    ) -> Result<Vec<R>, StepError> {
        let samplers = &self.samplers;
        let mut results: Vec<Option<Result<R, StepError>>> = vec![None; items.len()];
        self.team.for_each(
            results.iter_mut().zip(items),
            |thread, (result, (row, item))| {
                let mut scratch = samplers[thread]
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                *result = Some(of_row(*row, *item, &mut scratch));
            },
        );
        results
            .into_iter()
            .map(|result| result.expect("for_each visits every item"))
            .collect()
    }
}

impl Cpu {
    fn rotate(&mut self, mut heads: CpuTensor, step: &Step<'_>) -> CpuTensor {
        let (isa, width) = (self.isa, heads.cols());
        let table = Arc::clone(&self.rope);
        self.for_row_runs(&mut heads, width, |first, rows| {
            for (row, position) in rows.chunks_exact_mut(width).zip(&step.positions[first..]) {
                let (cos, sin) = table.at(*position);
                rope(isa, row, cos, sin);
            }
        });
        heads
    }
}

impl Backend for Cpu {
    type Tensor = CpuTensor;
    type Embedding = Weight;
    type Norm = CpuNorm;
    type Linear = CpuLinear;
    type Head = CpuHead;
    type Logits = CpuLogits;
    type Sinks = Vec<f32>;
    type Experts = CpuExperts;

    const BATCH_INVARIANT: bool = true;

    fn info(&self) -> BackendInfo {
        BackendInfo {
            backend: "cpu",
            device: None,
            kernels: self.isa.name(),
            num_threads: self.team.size(),
            repack_cache: self.cache.outcome(),
        }
    }

    fn load_embedding(&mut self, table: Weight) -> Result<Weight, LoadError> {
        Ok(table)
    }

    fn load_norm(&mut self, weight: Weight, eps: f32) -> Result<CpuNorm, LoadError> {
        Ok(CpuNorm { weight, eps })
    }

    fn load_linear(
        &mut self,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<CpuLinear, LoadError> {
        match self.weights {
            WeightFormat::Bf16 => Ok(CpuLinear::Bf16 { weight, bias }),
            WeightFormat::Int8 => CpuLinear::int8(&mut self.packer(), &weight, bias.as_ref()),
        }
    }

    fn load_router(&mut self, weight: Weight, bias: Weight) -> Result<CpuLinear, LoadError> {
        let bias = Some(bias);
        Ok(CpuLinear::Bf16 { weight, bias })
    }

    fn load_head(&mut self, weight: Weight) -> Result<CpuHead, LoadError> {
        let head = CpuHead::new(weight);
        match self.weights {
            WeightFormat::Bf16 => Ok(head),
            WeightFormat::Int8 => head.packed(&mut self.packer()),
        }
    }

    fn load_sinks(&mut self, sinks: Weight) -> Result<Vec<f32>, LoadError> {
        Ok(widened(self.isa, sinks.bytes()))
    }

    fn load_experts(&mut self, experts: ExpertWeights) -> Result<CpuExperts, LoadError> {
        match self.weights {
            WeightFormat::Bf16 => Ok(CpuExperts::InPlace(experts)),
            WeightFormat::Int8 => CpuExperts::packed(&mut self.packer(), &experts),
        }
    }

    fn kv_cache_dtypes(&self) -> &'static [KvDtype] {
        &[KvDtype::Bf16, KvDtype::Int8]
    }

    fn kv_cache_budget(&self, _percent: u8) -> Result<Option<Budget>, LoadError> {
        Ok(None)
    }

    fn allocate_kv_cache(&mut self, shape: &KvShape) -> Result<(), LoadError> {
        // The cache comes last of all that is loaded: nothing more is repacked.
        self.cache.finish();
        self.kv = CpuKvCache::new(shape)?;
        Ok(())
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), StepError> {
        self.kv.copy_blocks(copies);
        Ok(())
    }

    fn begin_step(&mut self, step: &Step<'_>) -> Result<(), StepError> {
        let needed = step.positions.iter().max().map_or(0, |last| last + 1);
        if needed > self.rope.num_positions() {
            self.rope = Arc::new(RopeTable::new(&self.yarn, needed.next_power_of_two()));
        }
        Ok(())
    }

    fn embed(&mut self, table: &Weight, step: &Step<'_>) -> Result<CpuTensor, StepError> {
        let width = table.shape()[1];
        let mut x = self.tensor(step.tokens.len(), width);
        for (row, token) in x.data_mut().chunks_exact_mut(width).zip(step.tokens) {
            widen_bf16(self.isa, Bf16Slice::new(table.entry(*token as usize)), row);
        }
        Ok(x)
    }

    fn rms_norm(&mut self, x: &CpuTensor, norm: &CpuNorm) -> Result<CpuTensor, StepError> {
        let (isa, weight) = (self.isa, Bf16Slice::new(norm.weight.bytes()));
        let mut out = self.tensor(x.rows(), x.cols());
        self.for_row_runs(&mut out, x.cols(), |first, out| {
            let x = &x.data()[first * x.cols()..][..out.len()];
            rms_norm(isa, x, weight, norm.eps, out);
        });
        Ok(out)
    }

    fn linear(&mut self, x: &CpuTensor, linear: &CpuLinear) -> Result<CpuTensor, StepError> {
        Ok(match linear {
            CpuLinear::Bf16 { weight, bias } => {
                let bias = bias.as_ref().map(|bias| Bf16Slice::new(bias.bytes()));
                self.multiply(x, bf16_matrix(weight), bias)
            }
            CpuLinear::Int8 { matrix, bias } => {
                self.multiply_packed(x, matrix.matrix(0), bias.as_deref())
            }
        })
    }

    fn rope(
        &mut self,
        q: CpuTensor,
        k: CpuTensor,
        step: &Step<'_>,
    ) -> Result<(CpuTensor, CpuTensor), StepError> {
        let mut rotated = |heads| self.rotate(heads, step);
        Ok((rotated(q), rotated(k)))
    }

    fn attention(
        &mut self,
        q: &CpuTensor,
        k: &CpuTensor,
        v: &CpuTensor,
        params: AttentionParams<'_, Self>,
        step: &Step<'_>,
    ) -> Result<CpuTensor, StepError> {
        let (isa, num_heads, width) = (self.isa, self.num_heads, q.cols());
        let head_dim = width / num_heads;
        let mut out = self.tensor(q.rows(), width);
        let group = &step.groups[self.kv.group(params.layer)];
        self.kv
            .write(params.layer, &group.slots, k.data(), v.data());
        let cache = self.kv.layer(params.layer);
        let num_kv_heads = cache.layout.num_kv_heads;
        let queries_per_kv = num_heads / num_kv_heads;

        // Runs of rows of one sequence; split further by heads only where there are too few to share out.
        let num_runs: usize = step
            .sequences
            .iter()
            .map(|seq| seq.rows.len().div_ceil(QUERY_ROWS))
            .sum();
        let head_parts = match num_runs >= self.team.size() * PARTS_PER_THREAD {
            true => 1,
            false => num_kv_heads,
        };
        struct Task<'a> {
            sequence: usize,
            rows: Range<usize>,
            columns: Range<usize>,
            out: ColumnsMut<'a>,
        }
        let mut tasks = Vec::with_capacity(num_runs * head_parts);
        let mut rest = out.data_mut();
        for (sequence, seq) in step.sequences.iter().enumerate() {
            for start in seq.rows.clone().step_by(QUERY_ROWS) {
                let rows = start..seq.rows.end.min(start + QUERY_ROWS);
                let (run, after) = rest.split_at_mut(rows.len() * width);
                rest = after;
                let parts = ColumnsMut::new(run, rows.len())
                    .split_even(head_parts, queries_per_kv * head_dim);
                tasks.extend(parts.into_iter().map(|(columns, out)| Task {
                    sequence,
                    rows: rows.clone(),
                    columns,
                    out,
                }));
            }
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        self.team.for_each(tasks, |_, mut task| {
            let seq = &step.sequences[task.sequence];
            let queries = PagedQueries {
                q: &q.data()[task.rows.start * width..task.rows.end * width],
                sinks: params.sinks,
                first_position: seq.first_position + (task.rows.start - seq.rows.start),
                window: params.window,
                block_table: group.block_table(task.sequence),
                scale,
            };
            let kv_width = queries_per_kv * head_dim;
            let kv_heads = task.columns.start / kv_width..task.columns.end / kv_width;
            paged_attention(isa, cache, queries, kv_heads, &mut task.out);
        });
        Ok(out)
    }

    fn moe(
        &mut self,
        x: &CpuTensor,
        router: &CpuLinear,
        experts: &CpuExperts,
        top_k: usize,
    ) -> Result<CpuTensor, StepError> {
        let logits = self.linear(x, router)?;
        self.moe.route(&logits, top_k);
        Ok(self.run_experts(x, experts, top_k))
    }

    fn add(&mut self, mut x: CpuTensor, y: &CpuTensor) -> Result<CpuTensor, StepError> {
        add_assign(self.isa, x.data_mut(), y.data());
        Ok(x)
    }

    fn select_rows(&mut self, x: &CpuTensor, rows: &[usize]) -> Result<CpuTensor, StepError> {
        let mut out = self.tensor(rows.len(), x.cols());
        for (out, row) in out.data_mut().chunks_exact_mut(x.cols()).zip(rows) {
            out.copy_from_slice(x.row(*row));
        }
        Ok(out)
    }

    fn logits(&mut self, x: &CpuTensor, head: &CpuHead) -> Result<CpuLogits, StepError> {
        Ok(CpuLogits {
            values: match head.rows() {
                HeadRows::Bf16(rows) => self.multiply(x, rows, None),
                HeadRows::Int8(rows) => self.multiply_packed(x, rows, None),
            },
            runs: head.runs().cloned(),
        })
    }

    fn sample(
        &mut self,
        logits: &CpuLogits,
        draws: &[(usize, &SampleSpec)],
    ) -> Result<Vec<SampledToken>, StepError> {
        let isa = self.isa;
        self.for_each_row(draws, |row, spec, scratch| {
            sampler::sample(isa, logits.row(row), spec, scratch)
        })
    }

    fn score(
        &mut self,
        logits: &CpuLogits,
        scores: &[(usize, Score)],
    ) -> Result<Vec<PromptLogprobs>, StepError> {
        let isa = self.isa;
        self.for_each_row(scores, |row, score, scratch| {
            sampler::score(isa, logits.row(row), score, scratch)
        })
    }

    fn to_host(&mut self, logits: &CpuLogits) -> Result<Vec<f32>, StepError> {
        let (mut all, mut row) = (Vec::new(), Vec::new());
        for index in 0..logits.values.rows() {
            logits.row(index).write_out(&mut row);
            all.extend_from_slice(&row);
        }
        Ok(all)
    }
}
