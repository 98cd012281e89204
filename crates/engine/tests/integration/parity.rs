//! The embedded model against transformers' `GptOssForCausalLM`: logits and greedy text.
//!
//! `fixtures/tiny_parity.json` was made once from the same weights by `models/tiny/make_fixtures.py` (f32, eager attention).
//! The engine keeps keys and values in bf16, or in eight bits; that rounding is what the tolerances are for.

use gossamer_engine::{Engine, EngineConfig, EngineExecutor, KvDtype, ModelSource, WeightFormat};
use gossamer_scheduler::PromptScores;
use serde_json::Value;

use crate::driver::{Row, largest, plan, step};
use crate::folder::config;
use crate::reference::Reference;

/// Largest difference among the best 20 logits and of the logarithm of their sum. The other logits are tens below: a
/// rounded key moves them further without moving any probability.
const TOLERANCE: f64 = 0.08;

pub fn fixtures() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/tiny_parity.json")).unwrap();
    file["cases"].as_array().unwrap().clone()
}

pub fn tokens(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_u64().unwrap() as u32)
        .collect()
}

fn engine() -> EngineExecutor {
    Engine::load(&ModelSource::Tiny, &config(2, 64)).unwrap()
}

/// Largest difference between `logits` and what the case lists of them under `listed`.
fn worst_difference(case: &Value, listed: &str, logits: impl Fn(usize) -> f64) -> f64 {
    let mut worst: f64 = 0.0;
    for pair in case[listed].as_array().unwrap() {
        let (token, expected) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
        worst = worst.max((logits(token as usize) - expected).abs());
    }
    worst
}

#[test]
fn logits_after_the_prompt_agree() {
    let mut engine = engine();
    let cases = fixtures();
    assert!(cases.len() >= 10);
    for case in &cases {
        let prompt = tokens(&case["prompt"]);
        let row = Row::new(&prompt, 0..64);
        let logits = engine.logits(&plan(&[(&row, prompt.len())])).unwrap();
        let [top, others] = ["top20", "selected"]
            .map(|listed| worst_difference(case, listed, |token| f64::from(logits[token])));
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        let off = (f64::from(largest) + sum.ln() - case["logsumexp"].as_f64().unwrap()).abs();
        let name = &case["name"];
        println!("{name}: best within {top:.4}, others {others:.4}, logsumexp {off:.4}");
        assert!(top < TOLERANCE && off < TOLERANCE, "{name}");
    }
}

/// The slow reference bridges the two: with exact keys and values it is transformers, with rounded ones the engine, on
/// every logit of the vocabulary. An f32 and an f64 sum can round to neighbouring bf16 values, hence the tolerance; it is
/// relative beyond 20, because the logits of untrained tokens are hundreds below zero.
#[test]
fn the_slow_reference_agrees_with_both() {
    let model = gossamer_engine::tiny();
    let mut reference = Reference::new(model.config, [model.weights().unwrap()].into_iter());
    let mut engine = engine();
    let cases = fixtures();
    // Up to just beyond the window of 128.
    for case in cases
        .iter()
        .filter(|case| case["prompt"].as_array().unwrap().len() <= 130)
    {
        let (name, prompt) = (&case["name"], tokens(&case["prompt"]));
        reference.kv = None;
        let logits = reference.last_logits(&prompt);
        for listed in ["top20", "selected"] {
            let worst = worst_difference(case, listed, |token| logits[token]);
            assert!(worst < 2e-3, "{name}: {listed} off by {worst}");
        }
        reference.kv = Some(KvDtype::Bf16);
        let expected = reference.last_logits(&prompt);
        let row = Row::new(&prompt, 0..64);
        let logits = engine.logits(&plan(&[(&row, prompt.len())])).unwrap();
        let differences = logits
            .iter()
            .zip(expected)
            .map(|(a, b)| (f64::from(*a) - b).abs() / b.abs().max(20.0));
        let worst = differences.fold(0.0, f64::max);
        println!("{name}: the engine's logits within {worst:.6} of the reference's");
        assert!(worst < 0.0025, "{name}: off by {worst}");
    }
}

#[test]
fn greedy_continuations_agree() {
    let mut engine = engine();
    for case in &fixtures() {
        let (prompt, expected) = (tokens(&case["prompt"]), tokens(&case["greedy"]));
        let mut row = Row::new(&prompt, 0..64);
        for _ in 0..expected.len() {
            let left = row.left();
            step(&mut engine, &mut [(&mut row, left)]);
        }
        assert_eq!(row.tokens[prompt.len()..], expected, "{}", case["name"]);
    }
}

/// Eight bits, against the same fixtures: how far the logits move, and how much of the greedy text stays.
#[test]
fn eight_bits_stay_close() {
    let (bf16, int8) = (KvDtype::Bf16, KvDtype::Int8);
    for (weights, kv_cache_dtype) in [
        (WeightFormat::Bf16, bf16),
        (WeightFormat::Int8, bf16),
        (WeightFormat::Bf16, int8),
        (WeightFormat::Int8, int8),
    ] {
        let config = EngineConfig {
            weights,
            kv_cache_dtype,
            ..config(2, 64)
        };
        let mut engine = Engine::load(&ModelSource::Tiny, &config).unwrap();
        let vocab = engine.info().vocab_size;
        let mut off = Vec::new();
        let (mut same, mut all) = (0, 0);
        for case in &fixtures() {
            let (prompt, expected) = (tokens(&case["prompt"]), tokens(&case["greedy"]));
            // Every token of the text from the right ones before it.
            let text = [&prompt[..], &expected].concat();
            let mut plan = plan(&[(&Row::new(&text, 0..64), text.len())]);
            plan.slices[0].scores = Some(PromptScores {
                rows: prompt.len() - 1..text.len() - 1,
                targets: expected.clone(),
                top: 0,
            });
            let logits = engine.logits(&plan).unwrap();
            for (logits, token) in logits.chunks_exact(vocab).zip(&expected) {
                same += usize::from(largest(logits) == *token as usize);
                all += 1;
            }
            off.extend(case["top20"].as_array().unwrap().iter().map(|pair| {
                let logit = logits[pair[0].as_u64().unwrap() as usize];
                (f64::from(logit) - pair[1].as_f64().unwrap()).abs()
            }));
        }
        let mean = off.iter().sum::<f64>() / off.len() as f64;
        let largest = off.iter().copied().fold(0.0, f64::max);
        let rms = (off.iter().map(|x| x * x).sum::<f64>() / off.len() as f64).sqrt();
        println!(
            "weights {}, keys and values {}: the best 20 logits off by {mean:.4} on average, {rms:.4} (root of the mean \
             square), {largest:.4} at most; {same} of {all} tokens",
            weights.name(),
            kv_cache_dtype.name()
        );
        assert!(rms < 0.15, "{rms}");
        assert!(100 * same >= 98 * all, "{same} of {all}");
    }
}
