//! The accelerated backend over the stand-ins, against the CPU backend: the same plans, the same answers.
//!
//! What this covers is everything but the kernels: layouts and formats of weights, the flow of a layer, slots, block tables,
//! windows, chunks, copies, logits, draws. With f32 activations both compute the same numbers but for the order of sums
//! and the rounding of keys and values to bf16 that it may tip.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use gossamer_scheduler::{
    Executor, NewRequest, PromptScores, RequestId, SamplingParams, Scheduler, SchedulerConfig,
    Speculation, StopConditions, TokenEvent,
};
use gossamer_testkit::random_model::RandomModel;

use super::Accelerated;
use super::linear::{EightBits, Form, Linear};
use super::plans::{Random, World, world};
use crate::config::{DeviceChoice, EngineConfig, KvCacheSize, KvDtype, ModelSource, WeightFormat};
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
        kv_cache_dtype: KvDtype::Bf16,
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

/// Worst and middle difference over several worlds.
fn differences(pair: [&mut EngineExecutor; 2], model: &RandomModel, rounds: u64) -> [f64; 2] {
    let [expected, found] = pair;
    assert_eq!(expected.capacity(), found.capacity());
    let capacity = expected.capacity();
    let window = capacity.groups.last().and_then(|group| group.window);
    let pool = (NUM_BLOCKS, capacity.block_size);
    let mut all = Vec::new();
    for seed in 0..rounds {
        let mut random = Random::new(seed + 100);
        let lens: Vec<usize> = (0..5).map(|_| 1 + random.below(85)).collect();
        let world = world(&lens, pool, window, seed, model.vocab_size as u32);
        let pair = [&mut *expected, &mut *found];
        all.extend(run(pair, world, model.vocab_size, seed));
    }
    all.sort_by(f64::total_cmp);
    let [middle, worst] = [all[all.len() / 2], all[all.len() - 1]];
    println!("{} rows, {middle:.1e} off, at most {worst:.1e}", all.len());
    assert!(all.len() > 40 * rounds as usize);
    [worst, middle]
}

#[test]
fn random_plans_give_the_logits_of_the_cpu() {
    let model = RandomModel::small(41);
    let folder = Folder::of(&model, "plans");
    let source = ModelSource::Folder(folder.0.clone());
    for (block_size, window_groups) in [(16, true), (32, true), (16, false), (8, true)] {
        let config = config(block_size, window_groups);
        let mut cpu = load(&source, &config, None);
        let mut candle = load(&source, &config, Some(DType::F32));
        let [worst, _] = differences([&mut cpu, &mut candle], &model, 6);
        assert!(
            worst < 5e-3,
            "blocks of {block_size}, groups {window_groups}: {worst}"
        );
    }
}

#[test]
fn bf16_activations_and_eight_bits_stay_close() {
    // Without routing, where rounding turns a choice of expert now and then, and with it the row.
    let model = RandomModel {
        num_experts: 2,
        ..RandomModel::small(42)
    };
    let folder = Folder::of(&model, "close");
    let source = ModelSource::Folder(folder.0.clone());
    // candle's CPU device does not multiply matrices in bf16.
    let weights = WeightFormat::Int8;
    for dtype in [DType::F32, DType::BF16] {
        let mut cpu = load(&source, &config(16, true), None);
        let settings = EngineConfig {
            weights,
            ..config(16, true)
        };
        let mut candle = load(&source, &settings, Some(dtype));
        let [worst, middle] = differences([&mut cpu, &mut candle], &model, 3);
        assert!(middle < 0.1 && worst < 0.25, "{dtype:?}: {middle}, {worst}");
    }
}

/// Both forms of eight bits, on candle's CPU device, against the matrix as published.
#[test]
fn a_matrix_in_eight_bits_multiplies_like_the_published_one() {
    let model = RandomModel::small(43);
    let folder = Folder::of(&model, "matrix");
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let name = "model.layers.0.self_attn.q_proj";
    let shape = [model.num_heads * 64, model.hidden_size];
    let weight = checkpoint.weight(&format!("{name}.weight"), Dtype::Bf16, &shape);
    let bias = checkpoint.weight(&format!("{name}.bias"), Dtype::Bf16, &shape[..1]);
    let (weight, bias) = (weight.unwrap(), bias.unwrap());
    let x: Vec<f32> = (0..3 * shape[1])
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
        .collect();
    let x = Tensor::from_vec(x, (3, shape[1]), &Device::Cpu).unwrap();
    let product = |format, eight_bits| {
        let form = Form {
            format,
            eight_bits,
            input: DType::F32,
        };
        let linear = Linear::new(&weight, Some(&bias), form, &Device::Cpu).unwrap();
        let out = linear.forward(&x).unwrap();
        assert_eq!((out.dims(), out.dtype()), (&[3, shape[0]][..], DType::F32));
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let expected = product(WeightFormat::Bf16, EightBits::Q8_0);
    for eight_bits in [EightBits::Q8_0, EightBits::Afq8] {
        let found = product(WeightFormat::Int8, eight_bits);
        let off = off(&expected, &found);
        println!("{eight_bits:?}: {off:.1e} off");
        assert!(off > 0.0 && off < 0.03, "{eight_bits:?}: {off}");
    }
}

#[test]
fn draws_and_scores_are_those_of_the_sampler_over_the_whole_row() {
    let model = RandomModel::small(44);
    let folder = Folder::of(&model, "draws");
    let source = ModelSource::Folder(folder.0.clone());
    let settings = config(16, true);
    let mut cpu = load(&source, &settings, None);
    let mut engine = load(&source, &settings, Some(DType::F32));
    let greedy = SamplingParams::greedy();
    let whole = SamplingParams {
        temperature: 1.0,
        ..greedy.clone()
    };
    let kinds = [
        greedy,
        whole.clone(),
        SamplingParams {
            top_k: 7,
            ..whole.clone()
        },
        SamplingParams {
            top_p: 0.6,
            ..whole.clone()
        },
        SamplingParams {
            logprobs: Some(3),
            ..whole.clone()
        },
        SamplingParams {
            logit_bias: vec![(5, 9.0)],
            ..whole
        },
    ];
    let isa = gossamer_kernels::Isa::detect();
    let mut scratch = Scratch::default();
    for seed in 0..8 {
        let lens = [20, 3, 40, 7, 1, 16, 30];
        let pool = (NUM_BLOCKS, 16);
        let world = world(&lens, pool, Some(model.sliding_window), seed, 300);
        let mut plan = world.plan(&lens);
        for (index, slice) in plan.slices.iter_mut().enumerate() {
            let params = SamplingParams {
                seed,
                ..kinds[index % kinds.len()].clone()
            };
            slice.samples[0].params = Arc::new(params);
            // Two draws from one row.
            let mut second = slice.samples[0].clone();
            second.choice = 1;
            slice.samples.push(second);
        }
        let tokens = world.sequences[2].tokens.clone();
        plan.slices[2].scores = Some(PromptScores {
            rows: 0..39,
            targets: tokens[1..].to_vec(),
            top: 2,
        });
        let logits = engine.logits(&plan).unwrap();
        let output = engine.execute(&plan).unwrap();
        let rows: Vec<&[f32]> = logits.chunks_exact(300).collect();
        // 39 scored rows come before the third sequence's own.
        let row_of = |slice: usize| if slice < 2 { slice } else { slice + 39 };
        let mut samples = output.samples.iter();
        for (index, slice) in plan.slices.iter().enumerate() {
            for spec in &slice.samples {
                let row = Row::whole(rows[row_of(index)]);
                let expected = sampler::sample(isa, row, spec, &mut scratch).unwrap();
                assert_eq!(samples.next(), Some(&expected), "sequence {index}");
            }
        }
        let expected = cpu.execute(&plan).unwrap();
        assert_eq!(output.scores.len(), 39);
        for (found, expected) in output.scores.iter().zip(&expected.scores) {
            let off = (found.logprobs.logprob - expected.logprobs.logprob).abs();
            assert!(off < 0.02, "{off}");
        }
    }
}

#[test]
fn keys_and_values_in_eight_bits_are_refused_before_weights_are_read() {
    use crate::backend::OnBackend;
    let settings = EngineConfig {
        kv_cache_dtype: KvDtype::Int8,
        ..config(16, true)
    };
    let progress = &mut |_| panic!("weights are read");
    let loading = Loading::of(&ModelSource::Tiny, &settings, progress).unwrap();
    let backend = Accelerated::reference(loading.model(), settings.weights, DType::F32);
    let error = loading.run(backend).map(drop).unwrap_err().to_string();
    assert!(
        error.contains("kv_cache_dtype") && error.contains("int8 is for the CPU"),
        "{error}"
    );
}

/// The scheduler's own plans: prefixes reused, sequences preempted, choices that share blocks and part.
#[test]
fn texts_under_the_scheduler_are_those_of_the_cpu() {
    let model = RandomModel::small(45);
    let folder = Folder::of(&model, "texts");
    let source = ModelSource::Folder(folder.0.clone());
    let settings = EngineConfig {
        kv_cache: KvCacheSize::Blocks(14),
        ..config(16, true)
    };
    let texts = [None, Some(DType::F32)].map(|dtype| {
        let mut engine = load(&source, &settings, dtype);
        let scheduler = SchedulerConfig {
            max_num_batched_tokens: 24,
            max_num_seqs: 8,
            max_waiting: 20,
            enable_prefix_caching: true,
            speculation: Speculation::Off,
            queue_timeout: None,
        };
        let mut scheduler = Scheduler::new(&scheduler, &engine.capacity());
        let mut texts = std::collections::BTreeMap::<(u64, u32), Vec<u32>>::new();
        let (mut cached, mut copies) = (0, 0);
        for wave in 0..2 {
            for id in 0..4 {
                let mut random = Random::new(7);
                // All begin alike.
                let mut prompt: Vec<u32> = (0..36).map(|_| random.below(300) as u32).collect();
                prompt.extend((0..id * 9).map(|at| ((at * 31 + id * 7) % 300) as u32));
                let request = NewRequest {
                    prompt,
                    n: 1 + (id % 2) as u32,
                    sampling: Arc::new(SamplingParams {
                        temperature: id as f32 * 0.4,
                        seed: id + 3,
                        ..SamplingParams::greedy()
                    }),
                    stop: StopConditions {
                        stop_token_ids: Arc::new([]),
                        max_tokens: 21,
                        min_tokens: 0,
                    },
                    cache_salt: 0,
                    priority: 0,
                    handover: None,
                    prompt_logprobs: None,
                    constraint: None,
                    speculation: Speculation::Off,
                };
                scheduler.submit(RequestId(wave * 4 + id), request).unwrap();
            }
            while let Some(plan) = scheduler.next_plan() {
                copies += plan.copies.len();
                scheduler.commit(engine.execute(&plan).unwrap()).unwrap();
                for (id, event) in scheduler.take_events() {
                    match event {
                        TokenEvent::Token { index, token, .. } => {
                            texts.entry((id.0, index)).or_default().push(token);
                        }
                        TokenEvent::Finished(summary) => cached += summary.cached_len,
                        TokenEvent::Failed(error) => panic!("{error}"),
                        _ => {}
                    }
                }
            }
        }
        let preemptions = scheduler.num_preemptions();
        println!("{cached} tokens reused, {preemptions} preemptions, {copies} copies");
        assert!(cached > 0 && preemptions > 0 && copies > 0);
        texts
    });
    assert_eq!(texts[0].len(), 12);
    assert_eq!(texts[0], texts[1]);
}

/// The embedded model says what transformers made of it (`tests/fixtures/tiny_parity.json`).
#[test]
fn the_embedded_model_agrees_with_transformers() {
    let file = include_str!("../../../tests/fixtures/tiny_parity.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        let ids = value.as_array().unwrap().iter();
        ids.map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let mut engine = load(&ModelSource::Tiny, &config(16, true), Some(DType::F32));
    let mut cases: Vec<_> = file["cases"].as_array().unwrap().iter().collect();
    cases.sort_by_key(|case| case["prompt"].as_array().unwrap().len());
    let mut checked = 0;
    for case in &cases[..3] {
        let (prompt, greedy) = (ids(&case["prompt"]), ids(&case["greedy"]));
        let tokens = [&prompt[..], &greedy[..4]].concat();
        let pool = (NUM_BLOCKS, 16);
        let mut world = world(&[tokens.len()], pool, Some(128), 3, 10);
        world.sequences[0].tokens = tokens;
        let mut counts = prompt.len();
        for expected in &greedy[..4] {
            let plan = world.plan(&[counts]);
            let output = engine.execute(&plan).unwrap();
            assert_eq!(output.samples[0].token, *expected, "{}", case["name"]);
            world.advance(&[counts]);
            counts = 1;
            checked += 1;
        }
    }
    assert_eq!(checked, 12);
}
