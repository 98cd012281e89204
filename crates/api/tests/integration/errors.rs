//! Refusals that are not about one field's value: models, lengths, bodies. Fields are in `contract.rs`.

use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::common::{CHAT, COMPLETIONS, chat, completion, server, with};

#[track_caller]
fn refused(server: &TestServer, path: &str, body: &Value, status: u16, code: &str, param: &str) {
    let error = server.client().post(path, body).error(status);
    let shown = format!("{body:.200}: {error:?}");
    assert_eq!(error.code.as_deref(), Some(code), "{shown}");
    assert_eq!(error.param.as_deref().unwrap_or(""), param, "{shown}");
    assert_eq!(error.kind, "invalid_request_error", "{shown}");
}

#[test]
fn unknown_models() {
    let server = server(Script::echo());
    let other = json!({"model": "gpt-nonexistent"});
    refused(
        &server,
        CHAT,
        &with(&chat("Hi"), other.clone()),
        404,
        "model_not_found",
        "model",
    );
    refused(
        &server,
        COMPLETIONS,
        &with(&completion("Hi"), other),
        404,
        "model_not_found",
        "model",
    );
}

#[test]
fn an_unknown_field_is_named_as_openai_names_it() {
    let server = server(Script::echo());
    let error = server
        .client()
        .post(CHAT, &with(&chat("Hi"), json!({"foo": 1})))
        .error(400);
    assert_eq!(error.message, "Unrecognized request argument supplied: foo");
}

#[test]
fn prompts_that_do_not_fit() {
    let server = server(Script::echo());
    let long = "word ".repeat(5000);
    for stream in [false, true] {
        let stream = json!({"stream": stream});
        let body = with(&chat(&long), stream.clone());
        refused(
            &server,
            CHAT,
            &body,
            400,
            "context_length_exceeded",
            "messages",
        );
        let body = with(&completion(long.as_str()), stream.clone());
        refused(
            &server,
            COMPLETIONS,
            &body,
            400,
            "context_length_exceeded",
            "prompt",
        );
        let body = with(&with(&chat("Hi"), stream), json!({"max_tokens": 4096}));
        refused(
            &server,
            CHAT,
            &body,
            400,
            "context_length_exceeded",
            "messages",
        );
    }
    assert_eq!(server.control.steps(), 0);
}

#[test]
fn a_prompt_that_just_fits() {
    let server = server(Script::echo());
    let prompt = vec![1_u32; 4096];
    let ask = |len: usize, max_tokens: usize| {
        let body = with(
            &completion(json!(prompt[..len])),
            json!({"max_tokens": max_tokens, "ignore_eos": true}),
        );
        server.client().post(COMPLETIONS, &body)
    };
    assert_eq!(ask(4095, 1).ok()["usage"]["total_tokens"], 4096);
    assert_eq!(ask(4090, 6).ok()["usage"]["total_tokens"], 4096);
    assert_eq!(
        ask(4090, 7).error(400).code.as_deref(),
        Some("context_length_exceeded")
    );
    assert_eq!(
        ask(4096, 1).error(400).code.as_deref(),
        Some("context_length_exceeded")
    );
}

#[test]
fn bodies_that_are_not_json() {
    let server = server(Script::echo());
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for body in [
        "",
        "{",
        "null,",
        "{\"model\": \"test-model\",}",
        "{\"model\":1,\"model\":2}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":1e999}",
        "hello",
        "\u{feff}{}",
        "{\"a\":\"\0\"}",
        "{\"a\":01}",
        "{\"a\":1}{\"b\":2}",
        deep.as_str(),
    ] {
        let headers = [("content-type", "application/json")];
        let error = server
            .client()
            .request("POST", CHAT, &headers, body.as_bytes())
            .error(400);
        assert_eq!(error.code.as_deref(), Some("invalid_json"), "{body:.60}");
    }
    let latin1 = server.client().request(
        "POST",
        CHAT,
        &[("content-type", "application/json")],
        b"{\"a\":\"\xe9\"}",
    );
    assert_eq!(latin1.error(400).code.as_deref(), Some("invalid_json"));
    // UTF-16, with and without its mark.
    for body in [&b"\xff\xfe{\0}\0"[..], b"{\0}\0"] {
        let headers = [("content-type", "application/json")];
        let error = server.client().request("POST", CHAT, &headers, body);
        assert_eq!(error.error(400).code.as_deref(), Some("invalid_json"));
    }
    refused(
        &server,
        CHAT,
        &chat("a\0b"),
        400,
        "invalid_value",
        "messages[0].content",
    );
    for body in ["null", "[]", "1", "\"x\""] {
        let error = server
            .client()
            .request(
                "POST",
                CHAT,
                &[("content-type", "application/json")],
                body.as_bytes(),
            )
            .error(400);
        assert_eq!(error.code.as_deref(), Some("invalid_type"), "{body}");
    }
}
