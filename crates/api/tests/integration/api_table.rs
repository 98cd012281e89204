//! The last column of the tables in `docs/api.md` is what this server answers.
//!
//! Every row is sent: an endpoint with its method, a parameter with a value that asks for what it is for. So the tables
//! cannot lag behind the code, and a parameter that is documented and has no row fails here too.
//! `UPDATE=1` writes the column anew.

use std::path::{Path, PathBuf};

use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::anthropic::{MESSAGES, ask};
use crate::common::{CHAT, COMPLETIONS, HELLO, chat, completion, server, weather_tool, with};
use crate::responses::RESPONSES;

/// What comes of a table's row.
struct Sheet {
    lines: Vec<String>,
    wrong: Vec<String>,
}

#[test]
fn the_tables_say_what_this_server_answers() {
    let path = tables();
    let text = std::fs::read_to_string(&path).expect("docs/api.md exists");
    let server = server(Script::always(HELLO));
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let mut sheet = Sheet {
        lines: Vec::new(),
        wrong: Vec::new(),
    };
    let mut section = String::new();
    let mut rows: Vec<String> = Vec::new();
    let mut checked = 0;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            complete(&document, &section, &rows, &mut sheet.wrong);
            heading.trim().trim_matches('`').clone_into(&mut section);
            rows.clear();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(name) = cells.get(1).and_then(|cell| cell.strip_prefix('`')) else {
            sheet.lines.push(line.to_owned());
            continue;
        };
        let name = name.trim_end_matches('`').to_owned();
        let found = if section == "Endpoints" {
            endpoint(&server, &document, &name)
        } else {
            parameter(&server, &document, &section, &name)
        };
        checked += 1;
        sheet.compare(line, &name, &found);
        rows.push(name);
    }
    complete(&document, &section, &rows, &mut sheet.wrong);
    assert!(checked > 200, "only {checked} rows found");
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, sheet.lines.join("\n") + "\n").expect("docs/api.md can be written");
        sheet.wrong.retain(|wrong| !wrong.starts_with("row "));
    }
    assert!(
        sheet.wrong.is_empty(),
        "docs/api.md is not what the server does; UPDATE=1 cargo test -p gossamer-api api_table writes the column:\n{}",
        sheet.wrong.join("\n")
    );
}

fn tables() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md")
}

impl Sheet {
    /// Compares a row's last cell with what was found; the corrected row goes to `lines`.
    fn compare(&mut self, line: &str, name: &str, found: &str) {
        let body = line.trim_end().trim_end_matches('|');
        let (before, cell) = body.rsplit_once('|').expect("a row has cells");
        let written = cell.trim();
        if written != found {
            self.wrong
                .push(format!("row `{name}`: {written:?}, but found {found:?}"));
        }
        // A cell keeps its width, so that a diff shows only what changed.
        let width = cell.chars().count().saturating_sub(2);
        self.lines.push(format!("{before}| {found:width$} |"));
    }
}

/// Whether the path exists for the method; named as in the tables: `POST /v1/completions`.
fn endpoint(server: &TestServer, document: &Value, name: &str) -> String {
    let (method, template) = name.split_once(' ').expect("METHOD /path");
    let path = template
        .replace("{model}", "test-model")
        .replace("{response}", "x")
        .replace("{id}", "x");
    let headers = [("content-type", "application/json")];
    let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
    let response = server.client().request(method, &path, &headers, body);
    let exists = match response.status {
        404 => {
            let code = response.error(404).code;
            let in_path = (code.as_deref() == Some("model_not_found")) && path.contains("/models/");
            (in_path && template.ends_with("{model}"))
                || code.as_deref() == Some("response_not_found")
        }
        405 => false,
        _ => true,
    };
    // The page for browsers is no part of the API that the document describes.
    let documented = document["paths"][template][method.to_lowercase()].is_object();
    assert_eq!(
        exists,
        documented || template == "/docs",
        "{name} is in the OpenAPI document"
    );
    if exists { "yes" } else { "no" }.to_owned()
}

/// What sending a parameter does: `yes`, `yes, not used`, `400`, or `400`, except for one value.
fn parameter(server: &TestServer, document: &Value, section: &str, name: &str) -> String {
    let path = section
        .strip_prefix("POST ")
        .unwrap_or_else(|| panic!("a table in section {section:?}"));
    let (base, mut wanted, neutral) = probe(document, path, name);
    if wanted == "the last one" {
        wanted = server.client().post(path, &base).ok()["id"].clone();
    }
    let send = |value: &Value| {
        server
            .client()
            .post(path, &with(&base, fields(name, value)))
    };
    let response = send(&wanted);
    if response.status == 200 {
        let unused = property(document, path, name)["description"]
            .as_str()
            .is_some_and(|description| description.starts_with("Accepted"));
        return if unused { "yes, not used" } else { "yes" }.to_owned();
    }
    let error = response.error(400);
    // Anthropic's errors have neither code nor param; the message says both.
    let refused = match error.code.as_deref() {
        Some(code) => {
            assert!(
                error.param.unwrap_or_default().starts_with(name),
                "{path} {name}"
            );
            [
                "unsupported_parameter",
                "unsupported_value",
                "unknown_parameter",
            ]
            .contains(&code)
        }
        None => {
            let words = ["is not supported by this server yet", "Unrecognized"];
            error.message.contains(name) && words.iter().any(|word| error.message.contains(word))
        }
    };
    assert!(
        refused,
        "{path} {name}: the probe {wanted} is wrong: {}",
        error.message
    );
    match neutral {
        None => "400".to_owned(),
        Some(value) => {
            let response = send(&value);
            assert_eq!(
                response.status,
                200,
                "{path} {name} {value}: {}",
                response.text()
            );
            format!("400; `{value}` passes")
        }
    }
}

/// `{"a": {"b": value}}` for `a.b`.
fn fields(name: &str, value: &Value) -> Value {
    match name.split_once('.') {
        None => json!({name: value}),
        Some((outer, inner)) => json!({outer: {inner: value}}),
    }
}

/// The schema of a route's parameter.
fn property<'a>(document: &'a Value, path: &str, name: &str) -> &'a Value {
    let schema = |reference: &Value| {
        let pointer = reference
            .as_str()
            .unwrap_or_default()
            .trim_start_matches('#');
        document.pointer(pointer).unwrap_or(&Value::Null)
    };
    let body =
        &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    &schema(&body["$ref"])["properties"][name]
}

/// Every documented parameter of the section's route has a row.
fn complete(document: &Value, section: &str, rows: &[String], wrong: &mut Vec<String>) {
    if section == "Endpoints" {
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("methods").keys() {
                let name = format!("{} {path}", method.to_uppercase());
                if !rows.contains(&name) {
                    wrong.push(format!("no row for {name} in section Endpoints"));
                }
            }
        }
        return;
    }
    let Some(path) = section.strip_prefix("POST ") else {
        return;
    };
    let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
    let reference = body["schema"]["$ref"].as_str().unwrap_or_default();
    let schema = document.pointer(reference.trim_start_matches('#'));
    let names = schema.and_then(|schema| schema["properties"].as_object());
    for name in names
        .unwrap_or_else(|| panic!("a schema for {section}"))
        .keys()
    {
        if !rows.contains(name) {
            wrong.push(format!("no row for {name} in section {section}"));
        }
    }
}

/// A body to put a parameter into, a value that asks for what the parameter is for, and, for a parameter of which only
/// one value is implemented, that value.
fn probe(document: &Value, path: &str, name: &str) -> (Value, Value, Option<Value>) {
    let base = match (path, name) {
        (CHAT, "tool_choice" | "parallel_tool_calls") => {
            with(&chat("Hi"), json!({"tools": weather_tool()}))
        }
        (CHAT, "top_logprobs") => with(&chat("Hi"), json!({"logprobs": true})),
        (CHAT, name) if name.starts_with("stream_options") => {
            with(&chat("Hi"), json!({"stream": true}))
        }
        (CHAT, _) => chat("Hi"),
        (COMPLETIONS, name) if name.starts_with("stream_options") => {
            with(&completion("Hi"), json!({"stream": true}))
        }
        (COMPLETIONS, _) => completion("Hi"),
        (RESPONSES, "tool_choice") => {
            json!({"model": "test-model", "input": "Hi", "tools": flat_tool()})
        }
        (RESPONSES, name) if name.starts_with("stream_options") => {
            json!({"model": "test-model", "input": "Hi", "stream": true})
        }
        (RESPONSES, _) => json!({"model": "test-model", "input": "Hi"}),
        (MESSAGES, name) if name.starts_with("tool_choice") => {
            with(&ask("Hi"), json!({"tools": anthropic_tools()}))
        }
        (MESSAGES, _) => ask("Hi"),
        (_, "messages") => json!({}),
        (
            "/tokenize",
            "tools" | "reasoning_effort" | "add_generation_prompt" | "continue_final_message",
        ) => {
            json!({"messages": chat("Hi")["messages"]})
        }
        ("/detokenize", _) => json!({"tokens": [1]}),
        _ => json!({"prompt": "Hi"}),
    };
    let value = match (path, name) {
        (COMPLETIONS, "logprobs" | "best_of") => json!(2),
        (CHAT, "response_format") => json!({"type": "json_object"}),
        (RESPONSES, "tools") => flat_tool(),
        (RESPONSES, "include") => json!(["message.output_text.logprobs"]),
        (RESPONSES, "truncation") => json!("auto"),
        (RESPONSES, "previous_response_id") => json!("the last one"),
        (RESPONSES, "stream_options") => json!({"include_obfuscation": false}),
        (MESSAGES, "tools") => anthropic_tools(),
        (MESSAGES, "tool_choice") => json!({"type": "auto"}),
        (MESSAGES, "metadata") => json!({"user_id": "word"}),
        (MESSAGES, "thinking") => json!({"type": "adaptive"}),
        (MESSAGES, "output_config") => json!({"effort": "low"}),
        (MESSAGES, "output_config.format") => json!({"type": "json_schema", "schema": {}}),
        (MESSAGES, "service_tier") => json!("standard_only"),
        (MESSAGES, "cache_control") => json!({"type": "ephemeral"}),
        (MESSAGES, "context_management") => {
            json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]})
        }
        (MESSAGES, "stop_sequences") => json!(["END"]),
        (MESSAGES, "system" | "user_profile_id") => json!("word"),
        (MESSAGES, "speed") => json!("fast"),
        (CHAT, "echo") => json!(true),
        _ => wanted(name),
    };
    let neutral = match name {
        "store" | "stream_options.include_obfuscation" | "continue_final_message" => {
            Some(json!(false))
        }
        "modalities" => Some(json!(["text"])),
        "verbosity" => Some(json!("medium")),
        "service_tier" => Some(json!("auto")),
        "speed" => Some(json!("standard")),
        "add_generation_prompt" => Some(json!(true)),
        "prompt_cache_retention" => Some(json!("in_memory")),
        _ => None,
    };
    // Only what the document knows has a value that passes.
    let outer = name.split('.').next().unwrap_or(name);
    let known = !property(document, path, outer).is_null();
    (base, value, neutral.filter(|_| known))
}

/// A function as `/v1/responses` declares it.
fn flat_tool() -> Value {
    json!([{"type": "function", "name": "get_weather"}])
}

fn anthropic_tools() -> Value {
    json!([{"name": "f", "input_schema": {"type": "object"}}])
}

/// A value that asks for what a parameter is for. For names that no API here has, any value asks for it.
fn wanted(name: &str) -> Value {
    match name {
        "messages" => json!([{"role": "user", "content": "Hi"}]),
        "prompt" | "content" => json!("Hi"),
        "tokens" => json!([13225]),
        "model" => json!("test-model"),
        "tools" => weather_tool(),
        "tool_choice" => json!("auto"),
        "parallel_tool_calls" => json!(true),
        "max_tokens" | "max_completion_tokens" | "n" | "min_tokens" => json!(2),
        "max_reasoning_tokens" | "thinking_token_budget" => json!(5),
        "stop" => json!(["END"]),
        "stop_token_ids" => json!([200_012]),
        "stream" | "logprobs" | "ignore_eos" | "store" | "return_token_strs" | "echo" => {
            json!(true)
        }
        "stream_options" => json!({"include_usage": true}),
        "include_reasoning" | "add_generation_prompt" => json!(false),
        "temperature" | "top_p" | "min_p" | "presence_penalty" | "frequency_penalty" => json!(0.5),
        "repetition_penalty" => json!(1.1),
        "logit_bias" => json!({"100": 1}),
        "input" | "instructions" => json!("Hi"),
        "max_output_tokens" | "max_tool_calls" => json!(2),
        "reasoning" => json!({"effort": "low"}),
        "text" => json!({"format": {"type": "text"}}),
        "background" => json!(true),
        "client_metadata" => json!({"key": "value"}),
        "top_logprobs" | "top_k" | "prompt_logprobs" | "priority" | "seed" => json!(3),
        "guided_json" => json!({"type": "object"}),
        "guided_regex" => json!("[a-z]+"),
        "guided_choice" => json!(["a", "b"]),
        "guided_grammar" => json!("start: \"a\""),
        "structured_outputs" => json!({"json_object": true}),
        "reasoning_effort" | "reasoning_level" => json!("low"),
        "verbosity" => json!("high"),
        "service_tier" => json!("flex"),
        "prompt_cache_retention" => json!("24h"),
        "modalities" => json!(["text", "audio"]),
        "metadata" => json!({"key": "value"}),
        "suffix" | "user" | "safety_identifier" | "prompt_cache_key" | "cache_salt" => {
            json!("word")
        }
        "speculation" => json!("off"),
        _ => json!(true),
    }
}
