//! The engine against the slow reference, at a small shape and at GPT-OSS-20B's widths.

use gossamer_engine::{KvDtype, WeightFormat};
use gossamer_scheduler::PromptScores;
use gossamer_testkit::random_model::RandomModel;

use crate::driver::{Row, largest, plan, prompt, step};
use crate::folder::Folder;
use crate::reference::Reference;

/// Margin of a router below which rounded keys may turn its choice.
const NEAR_TIE: f64 = 2e-3;

/// Compares the logits after every prefix of one prompt (one prefill, then one step per token).
fn check(
    model: &RandomModel,
    folder: &Folder,
    kv: KvDtype,
    prefill: usize,
    len: usize,
    tolerance: f64,
) {
    let mut reference = Reference::open(folder.path());
    reference.kv = Some(kv);
    let clear = (9..).map(|seed| {
        reference.closest_choice.set(f64::INFINITY);
        let tokens = prompt(seed, len, model.vocab_size);
        (reference.logits(&tokens), tokens)
    });
    let (expected, tokens) = clear
        .take(20)
        .find(|_| reference.closest_choice.get() > NEAR_TIE)
        .expect("one prompt in two has no near tie");
    let mut engine = folder.load_as((WeightFormat::Bf16, kv), 2, 16);
    let mut row = Row::new(&tokens[..prefill], (0..16).rev());
    let mut agreed = 0;
    for position in prefill - 1..len {
        // What was sampled does not matter here: the next token is given.
        row.tokens.truncate(position);
        row.tokens.push(tokens[position]);
        let left = row.left();
        let logits = step(&mut engine, &mut [(&mut row, left)]).remove(0).1;
        let expected = &expected[position];
        let deviation =
            (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
        let worst = logits
            .iter()
            .zip(expected)
            .map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max);
        assert!(
            worst <= tolerance * deviation,
            "position {position}: off by {worst}, logits deviate by {deviation}"
        );
        let best: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
        agreed += usize::from(largest(&logits) == largest(&best));
    }
    assert_eq!(agreed, len + 1 - prefill, "same greedy tokens");
}

#[test]
fn small_shape_agrees_with_the_reference() {
    for seed in 1..4 {
        let model = RandomModel::small(seed);
        let folder = Folder::of(&model, u64::MAX);
        check(&model, &folder, KvDtype::Bf16, 37, 53, 5e-3);
        // Where sums in f32 and in f64 round to neighbours, these are twice as far apart or more.
        check(&model, &folder, KvDtype::Int8, 37, 53, 2e-2);
    }
}

#[test]
fn sharded_files_agree_with_the_reference() {
    let model = RandomModel::small(5);
    let folder = Folder::of(&model, 100_000);
    check(&model, &folder, KvDtype::Bf16, 20, 21, 5e-3);
}

#[test]
fn the_widths_of_20b_agree_with_the_reference() {
    let model = RandomModel::gpt_oss_20b(2, 1024, 11);
    let folder = Folder::of(&model, 600_000_000);
    check(&model, &folder, KvDtype::Bf16, 7, 9, 5e-3);
    eight_bits_move_the_logits_little(&model, &folder);
}

/// How far the logits after every token of a prompt move, with keys and values in eight bits, and, beside it, with weights
/// in eight bits. The router of a random model has near ties, and a row where another expert is taken is another row; hence
/// the median over the rows.
fn eight_bits_move_the_logits_little(model: &RandomModel, folder: &Folder) {
    const LEN: usize = 200;
    let tokens = prompt(1, LEN, model.vocab_size);
    let logits = |weights, kv| {
        let mut engine = folder.load_as((weights, kv), 2, 16);
        let mut plan = plan(&[(&Row::new(&tokens, 0..16), LEN)]);
        plan.slices[0].scores = Some(PromptScores {
            rows: 0..LEN - 1,
            targets: tokens[1..].to_vec(),
            top: 0,
        });
        engine.logits(&plan).unwrap()
    };
    let expected = logits(WeightFormat::Bf16, KvDtype::Bf16);
    let squares = expected.iter().map(|x| f64::from(*x).powi(2));
    let deviation = (squares.sum::<f64>() / expected.len() as f64).sqrt();
    for (weights, kv) in [
        (WeightFormat::Bf16, KvDtype::Int8),
        (WeightFormat::Int8, KvDtype::Bf16),
    ] {
        let logits = logits(weights, kv);
        let rows = expected.chunks_exact(model.vocab_size);
        let rows = rows.zip(logits.chunks_exact(model.vocab_size));
        let same = rows.clone().filter(|(a, b)| largest(a) == largest(b));
        let same = same.count();
        let differences = rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())));
        let most = differences.clone().flatten().fold(0.0, f64::max) / deviation;
        let mut means: Vec<f64> = differences
            .map(|row| row.sum::<f64>() / model.vocab_size as f64 / deviation)
            .collect();
        let mean = means.iter().sum::<f64>() / LEN as f64;
        means.sort_by(f64::total_cmp);
        let median = means[LEN / 2];
        println!(
            "weights {}, keys and values {}: logits off by {mean:.4} of their deviation on average, by {median:.4} in \
             the median row, by {most:.3} at most; {same} of {LEN} greedy tokens the same",
            weights.name(),
            kv.name()
        );
        if kv == KvDtype::Int8 {
            assert!(median > 0.0 && median < 0.1, "{median}");
            assert!(100 * same >= 85 * LEN, "{same} of {LEN}");
        }
    }
}
