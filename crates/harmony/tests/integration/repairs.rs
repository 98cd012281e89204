//! Ill-formed generations and what becomes of them.
//!
//! A script is the generation after `<|start|>assistant`, control tokens by name. Many are from bug
//! reports against other servers; the number is that of the report.

use gossamer_harmony::RepairKind::{self, *};
use gossamer_harmony::{Token, Tokenizer, special};

use crate::heard::{Outcome, parse};

fn run(script: &str) -> Outcome {
    parse(&Tokenizer::get().encode_with_special(script))
}

/// Checks what a script gives: pairs of a kind and its text, and the repairs counted.
#[track_caller]
fn check(script: &str, expected: &[(&str, &str)], repairs: &[RepairKind]) {
    let outcome = run(script);
    let heard: Vec<_> = outcome
        .heard
        .iter()
        .map(|h| (h.kind.as_str(), h.text.as_str()))
        .collect();
    assert_eq!(heard, expected, "{script}");
    assert_eq!(outcome.repairs, repairs, "{script}");
}

#[test]
fn well_formed_generations_need_no_repair() {
    check(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        &[("reasoning", "Hm."), ("content", "4")],
        &[],
    );
    for header in [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|channel|>commentary to=functions.get_weather json",
        "<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary",
        "<|channel|>analysis to=functions.get_weather code",
    ] {
        check(
            &format!("{header}<|message|>{{\"city\":\"Oslo\"}}<|call|>"),
            &[("call get_weather", "{\"city\":\"Oslo\"}")],
            &[],
        );
    }
    check(
        "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
        &[("preamble", "I will look."), ("call f", "{}")],
        &[],
    );
    check(
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
        &[("content", "{}")],
        &[],
    );
    check(
        "<|channel|>final json<|message|>{}<|return|>",
        &[("content", "{}")],
        &[],
    );
    check("<|channel|>final<|message|><|return|>", &[], &[]);
}

#[test]
fn two_calls_are_numbered() {
    check(
        "<|channel|>commentary to=functions.f<|message|>1<|call|><|start|>assistant<|channel|>commentary to=functions.f<|message|>2<|call|>",
        &[("call f", "1"), ("call f", "2")],
        &[AfterStop],
    );
}

#[test]
fn without_message_the_rest_of_the_header_is_the_body() {
    // ai-dynamo/frontend-crates 236
    check(
        "<|channel|>final__HANDOFF__<|return|>",
        &[("content", "__HANDOFF__")],
        &[MissingMessage],
    );
    check(
        "<|channel|>final The answer is to=4.<|return|>",
        &[("content", "The answer is to=4.")],
        &[MissingMessage],
    );
    check(
        "<|channel|>analysis Let me see.<|end|>",
        &[("reasoning", "Let me see.")],
        &[MissingMessage],
    );
    check(
        "<|channel|>commentary to=functions.f json{\"a\": 1}<|call|>",
        &[("call f", "{\"a\": 1}")],
        &[MissingMessage],
    );
    check(
        "<|channel|>commentary to=functions.f <|constrain|>json {\"a\": 1}<|call|>",
        &[("call f", "{\"a\": 1}")],
        &[MissingMessage],
    );
    check(
        "<|channel|>commentary to=functions.f{\"a\": 1}<|call|>",
        &[("call f", "{\"a\": 1}")],
        &[MissingMessage],
    );
    check(
        "<|channel|>commentary to=functions.now<|call|>",
        &[("call now", "")],
        &[MissingMessage],
    );
    check(
        "Hello there.<|return|>",
        &[("content", "Hello there.")],
        &[MissingChannel, MissingMessage],
    );
    check(
        "Hello there.",
        &[("content", "Hello there.")],
        &[MissingChannel, TruncatedHeader],
    );
}

#[test]
fn a_header_without_end_becomes_a_body_that_streams() {
    let words = "word ".repeat(500);
    check(
        &format!("<|channel|>final {words}"),
        &[("content", &words)],
        &[MissingMessage],
    );
    check(
        &words,
        &[("content", &words)],
        &[MissingChannel, MissingMessage],
    );
    let outcome = run(&"<|channel|>".repeat(1000));
    assert_eq!(outcome.heard, []);
}

#[test]
fn scraps_after_a_channel_marker_are_not_shown() {
    // ggml-org/llama.cpp 27720: the model begins anew by itself.
    for (scrap, text) in [
        ("??", "??"),
        ("commentary?", "?"),
        ("commentary 2?", "2?"),
        ("commentary?commentary?", "?commentary?"),
        ("Some free text", "Some free text"),
    ] {
        let outcome = run(&format!(
            "<|channel|>{scrap}<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>"
        ));
        assert_eq!(outcome.text_of("reasoning"), text);
        assert_eq!(outcome.text_of("content"), "4");
        assert!(outcome.repairs.contains(&MissingMessage));
    }
    check(
        "<|channel|>commentary to=assistant<|channel|>commentary?<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        &[("reasoning", "?"), ("content", "4")],
        &[MissingMessage, DuplicateHeader, BadRecipient],
    );
    // The same scrap at the end of everything is all the answer there is.
    check(
        "<|channel|>Some free text<|return|>",
        &[("content", "Some free text")],
        &[MissingChannel, MissingMessage],
    );
}

#[test]
fn text_beside_a_whole_header_is_reasoning() {
    // openai/harmony 38, vllm 23567
    check(
        "<|channel|>commentary ––commentary to=functions.f<|message|>{}<|call|>",
        &[("reasoning", "––commentary"), ("call f", "{}")],
        &[HeaderText],
    );
    check(
        "Well now <|channel|>final<|message|>4<|return|>",
        &[("reasoning", "Well now"), ("content", "4")],
        &[HeaderText],
    );
    // openai/harmony 60
    check(
        "<|channel|>final<|constrain|>response<|message|>4<|return|>",
        &[("content", "4")],
        &[],
    );
}

#[test]
fn channels_are_guessed() {
    check(
        "<|message|>4<|return|>",
        &[("content", "4")],
        &[MissingChannel],
    );
    check(
        "<|channel|><|message|>4<|return|>",
        &[("content", "4")],
        &[MissingChannel],
    );
    check("final<|message|>4<|return|>", &[("content", "4")], &[]);
    check(
        "user<|message|>4<|return|>",
        &[("reasoning", "user"), ("content", "4")],
        &[MissingChannel, HeaderText],
    );
    check(
        "<|channel|>––commentary<|message|>4<|end|>",
        &[("reasoning", "––commentary"), ("preamble", "4")],
        &[UnknownChannel, HeaderText],
    );
    check(
        "<|channel|>analyze<|message|>4<|end|>",
        &[("reasoning", "4")],
        &[UnknownChannel],
    );
    check(
        "<|channel|>thought<|message|>4<|end|>",
        &[("reasoning", "thought"), ("content", "4")],
        &[MissingChannel, UnknownChannel, HeaderText],
    );
    check(
        "<|channel|>analysis<|channel|>final<|message|>4<|return|>",
        &[("content", "4")],
        &[DuplicateHeader],
    );
}

#[test]
fn recipients_are_read_wherever_they_stand() {
    // vllm 32587, ollama 11704: the marker must not become part of the name.
    check(
        " to=functions.query<|channel|>commentary<|channel|>commentary json<|message|>{}<|call|>",
        &[("call query", "{}")],
        &[DuplicateHeader],
    );
    let spelled_out = run("<|channel|>commentary to=functions.query");
    assert_eq!(spelled_out.heard, [], "half a header is no call");
    check(
        "<|channel|>final to=functions.f<|message|>{}<|call|>",
        &[("call f", "{}")],
        &[],
    );
    check(
        "<|channel|>commentary to=f<|message|>{}<|call|>",
        &[("call f", "{}")],
        &[MissingNamespace],
    );
    check(
        "<|channel|>analysis to=python code<|message|>1+1<|call|>",
        &[("call python", "1+1")],
        &[BuiltinRecipient],
    );
    check(
        "<|channel|>analysis to=browser.search<|message|>{}<|call|>",
        &[("call browser.search", "{}")],
        &[BuiltinRecipient],
    );
    for nobody in [
        "to=",
        "to=functions.",
        "to=assistant",
        "to=all",
        "to=commentary",
    ] {
        check(
            &format!("<|channel|>commentary {nobody}<|message|>Hi<|end|>"),
            &[("preamble", "Hi")],
            &[BadRecipient],
        );
    }
    check(
        " to=functions.f<|channel|>commentary to=functions.g<|message|>{}<|call|>",
        &[("call f", "{}")],
        &[BadRecipient],
    );
}

#[test]
fn a_name_ends_before_a_marker_spelled_in_text() {
    let tokenizer = Tokenizer::get();
    let mut tokens = vec![special::CHANNEL];
    tokens.extend(tokenizer.encode("commentary to=functions.query<|channel|>commentary"));
    tokens.push(special::MESSAGE);
    tokens.extend(tokenizer.encode("{}"));
    let outcome = parse(&tokens);
    assert_eq!(outcome.heard[1].kind, "call query");
    assert_eq!(outcome.repairs, [HeaderText]);
}

#[test]
fn missing_starts_and_ends_are_supplied() {
    let answer = [("reasoning", "Hm."), ("content", "4")];
    for (middle, repairs) in [
        (
            "<|start|>assistant<|channel|>final<|message|>",
            &[MissingEnd][..],
        ),
        ("<|channel|>final<|message|>", &[MissingEnd]),
        ("<|end|><|channel|>final<|message|>", &[MissingStart]),
        (
            "<|end|>assistant<|channel|>final<|message|>",
            &[MissingStart],
        ),
        (
            "<|end|><|start|><|channel|>final<|message|>",
            &[MissingRole],
        ),
        (
            "<|end|><|start|><|start|>assistant<|channel|>final<|message|>",
            &[DuplicateHeader],
        ),
        ("<|end|><|message|>", &[MissingStart, MissingChannel]),
        ("<|end|>final<|message|>", &[MissingStart]),
        ("<|end|><|start|>assistant<|message|>", &[MissingChannel]),
        (
            "<|end|>\n<|start|>assistant<|channel|>final<|message|>",
            &[MissingStart, DuplicateHeader],
        ),
        (
            "<|end|><|start|>assistant<|start|>assistant<|channel|>final<|message|>",
            &[DuplicateHeader],
        ),
    ] {
        let script = format!("<|channel|>analysis<|message|>Hm.{middle}4<|return|>");
        check(&script, &answer, repairs);
    }
    // openai/harmony 60: the header of a call right after the end.
    check(
        "<|channel|>analysis<|message|>Hm.<|end|>commentary to=functions.f<|message|>{}<|call|>",
        &[("reasoning", "Hm."), ("call f", "{}")],
        &[MissingStart],
    );
    // vllm 43408
    check(
        "<|channel|>analysis<|message|>Hm.<|end|> 364 <|start|>assistant<|channel|>final<|message|>4<|return|>",
        &[("reasoning", "Hm."), ("content", " 364 4")],
        &[MissingStart, MissingChannel, MissingMessage],
    );
}

#[test]
fn control_tokens_inside_a_body_do_not_break_it() {
    check(
        "<|channel|>final<|message|>one<|message|> two<|constrain|> three<|return|>",
        &[("content", "one two three")],
        &[ControlInBody, ControlInBody],
    );
    check(
        "<|channel|>commentary to=functions.f<|message|>{\"a\":<|channel|> \"b\"}<|call|>",
        &[("call f", "{\"a\": \"b\"}")],
        &[MissingMessage, MissingEnd],
    );
}

#[test]
fn what_follows_a_stop_token_is_kept() {
    check(
        "<|channel|>final<|message|>4<|return|> and more",
        &[("content", "4 and more")],
        &[MissingStart, MissingChannel, AfterStop, TruncatedHeader],
    );
    check(
        "<|channel|>final<|message|>4<|return|><|return|>",
        &[("content", "4")],
        &[StrayEnd, AfterStop],
    );
    check(
        "<|channel|>final<|message|>4<|endoftext|>",
        &[("content", "4")],
        &[],
    );
}

#[test]
fn other_speakers_are_not_the_answer() {
    check(
        "<|channel|>final<|message|>4<|end|><|start|>user<|message|>And 5?<|end|>",
        &[("content", "4"), ("reasoning", "And 5?")],
        &[ForeignRole],
    );
    check(
        "<|channel|>final<|message|>4<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>{}<|end|>",
        &[("content", "4"), ("reasoning", "{}")],
        &[ForeignRole],
    );
    check(
        "<|channel|>final<|message|>4<|end|><|start|>f to=assistant<|channel|>commentary<|message|>{}<|end|>",
        &[("content", "4"), ("reasoning", "f{}")],
        &[ForeignRole, HeaderText],
    );
}

#[test]
fn a_generation_cut_in_a_header_shows_nothing_of_it() {
    for cut in [
        "",
        "<|channel|>",
        "<|channel|>comment",
        "<|channel|>commentary to",
        "<|channel|>commentary to=functions.get_wea",
        "<|channel|>commentary to=functions.get_weather <|constrain|>js",
        " to=functions.get",
        "<|channel|>final<|message|>4<|end|><|start|>",
        "<|channel|>final<|message|>4<|end|><|start|>assist",
    ] {
        let text = if cut.contains('4') { "4" } else { "" };
        assert_eq!(run(cut).all_text(), text, "{cut}");
    }
}

#[test]
fn unknown_tokens_are_dropped() {
    let mut tokens = Tokenizer::get().encode_with_special("<|channel|>final<|message|>4");
    tokens.extend([
        special::VOCAB_SIZE as u32,
        u32::MAX,
        200_013,
        200_000,
        199_998,
    ]);
    tokens.extend(Tokenizer::get().encode("2"));
    let outcome = parse(&tokens);
    assert_eq!(outcome.all_text(), "42");
    assert_eq!(outcome.repairs, [UnknownToken; 5]);
}

/// The token of a single byte.
fn byte(byte: u8) -> Token {
    let tokenizer = Tokenizer::get();
    let found = (0..256).find(|&token| tokenizer.token_bytes(token) == Some(&[byte]));
    found.expect("every byte has a token")
}

#[test]
fn characters_wait_until_they_are_whole() {
    let body = Tokenizer::get().encode_with_special("<|channel|>final<|message|>");
    let smile: Vec<_> = "😀".bytes().map(byte).collect();

    assert_eq!(
        parse(&[body.clone(), smile.clone()].concat()).all_text(),
        "😀"
    );
    let broken = parse(&[body, smile[..2].to_vec(), vec![special::RETURN]].concat());
    assert_eq!(broken.all_text(), "\u{fffd}");
    assert_eq!(broken.repairs, [InvalidUtf8]);
}

#[test]
fn half_a_character_never_moves_into_the_next_message() {
    let tokenizer = Tokenizer::get();
    let analysis = tokenizer.encode_with_special("<|channel|>analysis<|message|>");
    let last = tokenizer.encode_with_special("<|channel|>final<|message|>");
    let e_acute: Vec<_> = "é".bytes().map(byte).collect();
    let (first, second) = (e_acute[..1].to_vec(), e_acute[1..].to_vec());

    for outcome in [
        parse(&[&analysis[..], &first, &last, &second].concat()),
        parse(&[&last[..], &first, &analysis, &second].concat()),
        // Text in a header that a whole body follows is reasoning.
        parse(&[&first[..], &last, &second].concat()),
    ] {
        assert_eq!(outcome.text_of("reasoning"), "\u{fffd}");
        assert_eq!(outcome.text_of("content"), "\u{fffd}");
    }
}
