//! The engine behind the scheduler's seam: plan in, drawn tokens out.
//!
//! Owns the order of a step (copies, forward pass, logits, draws) and loading. Knows nothing about requests, text,
//! devices or time. Invariant: a step that fails has not damaged the engine and the next plan may be run, or the error is
//! fatal.

use std::ops::Range;
use std::path::Path;

use gossamer_scheduler::{BatchPlan, Capacity, ExecuteError, Executor, StepOutput};

use crate::backend::{self, Backend, BackendInfo, OnBackend};
use crate::config::{EngineConfig, KvCacheSize, LoadProgress, ModelSource};
use crate::drafts;
use crate::error::{LoadError, StepError};
use crate::info::EngineInfo;
use crate::kv_cache::KvShape;
use crate::model::{ARCHITECTURE, GptOss, Loader, ModelConfig, Totals, parse_stop_token_ids};
use crate::step::{Step, copies};
use crate::weights::{Checkpoint, Origin, read_to_string};

/// Rows of logits held at a time (0.8 MB each at GPT-OSS's vocabulary).
const MAX_LOGIT_ROWS: usize = 64;

/// Steps in a row that the device may fail before it is given up. Some errors pass (out of memory in a crowded step),
/// others do not (a device that was lost, a fault inside a kernel, after which every call fails): whoever watches over
/// readiness asks for a token every second, so the process ends seconds after such an error and not never.
const MAX_DEVICE_FAILURES: u32 = 3;

/// Loads models.
pub struct Engine;

impl Engine {
    /// Loads a model onto the device that `config` asks for.
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
        let loading = Loading::of(source, config, progress)?;
        let model = loading.model().clone();
        let origin = loading.origin().cloned();
        backend::open(&model, origin.as_ref(), config, loading)
    }
}

impl<'a> Loading<'a> {
    /// Reads all but the weights.
    ///
    /// # Errors
    /// Of the model's files, and of settings that contradict them.
    pub fn of(
        source: &ModelSource,
        config: &'a EngineConfig,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Result<Self, LoadError> {
        match source {
            ModelSource::Tiny => {
                let model = crate::tiny();
                let weights =
                    || Checkpoint::from_bytes("the embedded model.safetensors", model.weights()?);
                Self::new(
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
                Self::new(
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

    fn new(
        name: &str,
        model: &str,
        generation: impl FnOnce() -> Result<String, LoadError>,
        weights: impl FnOnce() -> Result<Checkpoint, LoadError>,
        engine: &'a EngineConfig,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Result<Self, LoadError> {
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
        Ok(Self {
            name: name.to_owned(),
            model,
            stop_token_ids,
            max_model_len,
            kv,
            checkpoint: weights()?,
            engine,
            progress,
        })
    }
}

fn folder_name(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(
        || "model".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// All that is known before there is a backend.
pub struct Loading<'a> {
    name: String,
    model: ModelConfig,
    stop_token_ids: Vec<u32>,
    max_model_len: usize,
    kv: KvShape,
    checkpoint: Checkpoint,
    engine: &'a EngineConfig,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Loading<'_> {
    /// What is to be loaded.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// The files that the weights come from, if they come from files.
    pub fn origin(&self) -> Option<&Origin> {
        self.checkpoint.origin()
    }
}

impl OnBackend for Loading<'_> {
    type Out = EngineExecutor;

    fn run<B: Backend>(self, backend: B) -> Result<EngineExecutor, LoadError> {
        let (runner, info) = self.load(backend)?;
        let runner = Box::new(runner);
        Ok(EngineExecutor { runner, info })
    }
}

impl Loading<'_> {
    fn load<B: Backend>(self, mut backend: B) -> Result<(Runner<B>, EngineInfo), LoadError> {
        let mut kv = self.kv;
        if !backend.kv_cache_dtypes().contains(&kv.dtype) {
            return Err(LoadError::Setting {
                setting: "kv_cache_dtype",
                message: format!(
                    "{} is for the CPU (device = \"cpu\"), and this is {}",
                    kv.dtype.name(),
                    backend.info().backend
                ),
            });
        }
        let block_bytes = kv.block_bytes() as u64;
        // Before minutes are spent on weights, where that can be known.
        match self.engine.kv_cache {
            KvCacheSize::Blocks(blocks) => kv.set_blocks(blocks as u64)?,
            KvCacheSize::Bytes(bytes) => kv.set_blocks(bytes / block_bytes)?,
            KvCacheSize::Auto { cpu_bytes, .. } => kv.set_blocks(cpu_bytes / block_bytes)?,
        }
        let mut totals = Totals::default();
        let (checkpoint, progress) = (&self.checkpoint, self.progress);
        let model = GptOss::load(
            self.model,
            &mut Loader::new(checkpoint, &mut totals),
            &mut backend,
            &mut |bytes| {
                let total_bytes = checkpoint.total_bytes();
                progress(LoadProgress { bytes, total_bytes });
            },
        )?;
        let kv_cache_reason = fit_to_device(&backend, &mut kv, self.engine.kv_cache)?;
        backend.allocate_kv_cache(&kv)?;
        let BackendInfo {
            backend: name,
            device,
            kernels,
            num_threads,
            repack_cache,
        } = backend.info();
        let info = EngineInfo {
            name: self.name,
            architecture: ARCHITECTURE,
            num_layers: model.config().num_layers(),
            num_parameters: totals.parameters,
            weight_bytes: totals.bytes,
            max_model_len: self.max_model_len,
            vocab_size: model.config().vocab_size,
            stop_token_ids: self.stop_token_ids,
            backend: name,
            device,
            kernels,
            weights: self.engine.weights,
            num_threads,
            kv_cache_dtype: kv.dtype,
            kv_cache_bytes: kv.total_bytes() as u64,
            kv_cache_reason,
            repack_cache,
        };
        let runner = Runner {
            capacity: kv.capacity(self.max_model_len),
            model,
            backend,
            failures: DeviceFailures::default(),
        };
        Ok((runner, info))
    }
}

/// Where the device has memory of its own: as many blocks as it has room for, or a check that those asked for fit. Why
/// that many, where the device decided.
fn fit_to_device<B: Backend>(
    backend: &B,
    kv: &mut KvShape,
    size: KvCacheSize,
) -> Result<Option<String>, LoadError> {
    let percent = match size {
        KvCacheSize::Auto { device_percent, .. } => device_percent,
        KvCacheSize::Bytes(_) | KvCacheSize::Blocks(_) => 100,
    };
    let Some(budget) = backend.kv_cache_budget(percent)? else {
        return Ok(None);
    };
    let block_bytes = kv.block_bytes() as u64;
    if matches!(size, KvCacheSize::Auto { .. }) {
        kv.set_blocks(budget.bytes / block_bytes)?;
        return Ok(Some(budget.reason));
    }
    let asked = kv.total_bytes() as u64;
    if asked > budget.free {
        return Err(LoadError::Setting {
            setting: "kv_cache",
            message: format!(
                "{asked} bytes, but the weights leave {} bytes of the device's memory",
                budget.free
            ),
        });
    }
    Ok(None)
}

/// A loaded model: what the scheduler steps.
pub struct EngineExecutor {
    runner: Box<dyn Run>,
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
        self.runner.capacity()
    }

    /// Where rows are batch invariant (`backend/mod.rs`).
    fn verifies_drafts(&self) -> bool {
        self.runner.verifies_drafts()
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        self.runner.execute(plan)
    }
}

/// A model on some device.
trait Run: Send {
    fn capacity(&self) -> Capacity;
    fn verifies_drafts(&self) -> bool;
    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError>;
    fn logits(&mut self, plan: &BatchPlan) -> Result<Vec<f32>, StepError>;
}

/// A model on its device.
struct Runner<B: Backend> {
    capacity: Capacity,
    model: GptOss<B>,
    backend: B,
    failures: DeviceFailures,
}

/// Steps in a row that failed because the device did.
#[derive(Default)]
struct DeviceFailures(u32);

impl DeviceFailures {
    /// Counts, and makes the last straw fatal.
    fn judge<T>(&mut self, result: Result<T, StepError>) -> Result<T, ExecuteError> {
        if !matches!(result, Err(StepError::Device(_))) {
            self.0 = 0;
            return Ok(result?);
        }
        self.0 += 1;
        result.map_err(|error| match self.0 < MAX_DEVICE_FAILURES {
            true => error.into(),
            false => ExecuteError::Fatal(format!("{} steps in a row: {error}", self.0)),
        })
    }
}

impl<B: Backend> Run for Runner<B> {
    fn capacity(&self) -> Capacity {
        self.capacity.clone()
    }

    fn verifies_drafts(&self) -> bool {
        B::BATCH_INVARIANT
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        let result = self.step(plan);
        self.failures.judge(result)
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
}

impl<B: Backend> Runner<B> {
    fn step(&mut self, plan: &BatchPlan) -> Result<StepOutput, StepError> {
        let Some((step, x)) = self.forward(plan)? else {
            return Ok(StepOutput::default());
        };
        let mut output = StepOutput::default();
        let (mut draws, mut scores) = (step.draws.as_slice(), step.scores.as_slice());
        let mut first = 0;
        while first < step.logit_rows.len() {
            let end = (first + MAX_LOGIT_ROWS).min(step.logit_rows.len());
            let end = drafts::whole_draws(&step.draws, first..end);
            let logits =
                (self.model).logits(&x, &step.logit_rows[first..end], &mut self.backend)?;
            let own = draws.partition_point(|draw| draw.row < end);
            let (here, later) = draws.split_at(own);
            draws = later;
            (output.samples).extend(drafts::draw(&mut self.backend, &logits, here, first)?);
            let here = take_rows(&mut scores, first..end);
            output.scores.extend(self.backend.score(&logits, &here)?);
            first = end;
        }
        Ok(output)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_fails_again_and_again_is_given_up_and_one_that_recovers_is_not() {
        let device = || Err::<(), _>(StepError::Device("out of memory".to_owned()));
        let mut failures = DeviceFailures::default();
        for _ in 0..5 {
            for _ in 1..MAX_DEVICE_FAILURES {
                let error = failures.judge(device()).unwrap_err();
                assert_eq!(error, ExecuteError::Device("out of memory".to_owned()));
            }
            failures.judge(Ok(())).unwrap();
        }
        // A plan that makes no sense says nothing about the device, but that it answers.
        let plan = Err::<(), _>(StepError::InvalidPlan("x".to_owned()));
        assert!(matches!(failures.judge(plan), Err(ExecuteError::Step(_))));
        for _ in 1..MAX_DEVICE_FAILURES {
            failures.judge(device()).unwrap_err();
        }
        let error = failures.judge(device()).unwrap_err();
        assert!(
            matches!(&error, ExecuteError::Fatal(text) if text.contains("3 steps")),
            "{error}"
        );
    }
}
