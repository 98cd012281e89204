//! Whatever the model writes: the stream is well formed, and says what the whole says.
//!
//! Random sequences of tokens that build and break harmony messages go through the real server: one rule of the script for
//! each, found by its number in the prompt.

use gossamer_harmony::{Tokenizer, special};
use gossamer_testkit::Script;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{create, request, stream, weather, without_ids};
use crate::common::{server, with};

fn token() -> impl Strategy<Value = u32> {
    let words = [
        "a",
        " word",
        "final",
        "analysis",
        "commentary",
        " to=functions.f",
        "assistant",
        "json",
        "{\"",
        "é",
    ];
    let words: Vec<u32> = words
        .iter()
        .map(|word| Tokenizer::get().encode(word)[0])
        .collect();
    prop_oneof![
        4 => proptest::sample::select(words),
        3 => proptest::sample::select(vec![
            special::START, special::CHANNEL, special::MESSAGE, special::END, special::CONSTRAIN, special::CALL,
        ]),
        // Bytes, of which most are no character alone.
        1 => 0..300_u32,
    ]
}

#[test]
fn any_tokens_make_a_stream_of_the_right_form() {
    const CASES: usize = 60;
    // Deterministic: the same cases every time.
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec(token(), 0..40);
    let mut script = Script::echo();
    let mut answers = Vec::new();
    for case in 0..CASES {
        let tokens = strategy.new_tree(&mut runner).expect("a case").current();
        script = script.when_tokens(&format!("case {case}."), tokens.clone());
        answers.push(tokens);
    }
    let server = server(script);
    let mut items = 0;
    for (case, tokens) in answers.iter().enumerate() {
        for tools in [json!([]), weather()] {
            let body = with(
                &request(&format!("case {case}.")),
                json!({"tools": tools, "max_output_tokens": 60}),
            );
            let (_, streamed) = stream(&server, &body);
            let whole = create(&server, &body);
            items += streamed["output"].as_array().map_or(0, Vec::len);
            assert_eq!(without_ids(streamed), without_ids(whole), "{tokens:?}");
        }
    }
    assert!(items > 3 * CASES, "only {items} items");
    server.wait_until_idle();
}
