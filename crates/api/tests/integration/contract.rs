//! The contract, line by line: requests and what they are answered with, from `tests/contract/*.txt`.
//!
//! A refusal is checked for status, `code`, `param` and a part of the message, and none of them may reach the executor.

use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::anthropic::{MESSAGES, ask};
use crate::common::{CHAT, COMPLETIONS, chat, completion, server, with};

/// Names that stand for pieces of JSON in the tables.
const NAMES: &[(&str, &str)] = &[
    ("USER", r#"{"role": "user", "content": "weather?"}"#),
    (
        "CALL",
        r#"{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}"#,
    ),
    (
        "RESULT",
        r#"{"role": "tool", "tool_call_id": "a", "content": "sun"}"#,
    ),
    ("F", r#"{"type": "function", "function": {"name": "f"}}"#),
];

/// The lines of a table.
fn lines(table: &str) -> impl Iterator<Item = &str> {
    let lines = table.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn parse(text: &str) -> Value {
    parse_with(text, NAMES)
}

/// Of a name that stands twice, the first one counts.
fn parse_with(text: &str, names: &[(&str, &str)]) -> Value {
    let mut text = text.to_owned();
    for (name, json) in names.iter().chain(NAMES) {
        for (before, after) in [('[', ','), ('[', ']'), (' ', ','), (' ', ']')] {
            text = text.replace(
                &format!("{before}{name}{after}"),
                &format!("{before}{json}{after}"),
            );
        }
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Checks every line; all that differ are shown at once.
#[track_caller]
pub fn check_refusals(table: &str, at_least: usize, path: &str, body: impl Fn(Value) -> Value) {
    let server = server(Script::echo());
    let checks: Vec<&str> = lines(table).collect();
    let wrong: Vec<String> = (checks.iter())
        .filter_map(|line| refusal(&server, line, path, &body).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checks.len() >= at_least, "{} checks", checks.len());
    assert_eq!(server.control.steps(), 0, "a refused request was worked on");
}

fn refusal(
    server: &TestServer,
    line: &str,
    path: &str,
    body: &impl Fn(Value) -> Value,
) -> Result<(), String> {
    let (request, expected) = line.split_once(" => ").expect("REQUEST => ANSWER");
    let (head, message) = expected.split_once(" | ").expect("HEAD | MESSAGE");
    let words: Vec<&str> = head.split(' ').collect();
    let [status, code, param] = words[..] else {
        panic!("{line}: STATUS CODE PARAM")
    };
    let response = server.client().post(path, &body(parse(request)));
    if response.status.to_string() != status {
        return Err(format!("{line}\n  status {}", response.status));
    }
    let error = response.error(response.status);
    let is_expected = error.code.as_deref() == Some(code)
        && error.param.as_deref().unwrap_or("-") == param
        && error.message.contains(message)
        && error.kind == "invalid_request_error";
    if is_expected {
        return Ok(());
    }
    Err(format!("{line}\n  {error:?}"))
}

#[test]
fn chat_fields() {
    let table = include_str!("../contract/chat.txt");
    check_refusals(table, 120, CHAT, |fields| with(&chat("Hi"), fields));
}

#[test]
fn messages() {
    let table = include_str!("../contract/messages.txt");
    check_refusals(table, 50, CHAT, |messages| {
        with(&chat("Hi"), json!({"messages": messages}))
    });
}

#[test]
fn tools() {
    let table = include_str!("../contract/tools.txt");
    check_refusals(table, 30, CHAT, |fields| with(&chat("Hi"), fields));
}

#[test]
fn completion_fields() {
    let table = include_str!("../contract/completions.txt");
    check_refusals(table, 45, COMPLETIONS, |fields| {
        with(&completion("Hi"), fields)
    });
}

/// Anthropic's errors have a type and a message; the message names the field.
#[test]
fn anthropic_fields() {
    const NAMES: &[(&str, &str)] = &[
        (
            "CALL",
            r#"{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}"#,
        ),
        (
            "RESULT",
            r#"{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "sun"}]}"#,
        ),
        ("F", r#"{"name": "f", "input_schema": {"type": "object"}}"#),
    ];
    let server = server(Script::echo());
    let table = include_str!("../contract/anthropic.txt");
    let mut wrong = Vec::new();
    let mut checks = 0;
    for line in lines(table) {
        let (fields, expected) = line.split_once(" => ").expect("FIELDS => ANSWER");
        let (head, message) = expected.split_once(" | ").expect("HEAD | MESSAGE");
        let (status, kind) = head.split_once(' ').expect("STATUS TYPE");
        let fields = parse_with(fields, NAMES);
        for stream in [json!(false), json!(true)] {
            let mut body = with(&ask("Hi"), json!({"stream": stream}));
            body = with(&body, fields.clone());
            let response = server.client().post(MESSAGES, &body);
            let error = (response.status >= 400).then(|| response.error(response.status));
            let is_expected = error
                .as_ref()
                .is_some_and(|error| error.kind == kind && error.message.contains(message));
            if response.status.to_string() != status || !is_expected {
                wrong.push(format!("{line}\n  {} {error:?}", response.status));
            }
        }
        checks += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checks >= 95, "{checks} checks");
    assert_eq!(server.control.steps(), 0, "a refused request was worked on");
}

#[test]
fn refusals_are_the_same_for_streams() {
    let server = server(Script::echo());
    for (table, path, body) in [
        (include_str!("../contract/chat.txt"), CHAT, chat("Hi")),
        (
            include_str!("../contract/completions.txt"),
            COMPLETIONS,
            completion("Hi"),
        ),
    ] {
        for line in lines(table) {
            let fields = parse(line.split_once(" => ").expect("REQUEST => ANSWER").0);
            if ["stream", "stream_options"]
                .iter()
                .any(|name| !fields[name].is_null())
            {
                continue;
            }
            let whole = server.client().post(path, &with(&body, fields.clone()));
            let whole = whole.error(whole.status);
            let streamed = with(&with(&body, json!({"stream": true})), fields);
            let streamed = server.client().post(path, &streamed);
            let streamed = streamed.error(streamed.status);
            assert_eq!(streamed.param, whole.param, "{line}");
        }
    }
    assert_eq!(server.control.steps(), 0);
}

#[test]
fn limits_on_lengths_and_counts() {
    let server = server(Script::echo());
    let entries = |count: usize| -> Value {
        let entries = (0..count).map(|i| (format!("key{i}"), json!("x")));
        Value::Object(entries.collect())
    };
    let long = |len: usize| "é".repeat(len);
    let tool = |name: String| json!([{"type": "function", "function": {"name": name}}]);
    let many = |count: usize| -> Value {
        (0..count)
            .map(|i| json!({"type": "function", "function": {"name": format!("f{i}")}}))
            .collect()
    };
    let named = |name: String| json!([{"role": "user", "content": "x", "name": name}]);
    for (fits, too_much, code, param) in [
        (
            json!({"metadata": entries(16)}),
            json!({"metadata": entries(17)}),
            "object_above_max_properties",
            "metadata",
        ),
        (
            json!({"metadata": {"k".repeat(64): "x"}}),
            json!({"metadata": {"k".repeat(65): "x"}}),
            "string_above_max_length",
            "metadata",
        ),
        (
            json!({"metadata": {"k": long(512)}}),
            json!({"metadata": {"k": long(513)}}),
            "string_above_max_length",
            "metadata.k",
        ),
        (
            json!({"safety_identifier": long(128)}),
            json!({"safety_identifier": long(129)}),
            "string_above_max_length",
            "safety_identifier",
        ),
        (
            json!({"messages": named(long(64))}),
            json!({"messages": named(long(65))}),
            "string_above_max_length",
            "messages[0].name",
        ),
        (
            json!({"tools": tool("f".repeat(64))}),
            json!({"tools": tool("f".repeat(65))}),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            json!({"tools": many(128)}),
            json!({"tools": many(129)}),
            "array_above_max_length",
            "tools",
        ),
        (
            json!({"stop_token_ids": vec![1; 64]}),
            json!({"stop_token_ids": vec![1; 65]}),
            "array_above_max_length",
            "stop_token_ids",
        ),
    ] {
        let body = with(&chat("Hi"), json!({"max_tokens": 1}));
        server.client().post(CHAT, &with(&body, fits)).ok();
        let error = server
            .client()
            .post(CHAT, &with(&body, too_much))
            .error(400);
        assert_eq!(
            (error.code.as_deref(), error.param.as_deref()),
            (Some(code), Some(param)),
            "{error:?}"
        );
    }
    let prompts = with(&completion("Hi"), json!({"prompt": vec!["a"; 2049]}));
    let error = server.client().post(COMPLETIONS, &prompts).error(400);
    assert_eq!(error.code.as_deref(), Some("array_above_max_length"));
}

#[test]
fn what_is_accepted() {
    let server = server(Script::echo());
    let mut count = 0;
    for line in lines(include_str!("../contract/accepted.txt")) {
        let (endpoint, fields) = line.split_once(' ').expect("ENDPOINT FIELDS");
        let (path, body) = match endpoint {
            "chat" => (CHAT, chat("Hi")),
            "completions" => (COMPLETIONS, completion("Hi")),
            other => panic!("{other}"),
        };
        let body = with(&with(&body, json!({"max_tokens": 4})), parse(fields));
        let response = server.client().post(path, &body);
        assert_eq!(response.status, 200, "{line}: {response:?}");
        count += 1;
    }
    assert!(count >= 40, "{count} requests");
    server.wait_until_idle();
}
