//! The embedded model against transformers' `GptOssForCausalLM`: logits and greedy text.
//!
//! `fixtures/tiny_parity.json` was made once from the same weights by `models/tiny/make_fixtures.py` (f32, eager attention).
//! The engine keeps keys and values in bf16; that rounding is what the tolerance is for.

use gossamer_engine::{Engine, EngineExecutor, ModelSource};
use serde_json::Value;

use crate::driver::{Row, plan, step};
use crate::folder::config;

/// Largest difference of a logit; the fixtures have none whose two best are closer than 0.05.
const TOLERANCE: f64 = 0.08;

fn fixtures() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/tiny_parity.json")).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn tokens(value: &Value) -> Vec<u32> {
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

#[test]
fn logits_after_the_prompt_agree() {
    let mut engine = engine();
    let cases = fixtures();
    assert!(cases.len() >= 10);
    let mut worst: f64 = 0.0;
    for case in &cases {
        let prompt = tokens(&case["prompt"]);
        let row = Row::new(&prompt, 0..64);
        let logits = engine.logits(&plan(&[(&row, prompt.len())])).unwrap();
        for listed in ["top20", "selected"] {
            for pair in case[listed].as_array().unwrap() {
                let (token, expected) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
                let off = (f64::from(logits[token as usize]) - expected).abs();
                worst = worst.max(off);
                assert!(
                    off < TOLERANCE,
                    "{}: token {token} is off by {off}",
                    case["name"]
                );
            }
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        let off = (f64::from(largest) + sum.ln() - case["logsumexp"].as_f64().unwrap()).abs();
        assert!(
            off < TOLERANCE,
            "{}: logsumexp is off by {off}",
            case["name"]
        );
    }
    println!("largest difference of a logit: {worst}");
}

#[test]
fn greedy_continuations_agree() {
    let mut engine = engine();
    for case in fixtures() {
        let (prompt, expected) = (tokens(&case["prompt"]), tokens(&case["greedy"]));
        let mut row = Row::new(&prompt, 0..64);
        for _ in 0..expected.len() {
            let left = row.left();
            step(&mut engine, &mut [(&mut row, left)]);
        }
        assert_eq!(row.tokens[prompt.len()..], expected, "{}", case["name"]);
    }
}
