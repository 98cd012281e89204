//! `/tokenize`, `/detokenize` and `/v1/chat/completions/render`: they say what a request would cost, and run nothing.

use gossamer_harmony::Tokenizer;
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

use crate::common::{CHAT, COMPLETIONS, HELLO, chat, completion, server, weather_tool, with};

const RENDER: &str = "/v1/chat/completions/render";

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn post(server: &TestServer, path: &str, body: Value) -> Value {
    server.client().post(path, &body).ok()
}

#[test]
fn a_text_goes_to_tokens_and_back() {
    let server = server(Script::echo());
    for text in [
        "Hello, world!",
        "",
        "<|start|>user<|end|>",
        "Grüße, 世界 👋🏽",
        "\u{1}\n\t ",
    ] {
        let answer = post(
            &server,
            "/tokenize",
            json!({"prompt": text, "return_token_strs": true}),
        );
        let tokens = ids(&answer["tokens"]);
        assert_eq!(tokens, Tokenizer::get().encode(text));
        assert_eq!(answer["count"], tokens.len());
        assert_eq!(answer["max_model_len"], 4096);
        let strings = answer["token_strs"].as_array().expect("strings");
        assert_eq!(strings.len(), tokens.len());
        let back = post(&server, "/detokenize", json!({"tokens": tokens}));
        assert_eq!(back, json!({"prompt": text}));
    }
    let answer = post(&server, "/tokenize", json!({"prompt": "Hi"}));
    assert_eq!(answer["token_strs"], Value::Null);
    assert_eq!(server.control.steps(), 0, "nothing ran");
}

#[test]
fn what_is_counted_is_what_a_request_costs() {
    let server = server(Script::always(HELLO));
    let plain = chat("Hi");
    let tools = with(
        &chat("Weather?"),
        json!({"tools": weather_tool(), "reasoning_effort": "high"}),
    );
    for body in [plain, tools] {
        let mut tokenize = body.clone();
        tokenize["add_generation_prompt"] = json!(true);
        let counted = post(&server, "/tokenize", tokenize);
        let rendered = post(&server, RENDER, body.clone());
        let answer = post(&server, CHAT, body);
        assert_eq!(counted["tokens"], rendered["token_ids"]);
        for count in [&counted["count"], &rendered["count"]] {
            assert_eq!(*count, answer["usage"]["prompt_tokens"]);
        }
        let text = post(
            &server,
            "/detokenize",
            json!({"tokens": rendered["token_ids"]}),
        );
        assert_eq!(text["prompt"], rendered["prompt"]);
    }
    let counted = post(&server, "/tokenize", json!({"prompt": "Once upon a time"}));
    let answer = post(&server, COMPLETIONS, completion("Once upon a time"));
    assert_eq!(counted["count"], answer["usage"]["prompt_tokens"]);
}

#[test]
fn the_rendered_prompt_is_the_conversation_in_harmony() {
    let server = server(Script::echo());
    let answer = post(&server, RENDER, chat("Hi there"));
    assert_eq!(answer["object"], "chat.completion.prompt");
    assert_eq!(answer["model"], "test-model");
    let text = answer["prompt"].as_str().expect("a text");
    assert!(text.starts_with("<|start|>system<|message|>You are ChatGPT"));
    assert!(text.contains("Current date: 2026-01-02"));
    assert!(text.ends_with("<|start|>user<|message|>Hi there<|end|><|start|>assistant"));
    assert_eq!(server.control.steps(), 0, "nothing ran");
}

#[test]
fn a_prompt_too_long_to_answer_is_rendered() {
    let mut setup = TestSetup::new(Script::echo());
    setup.capacity.max_model_len = 64;
    let server = setup.start();
    let long = chat(&"word ".repeat(100));
    server.client().post(CHAT, &long).error(400);
    let answer = post(&server, RENDER, long);
    assert!(answer["count"].as_u64() > answer["max_model_len"].as_u64());
}

#[test]
fn wrong_bodies_are_refused_by_field() {
    let server = server(Script::echo());
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body, param, code) in [
        (
            "/tokenize",
            json!({}),
            "prompt",
            "missing_required_parameter",
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "messages": messages}),
            "prompt",
            "invalid_value",
        ),
        (
            "/tokenize",
            json!({"prompt": ["a"]}),
            "prompt",
            "invalid_type",
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "tools": []}),
            "tools",
            "invalid_value",
        ),
        (
            "/tokenize",
            json!({"messages": []}),
            "messages",
            "empty_array",
        ),
        (
            "/tokenize",
            json!({"messages": [{"role": "king"}]}),
            "messages[0].role",
            "invalid_value",
        ),
        (
            "/tokenize",
            json!({"messages": messages, "add_generation_prompt": false}),
            "add_generation_prompt",
            "unsupported_value",
        ),
        (
            "/tokenize",
            json!({"messages": messages, "chat_template": "x"}),
            "chat_template",
            "unsupported_parameter",
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "zzz": 1}),
            "zzz",
            "unknown_parameter",
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "model": "nope"}),
            "model",
            "model_not_found",
        ),
        (
            "/detokenize",
            json!({}),
            "tokens",
            "missing_required_parameter",
        ),
        (
            "/detokenize",
            json!({"tokens": "a"}),
            "tokens",
            "invalid_type",
        ),
        (
            "/detokenize",
            json!({"tokens": [1, -1]}),
            "tokens[1]",
            "integer_below_min_value",
        ),
        (
            "/detokenize",
            json!({"tokens": [201_088]}),
            "tokens[0]",
            "integer_above_max_value",
        ),
        (
            "/detokenize",
            json!({"tokens": [1.5]}),
            "tokens[0]",
            "invalid_type",
        ),
        (
            RENDER,
            json!({"model": "test-model", "messages": messages, "temperature": 3}),
            "temperature",
            "decimal_above_max_value",
        ),
        (
            RENDER,
            json!({"messages": messages}),
            "model",
            "missing_required_parameter",
        ),
    ] {
        let response = server.client().post(path, &body);
        let status = if code == "model_not_found" { 404 } else { 400 };
        let error = response.error(status);
        assert_eq!(
            (error.param.as_deref(), error.code.as_deref()),
            (Some(param), Some(code)),
            "{path} {body}"
        );
    }
    assert_eq!(server.control.steps(), 0);
}
