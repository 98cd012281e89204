//! The engine behind the scheduler's seam: plan in, drawn tokens out.
//!
//! Owns the order of a step (copies, forward pass, logits, draws) and loading. Knows nothing about requests, text or
//! time. Invariant: a step that fails has not damaged the engine; the next plan may be run.

use std::ops::Range;
use std::path::Path;

use gossamer_scheduler::{BatchPlan, Capacity, ExecuteError, Executor, StepOutput};

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::config::{EngineConfig, LoadProgress, ModelSource};
use crate::error::{LoadError, StepError};
use crate::info::EngineInfo;
use crate::kv_cache::KvShape;
use crate::model::{ARCHITECTURE, GptOss, Loader, ModelConfig, Totals, parse_stop_token_ids};
use crate::step::{Step, copies};
use crate::weights::{Checkpoint, read_to_string};

/// Rows of logits held at a time (0.8 MB each at GPT-OSS's vocabulary).
const MAX_LOGIT_ROWS: usize = 64;

/// Loads models.
pub struct Engine;

impl Engine {
    /// Loads a model onto the CPU.
    ///
    /// # Errors
    /// Every [`LoadError`]; the architecture is checked before any weight is opened.
    pub fn load(source: &ModelSource, config: &EngineConfig) -> Result<EngineExecutor, LoadError> {
        Self::load_with_progress(source, config, &mut |_| ())
    }

    /// As [`Engine::load`]; `progress` is called after every layer.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_progress(
        source: &ModelSource,
        config: &EngineConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<EngineExecutor, LoadError> {
        match source {
            ModelSource::Tiny => {
                let model = crate::tiny();
                let weights =
                    || Checkpoint::from_bytes("the embedded model.safetensors", model.weights()?);
                load(
                    "gossamer-tiny",
                    model.config,
                    || Ok(model.generation_config.to_owned()),
                    weights,
                    config,
                    progress,
                )
            }
            ModelSource::Folder(dir) => {
                let model = read_to_string(&dir.join("config.json"))?;
                load(
                    &folder_name(dir),
                    &model,
                    || read_to_string(&dir.join("generation_config.json")),
                    || Checkpoint::open(dir),
                    config,
                    progress,
                )
            }
        }
    }
}

fn folder_name(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn load(
    name: &str,
    model: &str,
    generation: impl FnOnce() -> Result<String, LoadError>,
    weights: impl FnOnce() -> Result<Checkpoint, LoadError>,
    engine: &EngineConfig,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<EngineExecutor, LoadError> {
    // The architecture first: another kind of model may lack every other file.
    let model = ModelConfig::parse(model)?;
    let stop_token_ids = parse_stop_token_ids(&generation()?, model.vocab_size)?;
    let max_model_len = match engine.max_model_len {
        None => model.max_position_embeddings,
        Some(len) if (1..=model.max_position_embeddings).contains(&len) => len,
        Some(len) => {
            return Err(LoadError::Setting {
                setting: "max_model_len",
                message: format!(
                    "{len} is not between 1 and the model's {}",
                    model.max_position_embeddings
                ),
            });
        }
    };
    let kv = KvShape::new(&model, engine)?;
    let checkpoint = weights()?;
    let mut backend = Cpu::new(
        &model,
        engine.threads,
        engine.kernels.as_deref(),
        engine.weights,
    )?;
    let mut totals = Totals::default();
    let model = GptOss::load(
        model,
        &mut Loader::new(&checkpoint, &mut totals),
        &mut backend,
        &mut |bytes| {
            let total_bytes = checkpoint.total_bytes();
            progress(LoadProgress { bytes, total_bytes });
        },
    )?;
    backend.allocate_kv_cache(&kv)?;
    let info = EngineInfo {
        name: name.to_owned(),
        architecture: ARCHITECTURE,
        num_layers: model.config().num_layers(),
        num_parameters: totals.parameters,
        weight_bytes: totals.bytes,
        max_model_len,
        vocab_size: model.config().vocab_size,
        stop_token_ids,
        backend: "cpu",
        kernels: backend.isa().name(),
        weights: engine.weights,
        num_threads: backend.num_threads(),
        kv_cache_dtype: kv.dtype,
        kv_cache_bytes: kv.total_bytes() as u64,
    };
    let runner = Runner {
        capacity: kv.capacity(max_model_len),
        model,
        backend,
    };
    Ok(EngineExecutor { runner, info })
}

/// A loaded model: what the scheduler steps.
pub struct EngineExecutor {
    runner: Runner<Cpu>,
    info: EngineInfo,
}

impl EngineExecutor {
    /// What was loaded, on what.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// The raw logits after the scored rows of each slice, and after its last if that samples, `[rows, vocab_size]`,
    /// row-major; the KV cache is written as by [`Executor::execute`]. For parity tests and tools.
    ///
    /// # Errors
    /// The plan is invalid.
    pub fn logits(&mut self, plan: &BatchPlan) -> Result<Vec<f32>, StepError> {
        self.runner.logits(plan)
    }
}

impl Executor for EngineExecutor {
    fn capacity(&self) -> Capacity {
        self.runner.capacity.clone()
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        Ok(self.runner.execute(plan)?)
    }
}

/// A model on its device.
struct Runner<B: Backend> {
    capacity: Capacity,
    model: GptOss<B>,
    backend: B,
}

impl<B: Backend> Runner<B> {
    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, StepError> {
        let Some((step, x)) = self.forward(plan)? else {
            return Ok(StepOutput::default());
        };
        let mut output = StepOutput::default();
        let (mut draws, mut scores) = (step.draws.as_slice(), step.scores.as_slice());
        for (chunk, rows) in step.logit_rows.chunks(MAX_LOGIT_ROWS).enumerate() {
            let logits = self.model.logits(&x, rows, &mut self.backend)?;
            let first = chunk * MAX_LOGIT_ROWS;
            let range = first..first + rows.len();
            let here = take_rows(&mut draws, range.clone());
            output.samples.extend(self.backend.sample(&logits, &here)?);
            let here = take_rows(&mut scores, range);
            output.scores.extend(self.backend.score(&logits, &here)?);
        }
        Ok(output)
    }

    fn logits(&mut self, plan: &BatchPlan) -> Result<Vec<f32>, StepError> {
        let Some((step, x)) = self.forward(plan)? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for rows in step.logit_rows.chunks(MAX_LOGIT_ROWS) {
            let logits = self.model.logits(&x, rows, &mut self.backend)?;
            all.extend(self.backend.to_host(&logits)?);
        }
        Ok(all)
    }

    /// Copies and layers; `None` for a plan without tokens.
    fn forward<'p>(
        &mut self,
        plan: &'p BatchPlan,
    ) -> Result<Option<(Step<'p>, B::Tensor)>, StepError> {
        let step = Step::new(plan, &self.capacity, self.model.config().vocab_size)?;
        let copies = copies(plan, &self.capacity)?;
        if !copies.is_empty() {
            self.backend.copy_blocks(&copies)?;
        }
        if step.tokens.is_empty() {
            return Ok(None);
        }
        let x = self.model.forward(&step, &mut self.backend)?;
        Ok(Some((step, x)))
    }
}

/// Splits off what belongs to these rows of logits, which come first, and counts the rows from the first of them.
fn take_rows<T: Copy>(items: &mut &[(usize, T)], rows: Range<usize>) -> Vec<(usize, T)> {
    let own = items.partition_point(|(row, _)| *row < rows.end);
    let (here, later) = items.split_at(own);
    *items = later;
    let of_chunk = |(row, item): &(usize, T)| (row - rows.start, *item);
    here.iter().map(of_chunk).collect()
}
