//! `openapi/openapi.json` is what the code says.

use std::path::Path;

use gossamer_testkit::{Script, TestSetup};
use serde_json::{Value, json};

use crate::common::HELLO;

#[test]
fn the_committed_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/openapi.json");
    let mut generated = gossamer_api::openapi()
        .to_pretty_json()
        .expect("the document is JSON");
    generated.push('\n');
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).expect("the document can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "openapi/openapi.json is not what the code says; run: UPDATE=1 cargo test -p gossamer-api openapi"
    );
}

#[test]
fn every_reference_resolves() {
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let mut references = 0;
    visit(&document, &mut |value| {
        if let Some(reference) = value["$ref"].as_str() {
            references += 1;
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    });
    assert!(references > 30, "{references}");
}

/// Operations with their method and path.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    (paths.iter())
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods").iter();
            methods.map(move |(method, operation)| {
                (method.to_uppercase(), path.clone(), operation.clone())
            })
        })
        .collect()
}

#[test]
fn every_example_request_is_accepted() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    // The model of the examples is the one that a server without options serves.
    setup.api.model_aliases.push("gossamer-tiny".into());
    let server = setup.start();
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let mut sent = 0;
    for (method, path, operation) in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"];
        let reads_a_body = method == "POST" && !path.ends_with("/cancel");
        assert_eq!(!content.is_null(), reads_a_body, "{path}");
        if content.is_null() {
            continue;
        }
        let examples = content["examples"].as_object();
        for (name, example) in examples.unwrap_or_else(|| panic!("no examples: {path}")) {
            let response = server.client().post(&path, &example["value"]);
            assert_eq!(response.status, 200, "{path} {name}: {}", response.text());
            sent += 1;
        }
    }
    assert!(sent > 10, "{sent}");
}

#[test]
fn examples_about_tokens_are_true() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.model_aliases.push("gossamer-tiny".into());
    let server = setup.start();
    let client = server.client();
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let example = |path: &str, pointer: &str, name: &str| {
        let operation = &document["paths"][path]["post"];
        let content = operation.pointer(pointer).expect("a body");
        content["application/json"]["examples"][name]["value"].clone()
    };
    for (path, request) in [("/tokenize", "1-text"), ("/detokenize", "1-tokens")] {
        let sent = example(path, "/requestBody/content", request);
        let answer = example(path, "/responses/200/content", "1-answer");
        assert_eq!(client.post(path, &sent).ok(), answer, "{path}");
    }
    let rendered = example(
        "/v1/chat/completions/render",
        "/responses/200/content",
        "1-answer",
    );
    let tokens = &rendered["token_ids"];
    let text = client.post("/detokenize", &json!({"tokens": tokens})).ok();
    assert_eq!(text["prompt"], rendered["prompt"]);
    assert_eq!(rendered["count"], tokens.as_array().map_or(0, Vec::len));
    let tokens = &example("/v1/completions", "/requestBody/content", "2-tokens")["prompt"];
    let text = client.post("/detokenize", &json!({"tokens": tokens})).ok();
    assert_eq!(text["prompt"], "Once upon a time");
}

#[test]
fn every_operation_says_what_it_is_and_what_can_go_wrong() {
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    for (method, path, operation) in operations(&document) {
        let what = format!("{method} {path}");
        assert!(operation["summary"].is_string(), "{what}");
        assert!(operation["tags"][0].is_string(), "{what}");
        let responses = operation["responses"].as_object().expect("responses");
        for content in (responses["200"]["content"].as_object())
            .into_iter()
            .flat_map(|content| content.values())
        {
            assert!(
                content["examples"].is_object(),
                "no example of an answer: {what}"
            );
        }
        let errors = responses.iter().filter(|(status, _)| *status != "200");
        let mut count = 0;
        for (status, response) in errors {
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            let body = match path.starts_with("/v1/messages") {
                true => "#/components/schemas/MessagesErrorBody",
                false => "#/components/schemas/ErrorBody",
            };
            assert_eq!(schema, body, "{what} {status}");
            count += 1;
        }
        assert!(count >= 2, "{what}");
        if operation["requestBody"].is_object() {
            for status in ["400", "404", "408", "413", "415", "500"] {
                assert!(responses.contains_key(status), "{what} {status}");
            }
        }
        // The document's own requirement holds where an operation has none.
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(open, path == "/health", "{what}");
        for status in ["401", "403"] {
            assert_eq!(responses.contains_key(status), !open, "{what} {status}");
        }
    }
    assert_eq!(
        document["security"],
        json!([{"bearer": []}, {"x_api_key": []}])
    );
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert_eq!(schemes["x_api_key"]["name"], "x-api-key");
}

#[test]
fn every_route_is_documented() {
    let server = TestSetup::new(Script::echo()).start();
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    for (method, path, _) in operations(&document) {
        let path = path.replace("{model}", "test-model");
        let other = if method == "POST" { "GET" } else { "POST" };
        let response = server.client().request(other, &path, &[], b"");
        let allowed = response.header("allow").unwrap_or_default().to_owned();
        response.error(405);
        assert!(
            allowed.split(", ").any(|allowed| allowed == method),
            "{path}"
        );
    }
}

fn visit(value: &Value, check: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            check(value);
            map.values().for_each(|value| visit(value, check));
        }
        Value::Array(items) => items.iter().for_each(|value| visit(value, check)),
        _ => {}
    }
}
