//! The engine under the real scheduler: greedy texts are the same whether layers with a window have a group of their own
//! or not, whether prefixes are reused or not, and whether sequences are preempted or not; with keys and values in bf16
//! and in eight bits.

use std::collections::BTreeMap;
use std::sync::Arc;

use gossamer_engine::{Engine, EngineConfig, EngineExecutor, KvDtype, ModelSource, WeightFormat};
use gossamer_scheduler::{
    Executor, NewRequest, RequestId, SamplingParams, Scheduler, SchedulerConfig, StopConditions,
    TokenEvent, invariants,
};
use gossamer_testkit::random_model::RandomModel;

use crate::driver::prompt;
use crate::folder::{Folder, config};

/// What a run gave besides its texts.
#[derive(Debug, Default)]
struct Outcome {
    /// By request and choice.
    texts: BTreeMap<(u64, u32), Vec<u32>>,
    cached_len: usize,
    preemptions: u64,
    /// Most sequences that ran at a time.
    most_running: usize,
    /// Slices that came with fewer blocks than their context has.
    windowed: usize,
}

/// A prompt and its number of choices, submitted in waves: the next one when the one before has ended.
type Waves = Vec<Vec<(Vec<u32>, u32)>>;

fn run(engine: &mut EngineExecutor, waves: &Waves, reuse: bool, max_tokens: usize) -> Outcome {
    let config = SchedulerConfig {
        max_num_batched_tokens: 48,
        max_num_seqs: 16,
        max_waiting: 100,
        enable_prefix_caching: reuse,
        queue_timeout: None,
    };
    let mut scheduler = Scheduler::new(&config, &engine.capacity());
    let mut outcome = Outcome::default();
    let mut id = 0;
    for wave in waves {
        for (prompt, n) in wave {
            let request = NewRequest {
                prompt: prompt.clone(),
                n: *n,
                sampling: Arc::new(SamplingParams::greedy()),
                stop: StopConditions {
                    stop_token_ids: Arc::new([]),
                    max_tokens,
                    min_tokens: 0,
                },
                cache_salt: 0,
                priority: 0,
                handover: None,
                prompt_logprobs: None,
                constraint: None,
            };
            scheduler.submit(RequestId(id), request).unwrap();
            id += 1;
        }
        while let Some(plan) = scheduler.next_plan() {
            let behind = |slice: &&gossamer_scheduler::SeqSlice| {
                let mut blocks = slice.block_tables.iter().flatten();
                blocks.any(|block| !block.is_block())
            };
            outcome.windowed += plan.slices.iter().filter(behind).count();
            outcome.most_running = outcome.most_running.max(scheduler.stats().running);
            scheduler.commit(engine.execute(&plan).unwrap()).unwrap();
            invariants::check(&scheduler).unwrap();
            for (id, event) in scheduler.take_events() {
                match event {
                    TokenEvent::Token { index, token, .. } => {
                        let text = outcome.texts.entry((id.0, index)).or_default();
                        text.push(token);
                    }
                    TokenEvent::Finished(summary) => outcome.cached_len += summary.cached_len,
                    TokenEvent::Failed(error) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }
    outcome.preemptions = scheduler.num_preemptions();
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
    outcome
}

/// Prompts around and far beyond a window, some beginning alike; then the same again, and longer.
fn waves(vocab: usize, window: usize) -> Waves {
    let text = |seed, len| prompt(seed, len, vocab);
    let shared = text(1, 2 * window + 40);
    let with_tail = |seed, len| [shared.clone(), text(seed, len)].concat();
    let first = vec![
        (text(2, window / 2), 1),
        (text(3, window + 5), 2),
        (with_tail(4, 3), 1),
        (with_tail(5, window), 1),
    ];
    let second = vec![
        (with_tail(5, window), 1),
        (with_tail(6, 20), 3),
        ([with_tail(5, window), text(7, 30)].concat(), 1),
    ];
    vec![first, second]
}

fn check(source: &ModelSource, vocab: usize, window: usize, max_tokens: usize, few: [usize; 2]) {
    let waves = waves(vocab, window);
    for dtype in [KvDtype::Bf16, KvDtype::Int8] {
        check_dtype(dtype, source, &waves, window, max_tokens, few);
    }
}

fn check_dtype(
    kv_cache_dtype: KvDtype,
    source: &ModelSource,
    waves: &Waves,
    window: usize,
    max_tokens: usize,
    few: [usize; 2],
) {
    let mut expected = None;
    for window_groups in [false, true] {
        for (num_blocks, is_scarce) in [(2000, false), (few[usize::from(window_groups)], true)] {
            let settings = EngineConfig {
                window_groups,
                kv_cache_dtype,
                weights: WeightFormat::Int8,
                ..config(2, num_blocks)
            };
            let mut engine = Engine::load(source, &settings).unwrap();
            let mut preemptions = 0;
            for reuse in [false, true] {
                let outcome = run(&mut engine, waves, reuse, max_tokens);
                let expected = expected.get_or_insert_with(|| outcome.texts.clone());
                let case = format!(
                    "{}, groups {window_groups}, reuse {reuse}, {num_blocks} blocks: {} preemptions, {} tokens reused, \
                     {} at a time, {} slices with blocks behind a window",
                    kv_cache_dtype.name(),
                    outcome.preemptions,
                    outcome.cached_len,
                    outcome.most_running,
                    outcome.windowed
                );
                println!("{case}");
                assert!(outcome.texts == *expected, "{case}");
                assert_eq!(outcome.windowed > 0, window_groups, "{case}");
                preemptions += outcome.preemptions;
                // A prefix longer than the window is found behind it.
                assert!(
                    (outcome.cached_len > 3 * window) == reuse || is_scarce,
                    "{case}"
                );
            }
            assert_eq!(preemptions > 0, is_scarce, "{num_blocks} blocks");
        }
    }
    let expected = expected.unwrap();
    assert_eq!(expected.len(), 10);
    assert!(expected.values().all(|text| text.len() == max_tokens));
}

#[test]
fn a_small_model_says_the_same_with_and_without_window_groups() {
    let model = RandomModel::small(31);
    let folder = Folder::of(&model, u64::MAX);
    let source = ModelSource::Folder(folder.path().to_owned());
    check(
        &source,
        model.vocab_size,
        model.sliding_window,
        40,
        [10, 15],
    );
}

#[test]
fn the_embedded_model_says_the_same_with_and_without_window_groups() {
    check(&ModelSource::Tiny, 2000, 128, 40, [36, 64]);
}
