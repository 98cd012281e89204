//! The engine under the real scheduler: greedy texts are the same whether layers with a window have a group of their own
//! or not, whether prefixes are reused or not, whether tokens are drafted or not, and whether sequences are preempted or
//! not; with keys and values in bf16 and in eight bits.

use gossamer_engine::{Engine, EngineConfig, KvDtype, ModelSource, WeightFormat};
use gossamer_scheduler::{NewRequest, Speculation};
use gossamer_testkit::random_model::RandomModel;

use crate::driver::prompt;
use crate::folder::{Folder, config};
use crate::scheduled::{greedy, run};

/// A prompt and its number of choices.
type Waves = Vec<Vec<(Vec<u32>, u32)>>;

fn requests(waves: &Waves, max_tokens: usize) -> Vec<Vec<NewRequest>> {
    let request = |(prompt, n): &(Vec<u32>, u32)| NewRequest {
        n: *n,
        ..greedy(prompt, max_tokens)
    };
    let wave = |wave: &Vec<_>| wave.iter().map(request).collect();
    waves.iter().map(wave).collect()
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
    let waves = requests(&waves(vocab, window), max_tokens);
    for dtype in [KvDtype::Bf16, KvDtype::Int8] {
        check_dtype(dtype, source, &waves, window, max_tokens, few);
    }
}

fn check_dtype(
    kv_cache_dtype: KvDtype,
    source: &ModelSource,
    waves: &[Vec<NewRequest>],
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
            for (reuse, speculation) in [
                (false, Speculation::Off),
                (true, Speculation::Off),
                (true, Speculation::Auto),
            ] {
                let outcome = run(&mut engine, waves, reuse, speculation);
                let expected = expected.get_or_insert_with(|| outcome.texts());
                let case = format!(
                    "{}, groups {window_groups}, reuse {reuse}, speculation {speculation:?}, {num_blocks} blocks: \
                     {} preemptions, {} tokens reused, {} at a time, {} slices with blocks behind a window, {:?}",
                    kv_cache_dtype.name(),
                    outcome.preemptions,
                    outcome.cached_len,
                    outcome.most_running,
                    outcome.windowed,
                    outcome.drafts
                );
                println!("{case}");
                assert!(outcome.texts() == *expected, "{case}");
                assert_eq!(outcome.windowed > 0, window_groups, "{case}");
                let accepted = outcome.drafts.accepted > 0;
                assert_eq!(accepted, speculation == Speculation::Auto, "{case}");
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
