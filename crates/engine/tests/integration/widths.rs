//! The engine against the slow reference, at a small shape and at GPT-OSS-20B's widths.

use gossamer_testkit::random_model::RandomModel;

use crate::driver::{Row, largest, prompt, step};
use crate::folder::Folder;
use crate::reference::Reference;

/// Margin of a router below which bf16 keys may turn its choice.
const NEAR_TIE: f64 = 2e-3;

/// Compares the logits after every prefix of one prompt (one prefill, then one step per token).
fn check(model: &RandomModel, shard_bytes: u64, prefill: usize, len: usize, tolerance: f64) {
    let folder = Folder::of(model, shard_bytes);
    let reference = Reference::open(folder.path());
    let clear = (9..).map(|seed| {
        reference.closest_choice.set(f64::INFINITY);
        let tokens = prompt(seed, len, model.vocab_size);
        (reference.logits(&tokens), tokens)
    });
    let (expected, tokens) = clear
        .take(20)
        .find(|_| reference.closest_choice.get() > NEAR_TIE)
        .expect("one prompt in two has no near tie");
    let mut engine = folder.load(2, 16);
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
        check(&RandomModel::small(seed), u64::MAX, 37, 53, 5e-3);
    }
}

#[test]
fn sharded_files_agree_with_the_reference() {
    check(&RandomModel::small(5), 100_000, 20, 21, 5e-3);
}

#[test]
fn the_widths_of_20b_agree_with_the_reference() {
    let model = RandomModel::gpt_oss_20b(2, 1024, 11);
    check(&model, 600_000_000, 7, 9, 5e-3);
}
