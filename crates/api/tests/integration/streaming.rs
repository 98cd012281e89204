//! Streams: the exact sequence of events, usage, heartbeats, failures.

use std::time::Duration;

use gossamer_scheduler::ExecuteError;
use gossamer_testkit::client::{SseEvent, error_fields};
use gossamer_testkit::{Script, TestSetup};
use serde_json::{Value, json};

use crate::common::{
    CHAT, COMPLETIONS, HELLO, assembled, both_ways, chat, completion, read_until, server,
    stream_chat, with,
};

fn hello_in_pieces() -> Script {
    Script::echo().when_pieces(
        "Hi",
        &[
            "<|channel|>analysis<|message|>",
            "Let",
            " me",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "Hel",
            "lo",
            "<|return|>",
        ],
    )
}

#[test]
fn the_transcript_of_a_stream() {
    let server = server(hello_in_pieces());
    let transcript = stream_chat(&server, &chat("Hi"));
    let deltas: Vec<_> = (transcript.chunks.iter())
        .map(|chunk| {
            assert!(chunk.get("usage").is_none(), "nobody asked for usage");
            assert_eq!(chunk["system_fingerprint"], "fp_test");
            let choice = &chunk["choices"][0];
            assert_eq!(choice["logprobs"], json!(null));
            (choice["delta"].clone(), choice["finish_reason"].clone())
        })
        .collect();
    let null = Value::Null;
    assert_eq!(
        deltas,
        [
            (json!({"role": "assistant", "content": ""}), null.clone()),
            (
                json!({"reasoning": "Let", "reasoning_content": "Let"}),
                null.clone()
            ),
            (
                json!({"reasoning": " me", "reasoning_content": " me"}),
                null.clone()
            ),
            (json!({"content": "Hel"}), null.clone()),
            (json!({"content": "lo"}), null),
            (json!({}), json!("stop")),
        ]
    );
}

#[test]
fn usage_comes_in_a_chunk_of_its_own_when_asked_for() {
    let server = server(hello_in_pieces());
    let body = with(
        &chat("Hi"),
        json!({"stream_options": {"include_usage": true}}),
    );
    let mut chunks = stream_chat(&server, &body).chunks;
    let last = chunks.pop().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["object"], "chat.completion.chunk");
    let whole = server.client().post(CHAT, &chat("Hi")).ok();
    let mut expected = whole["usage"].clone();
    expected["prompt_tokens_details"] = last["usage"]["prompt_tokens_details"].clone();
    assert_eq!(last["usage"], expected);
    for chunk in chunks {
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
    }
}

#[test]
fn characters_are_never_cut() {
    let text = "é🦀中文 \u{1f468}\u{200d}\u{1f469} ok";
    let server = server(Script::always(&format!(
        "<|channel|>final<|message|>{text}"
    )));
    let transcript = stream_chat(&server, &chat("Hi"));
    assert_eq!(assembled(&transcript)[0].content, text);
    assert!(!format!("{:?}", transcript.chunks).contains('\u{fffd}'));
}

#[test]
fn a_silent_stream_gets_heartbeats() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.api.heartbeat = Some(Duration::from_millis(20));
    let server = setup.start();
    server.control.hold();
    let mut reader = server
        .client()
        .stream(CHAT, &with(&chat("Hi"), json!({"stream": true})));
    assert_eq!(
        reader.next(),
        Some(SseEvent::Comment("ping".into())),
        "before the first token"
    );
    server.control.release();
    let transcript = reader.transcript();
    assert!(transcript.done);
    assert_eq!(assembled(&transcript)[0].content, "Hello, world!");
}

#[test]
fn a_failure_in_the_stream_is_its_last_event() {
    for (path, body) in [(CHAT, chat("Hi")), (COMPLETIONS, completion("Hi"))] {
        let server = server(Script::echo());
        let body = with(
            &body,
            json!({"stream": true, "ignore_eos": true, "max_tokens": 1000}),
        );
        server.control.hold();
        let reader = server.client().stream(path, &body);
        server.control.allow(6);
        server.control.wait_until_blocked();
        server
            .control
            .fail_next(ExecuteError::Step("secret detail".into()));
        server.control.release();
        let mut transcript = reader.transcript();
        assert!(!transcript.done);
        let error = error_fields(&transcript.chunks.pop().expect("an event"));
        assert_eq!(error.code.as_deref(), Some("engine_error"));
        assert_eq!(error.kind, "server_error");
        assert!(!error.message.contains("secret"));
        assert!(!transcript.chunks.is_empty(), "there was an answer before");
        server.wait_until_idle();
        assert_eq!(
            server.metric("gossamer_api_errors_total{code=\"engine_error\"}"),
            1.0
        );
    }
}

#[test]
fn a_refused_request_is_no_stream() {
    let server = server(Script::echo());
    let body = with(&chat("Hi"), json!({"stream": true, "temperature": 3}));
    let response = server.client().post(CHAT, &body);
    assert_eq!(response.error(400).param.as_deref(), Some("temperature"));
    assert_eq!(response.header("content-type"), Some("application/json"));
}

#[test]
fn two_choices_share_a_stream() {
    let server = server(Script::echo().when_choices(
        "Hi",
        &[
            "<|channel|>final<|message|>one",
            "<|channel|>final<|message|>two two",
        ],
    ));
    let answers = both_ways(&server, &with(&chat("Hi"), json!({"n": 2})));
    assert_eq!(
        (answers[0].content.as_str(), answers[1].content.as_str()),
        ("one", "two two")
    );
}

#[test]
fn streams_are_answered_side_by_side() {
    let server = server(Script::echo());
    let mut readers: Vec<_> = (0..8)
        .map(|i| {
            let body = with(&chat(&format!("say number {i}")), json!({"stream": true}));
            server.client().stream(CHAT, &body)
        })
        .collect();
    // Read in turns: no stream waits for another to be read.
    for (i, reader) in readers.iter_mut().enumerate().rev() {
        read_until(reader, &i.to_string());
    }
    for reader in readers {
        assert!(reader.transcript().done);
    }
    server.wait_until_idle();
    assert_eq!(
        server.metric("gossamer_api_choices_finished_total{reason=\"stop\"}"),
        8.0
    );
}
