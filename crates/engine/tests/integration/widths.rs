//! The engine against the slow reference, at a small shape and at GPT-OSS-20B's widths.

use gossamer_testkit::random_model::RandomModel;

use crate::driver::{Row, largest, prompt, step};
use crate::folder::Folder;
use crate::reference::Reference;

/// Compares the logits after every prefix of one prompt (one prefill, then one step per token).
fn check(model: &RandomModel, shard_bytes: u64, prefill: usize, len: usize, tolerance: f64) {
    let folder = Folder::of(model, shard_bytes);
    let tokens = prompt(9, len, model.vocab_size);
    let expected = Reference::open(folder.path()).logits(&tokens);
    let mut engine = folder.load(2, 16);
    let mut row = Row::new(&tokens[..prefill], (0..16).rev());
    let mut agreed = 0;
    for position in prefill - 1..len {
        row.tokens.truncate(position + 1);
        let left = row.left();
        if left == 0 {
            row.tokens.push(tokens[position]);
        } else {
            row.tokens[position] = tokens[position];
        }
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
    check(&model, 600_000_000, 9, 11, 5e-3);
}
