//! `/generate`, `/chat`, `/stream`: the same answers as chat completions, in short.

use gossamer_testkit::Script;
use serde_json::{Value, json};

use crate::common::{CHAT, HELLO, assembled, chat, server, whole, with};

const PATHS: [&str; 3] = ["/generate", "/chat", "/stream"];

#[test]
fn the_answers_are_those_of_chat_completions() {
    let server = server(Script::always(HELLO));
    let client = server.client();
    let full = client.post(CHAT, &chat("Hi")).ok();
    let expected = whole(&full);
    let messages = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for body in [json!({"prompt": "Hi"}), messages] {
        let generated = client.post("/generate", &body).ok();
        assert_eq!(generated["text"], "Hello, world!");
        assert_eq!(generated["reasoning"], "Let me think.");
        assert_eq!(generated["finish_reason"], "stop");
        assert_eq!(generated["model"], "test-model");

        let said = client.post("/chat", &body).ok();
        assert_eq!(said["message"], full["choices"][0]["message"]);
        assert_eq!(said["finish_reason"], "stop");

        let transcript = client.stream("/stream", &body).transcript();
        assert!(transcript.done);
        assert_eq!(assembled(&transcript), expected);
        let last = transcript.chunks.last().expect("a chunk");
        // The first request filled the prefix cache; only that differs.
        for usage in [&generated["usage"], &said["usage"], &last["usage"]] {
            for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                assert_eq!(usage[count], full["usage"][count], "{count}");
            }
        }
    }
}

#[test]
fn every_field_reaches_the_model() {
    let server = server(Script::echo());
    let client = server.client();
    let count =
        |body: Value| client.post("/generate", &body).ok()["usage"]["prompt_tokens"].clone();
    let rendered = |effort: &str| {
        let body = with(&chat("Hi"), json!({"reasoning_effort": effort}));
        client.post("/v1/chat/completions/render", &body).ok()["count"].clone()
    };
    for level in ["low", "medium", "high"] {
        let body = json!({"prompt": "Hi", "reasoning_level": level});
        assert_eq!(count(body), rendered(level));
    }
    let answer = client
        .post(
            "/generate",
            &json!({"prompt": "one two three four", "max_tokens": 5}),
        )
        .ok();
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    let answer = client
        .post(
            "/generate",
            &json!({"prompt": "one two three four", "stop": " three"}),
        )
        .ok();
    assert_eq!(answer["text"], "one two");
    let all = json!({
        "prompt": "Hi", "model": "test-alias", "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "max_tokens": 9,
    });
    for path in PATHS {
        assert_eq!(client.post(path, &all).status, 200, "{path}");
    }
}

#[test]
fn errors_name_the_field_that_was_sent() {
    let server = server(Script::echo());
    let long = "word ".repeat(5000);
    for (body, param, code) in [
        (json!({}), "prompt", "missing_required_parameter"),
        (
            json!({"prompt": "a", "messages": []}),
            "prompt",
            "invalid_value",
        ),
        (json!({"prompt": 1}), "prompt", "invalid_type"),
        (json!({"prompt": long}), "prompt", "context_length_exceeded"),
        (
            json!({"messages": [{"role": "user", "content": long}]}),
            "messages",
            "context_length_exceeded",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
            "missing_required_parameter",
        ),
        (
            json!({"prompt": "a", "reasoning_level": "max"}),
            "reasoning_level",
            "invalid_value",
        ),
        (
            json!({"prompt": "a", "reasoning_effort": "low"}),
            "reasoning_effort",
            "unknown_parameter",
        ),
        (
            json!({"prompt": "a", "stream": true}),
            "stream",
            "unknown_parameter",
        ),
        (
            json!({"prompt": "a", "temperature": -1}),
            "temperature",
            "decimal_below_min_value",
        ),
        (
            json!({"prompt": "a", "max_tokens": 0}),
            "max_tokens",
            "integer_below_min_value",
        ),
        (
            json!({"prompt": "a", "max_tokens": 9999}),
            "prompt",
            "context_length_exceeded",
        ),
        (
            json!({"prompt": "a", "model": "nope"}),
            "model",
            "model_not_found",
        ),
    ] {
        for path in PATHS {
            let status = if code == "model_not_found" { 404 } else { 400 };
            let error = server.client().post(path, &body).error(status);
            assert_eq!(
                (error.param.as_deref(), error.code.as_deref()),
                (Some(param), Some(code)),
                "{path} {body:.200}"
            );
        }
    }
    assert_eq!(server.control.steps(), 0, "nothing ran");
}
