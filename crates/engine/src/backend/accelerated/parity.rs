//! The accelerated backend over the stand-ins, against the CPU backend: the same plans, the same answers.
//!
//! What this covers is everything but the kernels: layouts and formats of weights, the flow of a layer, slots, block tables,
//! windows, chunks, copies, logits, draws. With f32 activations both compute the same numbers but for the order of sums
//! and the rounding of keys and values to bf16 that it may tip.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use gossamer_scheduler::{Executor, PromptScores, SamplingParams};
use gossamer_testkit::random_model::RandomModel;

use super::Accelerated;
use super::linear::{EightBits, Form, Linear};
use super::plans::{Random, World, world};
use crate::config::{DeviceChoice, EngineConfig, KvCacheSize, ModelSource, WeightFormat};
use crate::executor::{EngineExecutor, Loading};
use crate::sampler::{self, Row, Scratch};
use crate::weights::{Checkpoint, Dtype};

const NUM_BLOCKS: usize = 90;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn of(model: &RandomModel, name: &str) -> Self {
        let name = format!("gossamer-parity-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        model.write(&path, u64::MAX).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(block_size: usize, window_groups: bool) -> EngineConfig {
    EngineConfig {
        device: DeviceChoice::Cpu,
        threads: 1,
        block_size,
        kv_cache: KvCacheSize::Blocks(NUM_BLOCKS),
        window_groups,
        max_model_len: None,
        weights: WeightFormat::Bf16,
        kernels: None,
        repack_cache: None,
    }
}

fn load(source: &ModelSource, config: &EngineConfig, dtype: Option<DType>) -> EngineExecutor {
    use crate::backend::OnBackend;
    let progress = &mut |_| ();
    let loading = Loading::of(source, config, progress).unwrap();
    let Some(dtype) = dtype else {
        return crate::Engine::load(source, config).unwrap();
    };
    let backend = Accelerated::reference(loading.model(), config.weights, dtype);
    loading.run(backend).unwrap()
}

/// The largest difference of a row, in units of the row's own deviation.
fn off(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let squares = expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let deviation = (squares / expected.len() as f64).sqrt();
    let pairs = expected.iter().zip(found);
    let worst = pairs
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, f64::max);
    worst / deviation
}

/// Runs random steps over a world to its end, on both; the differences of all rows of logits.
fn run(
    [expected, found]: [&mut EngineExecutor; 2],
    mut world: World,
    vocab: usize,
    seed: u64,
) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut differences = Vec::new();
    while world.sequences.iter().any(|s| s.computed < s.tokens.len()) {
        let count = |random: &mut Random| match random.below(4) {
            0 => 0,
            1 => 2 + random.below(40),
            _ => 1,
        };
        let counts: Vec<usize> = world.sequences.iter().map(|_| count(&mut random)).collect();
        let mut copies = Vec::new();
        let mut freed = Vec::new();
        for index in 0..world.sequences.len() {
            if random.below(3) == 0
                && let Some(copy) = world.move_block(index, &mut random)
            {
                freed.push(copy.src);
                copies.push(copy);
            }
        }
        let mut plan = world.plan(&counts);
        plan.copies = copies;
        let logits = [&mut *expected, &mut *found].map(|engine| engine.logits(&plan).unwrap());
        let rows = logits[0]
            .chunks_exact(vocab)
            .zip(logits[1].chunks_exact(vocab));
        differences.extend(rows.map(|(a, b)| off(a, b)));
        world.advance(&counts);
        // Not before the step is over: no block is both a source and a destination.
        world.free.splice(0..0, freed);
    }
    differences
}

#[test]
fn random_plans_give_the_logits_of_the_cpu() {
    let model = RandomModel::small(41);
    let folder = Folder::of(&model, "plans");
    let source = ModelSource::Folder(folder.0.clone());
    let (vocab, window) = (model.vocab_size, model.sliding_window);
    for (block_size, window_groups) in [(16, true), (32, true), (16, false), (8, true)] {
        let config = config(block_size, window_groups);
        let mut cpu = load(&source, &config, None);
        let mut candle = load(&source, &config, Some(DType::F32));
        assert_eq!(cpu.capacity(), candle.capacity());
        let mut all = Vec::new();
        for seed in 0..6 {
            let mut random = Random::new(seed + 100);
            let lens: Vec<usize> = (0..5).map(|_| 1 + random.below(85)).collect();
            let window = window_groups.then_some(window);
            let world = world(&lens, (NUM_BLOCKS, block_size), window, seed, vocab as u32);
            all.extend(run([&mut cpu, &mut candle], world, vocab, seed));
        }
        all.sort_by(f64::total_cmp);
        let [middle, worst] = [all[all.len() / 2], all[all.len() - 1]];
        println!(
            "blocks of {block_size}, groups {window_groups}: {} rows, {middle:.1e} off, at most {worst:.1e}",
            all.len()
        );
        assert!(all.len() > 100 && worst < 2e-2, "{worst}");
    }
}
