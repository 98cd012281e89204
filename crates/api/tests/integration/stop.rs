//! Stop strings through the whole server: across token borders, streamed and whole, never in the reasoning.

use std::time::Duration;

use gossamer_testkit::{Script, TestSetup};
use serde_json::json;

use crate::common::{CHAT, COMPLETIONS, both_ways, chat, completion, server, with};

#[test]
fn a_stop_string_is_found_however_tokens_cut_it() {
    const FINAL: &str = "<|channel|>final<|message|>";
    for pieces in [
        &[FINAL, "one two END three"][..],
        &[FINAL, "one", " two", " ", "E", "N", "D", " three"],
        &[FINAL, "one two EN", "D three"],
        &[FINAL, "one two", " E", "ND", " three"],
        &[FINAL, "one two", " EEN", "EN", "D"],
    ] {
        let server = server(Script::echo().when_pieces("Hi", pieces));
        let answer = &both_ways(&server, &with(&chat("Hi"), json!({"stop": "END"})))[0];
        let text = pieces[1..].concat();
        let (expected, _) = text.split_once("END").expect("the script has it");
        assert_eq!(answer.content, expected, "{pieces:?}");
        assert_eq!(answer.finish_reason, "stop");
        server.wait_until_idle();
    }
}

#[test]
fn the_first_of_several_stop_strings_counts() {
    let server = server(Script::always("<|channel|>final<|message|>a, b; c. d"));
    let answer = &both_ways(
        &server,
        &with(&chat("Hi"), json!({"stop": [".", "; c", "nothing", ";"]})),
    )[0];
    assert_eq!(answer.content, "a, b");
}

#[test]
fn what_only_looked_like_a_stop_string_comes_out() {
    let server = server(Script::echo().when_pieces(
        "Hi",
        &["<|channel|>final<|message|>", "x", "EN", "EN", "E", "N"],
    ));
    let answer = &both_ways(&server, &with(&chat("Hi"), json!({"stop": "END"})))[0];
    assert_eq!(answer.content, "xENENEN");
    assert_eq!(answer.finish_reason, "stop", "by the model itself");
}

#[test]
fn reasoning_is_not_searched() {
    let server = server(Script::always(
        "<|channel|>analysis<|message|>END END<|end|><|start|>assistant<|channel|>final<|message|>fine. END never",
    ));
    let answer = &both_ways(&server, &with(&chat("Hi"), json!({"stop": ["END"]})))[0];
    assert_eq!(
        (answer.reasoning.as_str(), answer.content.as_str()),
        ("END END", "fine. ")
    );
}

#[test]
fn log_probabilities_do_not_spell_the_stop_string() {
    let server = server(Script::echo().when_pieces(
        "Hi",
        &["<|channel|>final<|message|>", "one", " two", "E", "N", "D"],
    ));
    let body = with(&chat("Hi"), json!({"stop": "END", "logprobs": true}));
    let answer = &both_ways(&server, &body)[0];
    let tokens: Vec<_> = answer
        .logprobs
        .iter()
        .map(|entry| entry["token"].clone())
        .collect();
    assert_eq!(tokens, ["one", " two"]);
}

#[test]
fn a_stop_string_ends_the_sequence_in_the_scheduler() {
    let setup = TestSetup::new(Script::always("<|channel|>final<|message|>one STOP"));
    setup.control.slow_down(Duration::from_millis(1));
    let server = setup.start();
    let body = with(
        &chat("Hi"),
        json!({"stop": "STOP", "ignore_eos": true, "max_tokens": 3000}),
    );
    let answer = server.client().post(CHAT, &body).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "one ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    server.wait_until_idle();
    let drawn = server.control.samples().len();
    assert!(drawn < 1000, "{drawn} tokens were drawn for an answer of 6");
    // Tokens drawn before the scheduler heard of it are not the client's.
    let counted = answer["usage"]["completion_tokens"]
        .as_u64()
        .expect("a count");
    assert!(counted <= 7, "{counted}");
}

#[test]
fn one_choice_may_stop_while_another_goes_on() {
    let server = server(Script::echo().when_choices(
        "Hi",
        &[
            "<|channel|>final<|message|>a STOP b",
            "<|channel|>final<|message|>this one goes on to its own end",
        ],
    ));
    let answers = both_ways(&server, &with(&chat("Hi"), json!({"n": 2, "stop": "STOP"})));
    assert_eq!(answers[0].content, "a ");
    assert_eq!(answers[1].content, "this one goes on to its own end");
}

#[test]
fn completions_stop_too() {
    let server = server(Script::echo().when_pieces("Once", &[" upon", " a", " ti", "me", " END"]));
    let body = with(&completion("Once"), json!({"stop": ["time"]}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(answer["choices"][0]["text"], " upon a ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}
