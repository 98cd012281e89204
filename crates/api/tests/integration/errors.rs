//! The error table: every refusal with its status, code and field.

use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::common::{CHAT, COMPLETIONS, chat, completion, server, weather_tool, with};

#[track_caller]
fn refused(server: &TestServer, path: &str, body: &Value, status: u16, code: &str, param: &str) {
    let error = server.client().post(path, body).error(status);
    let shown = format!("{body:.200}: {error:?}");
    assert_eq!(error.code.as_deref(), Some(code), "{shown}");
    assert_eq!(error.param.as_deref().unwrap_or(""), param, "{shown}");
    assert_eq!(error.kind, "invalid_request_error", "{shown}");
}

#[test]
fn chat_fields() {
    let server = server(Script::echo());
    for (fields, code, param) in [
        (
            json!({"messages": null}),
            "missing_required_parameter",
            "messages",
        ),
        (json!({"messages": "Hi"}), "invalid_type", "messages"),
        (json!({"messages": []}), "empty_array", "messages"),
        (json!({"model": 1}), "invalid_type", "model"),
        (
            json!({"model": null}),
            "missing_required_parameter",
            "model",
        ),
        (json!({"frobnicate": 1}), "unknown_parameter", "frobnicate"),
        (json!({"Messages": []}), "unknown_parameter", "Messages"),
        (
            json!({"temperature": -1}),
            "decimal_below_min_value",
            "temperature",
        ),
        (
            json!({"temperature": 2.1}),
            "decimal_above_max_value",
            "temperature",
        ),
        (json!({"temperature": "1"}), "invalid_type", "temperature"),
        (json!({"top_p": 1.5}), "decimal_above_max_value", "top_p"),
        (json!({"top_k": -2}), "integer_below_min_value", "top_k"),
        (json!({"top_k": 1.5}), "invalid_type", "top_k"),
        (json!({"min_p": -0.5}), "decimal_below_min_value", "min_p"),
        (
            json!({"repetition_penalty": 0}),
            "decimal_below_min_value",
            "repetition_penalty",
        ),
        (
            json!({"presence_penalty": 3}),
            "decimal_above_max_value",
            "presence_penalty",
        ),
        (
            json!({"frequency_penalty": -3}),
            "decimal_below_min_value",
            "frequency_penalty",
        ),
        (
            json!({"max_tokens": 0}),
            "integer_below_min_value",
            "max_tokens",
        ),
        (json!({"max_tokens": 1e3}), "invalid_type", "max_tokens"),
        (
            json!({"max_tokens": 18446744073709551615u64}),
            "integer_above_max_value",
            "max_tokens",
        ),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 5}),
            "invalid_value",
            "max_tokens",
        ),
        (
            json!({"max_tokens": 5, "min_tokens": 6}),
            "invalid_value",
            "min_tokens",
        ),
        (json!({"n": 0}), "integer_below_min_value", "n"),
        (json!({"n": 9}), "integer_above_max_value", "n"),
        (json!({"seed": "x"}), "invalid_type", "seed"),
        (json!({"stop": []}), "empty_array", "stop"),
        (json!({"stop": ""}), "empty_string", "stop"),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "array_above_max_length",
            "stop",
        ),
        (json!({"stop": ["a", 1]}), "invalid_type", "stop[1]"),
        (json!({"stop": {"a": 1}}), "invalid_type", "stop"),
        (
            json!({"stop_token_ids": [300000]}),
            "integer_above_max_value",
            "stop_token_ids[0]",
        ),
        (
            json!({"logit_bias": {"07": 1}}),
            "invalid_value",
            "logit_bias",
        ),
        (
            json!({"logit_bias": {"x": 1}}),
            "invalid_value",
            "logit_bias",
        ),
        (
            json!({"logit_bias": {"7": 101}}),
            "decimal_above_max_value",
            "logit_bias.7",
        ),
        (
            json!({"logit_bias": {"201088": 1}}),
            "invalid_value",
            "logit_bias",
        ),
        (json!({"logprobs": 3}), "invalid_type", "logprobs"),
        (json!({"top_logprobs": 3}), "invalid_value", "top_logprobs"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "integer_above_max_value",
            "top_logprobs",
        ),
        (json!({"stream": "yes"}), "invalid_type", "stream"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "invalid_value",
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "unknown_parameter",
            "stream_options.x",
        ),
        (
            json!({"stream": true, "stream_options": {"continuous_usage_stats": true}}),
            "unsupported_value",
            "stream_options.continuous_usage_stats",
        ),
        (
            json!({"reasoning_effort": "extreme"}),
            "invalid_value",
            "reasoning_effort",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            "unsupported_value",
            "response_format",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
            "unsupported_value",
            "response_format",
        ),
        (
            json!({"response_format": {"type": "yaml"}}),
            "invalid_value",
            "response_format.type",
        ),
        (json!({"store": true}), "unsupported_value", "store"),
        (
            json!({"service_tier": "flex"}),
            "unsupported_value",
            "service_tier",
        ),
        (
            json!({"modalities": ["text", "audio"]}),
            "unsupported_value",
            "modalities",
        ),
        (
            json!({"verbosity": "low"}),
            "unsupported_value",
            "verbosity",
        ),
        (json!({"audio": {}}), "unsupported_parameter", "audio"),
        (
            json!({"functions": []}),
            "unsupported_parameter",
            "functions",
        ),
        (
            json!({"web_search_options": {}}),
            "unsupported_parameter",
            "web_search_options",
        ),
        (
            json!({"prediction": {}}),
            "unsupported_parameter",
            "prediction",
        ),
        (json!({"priority": 1}), "unsupported_parameter", "priority"),
    ] {
        refused(&server, CHAT, &with(&chat("Hi"), fields), 400, code, param);
    }
    assert_eq!(
        server.control.steps(),
        0,
        "no work was done for any of them"
    );
}

#[test]
fn tools() {
    let server = server(Script::echo());
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    for (fields, code, param) in [
        (json!({"tools": []}), "empty_array", "tools"),
        (
            json!({"tools": [{"type": "web_search"}]}),
            "unsupported_value",
            "tools[0].type",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "missing_required_parameter",
            "tools[0].function",
        ),
        (
            tool(json!({})),
            "missing_required_parameter",
            "tools[0].function.name",
        ),
        (
            tool(json!({"name": "a b"})),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            tool(json!({"name": "<|end|>"})),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            tool(json!({"name": "f", "parameters": []})),
            "invalid_type",
            "tools[0].function.parameters",
        ),
        (
            tool(json!({"name": "f", "strict": true})),
            "unsupported_value",
            "tools[0].function.strict",
        ),
        (
            tool(json!({"name": "f", "extra": 1})),
            "unknown_parameter",
            "tools[0].function.extra",
        ),
        (
            json!({"tool_choice": "auto"}),
            "invalid_value",
            "tool_choice",
        ),
        (
            json!({"parallel_tool_calls": true}),
            "invalid_value",
            "parallel_tool_calls",
        ),
        (
            json!({"tools": weather_tool(), "tool_choice": "required"}),
            "unsupported_value",
            "tool_choice",
        ),
        (
            json!({"tools": weather_tool(), "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}),
            "unsupported_value",
            "tool_choice",
        ),
        (
            json!({"tools": weather_tool(), "tool_choice": "sometimes"}),
            "invalid_value",
            "tool_choice",
        ),
        (
            json!({"tools": weather_tool(), "tool_choice": 1}),
            "invalid_type",
            "tool_choice",
        ),
    ] {
        refused(&server, CHAT, &with(&chat("Hi"), fields), 400, code, param);
    }
    let twice = json!([weather_tool()[0], weather_tool()[0]]);
    refused(
        &server,
        CHAT,
        &with(&chat("Hi"), json!({"tools": twice})),
        400,
        "invalid_value",
        "tools[1].function.name",
    );
}

#[test]
fn messages() {
    let server = server(Script::echo());
    let user = json!({"role": "user", "content": "Hi"});
    let call = json!({"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "a", "content": "x"});
    for (messages, code, param) in [
        (json!([1]), "invalid_type", "messages[0]"),
        (
            json!([{}]),
            "missing_required_parameter",
            "messages[0].role",
        ),
        (
            json!([{"role": "wizard", "content": "x"}]),
            "invalid_value",
            "messages[0].role",
        ),
        (
            json!([user, {"role": "user"}]),
            "missing_required_parameter",
            "messages[1].content",
        ),
        (
            json!([{"role": "user", "content": 1}]),
            "invalid_type",
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            "unsupported_value",
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": "x", "name": "bob"}]),
            "unsupported_parameter",
            "messages[0].name",
        ),
        (
            json!([{"role": "user", "content": "x", "tool_calls": []}]),
            "unknown_parameter",
            "messages[0].tool_calls",
        ),
        (
            json!([{"role": "user", "content": "x", "foo": 1}]),
            "unknown_parameter",
            "messages[0].foo",
        ),
        (
            json!([user, result]),
            "invalid_value",
            "messages[1].tool_call_id",
        ),
        (
            json!([user, call, {"role": "tool", "tool_call_id": "b", "content": "x"}]),
            "invalid_value",
            "messages[2].tool_call_id",
        ),
        (
            json!([user, call, {"role": "tool", "content": "x"}]),
            "missing_required_parameter",
            "messages[2].tool_call_id",
        ),
        (
            json!([user, call, result, result]),
            "invalid_value",
            "messages[3].tool_call_id",
        ),
        (
            json!([user, call, {"role": "tool", "tool_call_id": "a", "content": "x", "name": "g"}]),
            "invalid_value",
            "messages[2].name",
        ),
        (
            json!([user, call]),
            "invalid_value",
            "messages[1].tool_calls",
        ),
        (
            json!([user, call, user]),
            "invalid_value",
            "messages[1].tool_calls",
        ),
        (
            json!([user, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}]),
            "missing_required_parameter",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            json!([user, {"role": "assistant", "function_call": {}}]),
            "unsupported_parameter",
            "messages[1].function_call",
        ),
    ] {
        refused(
            &server,
            CHAT,
            &with(&chat("Hi"), json!({"messages": messages})),
            400,
            code,
            param,
        );
    }
}

#[test]
fn completion_fields() {
    let server = server(Script::echo());
    for (fields, code, param) in [
        (
            json!({"prompt": null}),
            "missing_required_parameter",
            "prompt",
        ),
        (json!({"prompt": ""}), "empty_string", "prompt"),
        (json!({"prompt": []}), "empty_array", "prompt"),
        (json!({"prompt": ["a", ""]}), "empty_string", "prompt[1]"),
        (json!({"prompt": {"a": 1}}), "invalid_type", "prompt"),
        (json!({"prompt": ["a", true]}), "invalid_type", "prompt[1]"),
        (json!({"prompt": [1, "a"]}), "invalid_type", "prompt[1]"),
        (
            json!({"prompt": [1, 201088]}),
            "integer_above_max_value",
            "prompt[1]",
        ),
        (
            json!({"prompt": [[1], [-1]]}),
            "integer_below_min_value",
            "prompt[1][0]",
        ),
        (
            json!({"prompt": vec!["a"; 2049]}),
            "array_above_max_length",
            "prompt",
        ),
        (json!({"logprobs": true}), "invalid_type", "logprobs"),
        (json!({"echo": true}), "unsupported_value", "echo"),
        (json!({"best_of": 2}), "unsupported_value", "best_of"),
        (json!({"suffix": "x"}), "unsupported_parameter", "suffix"),
        (json!({"messages": []}), "unknown_parameter", "messages"),
        (
            json!({"max_completion_tokens": 5}),
            "unknown_parameter",
            "max_completion_tokens",
        ),
    ] {
        refused(
            &server,
            COMPLETIONS,
            &with(&completion("Hi"), fields),
            400,
            code,
            param,
        );
    }
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
