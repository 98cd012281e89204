//! The types that describe requests and the code that reads them know the same fields.

use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::anthropic::{MESSAGES, ask};
use crate::common::{CHAT, COMPLETIONS, chat, completion, server, with};

#[test]
fn every_documented_field_is_read() {
    let server = server(Script::echo());
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    for (schema, path, body) in [
        ("ChatCompletionRequest", CHAT, chat("Hi")),
        ("CompletionRequest", COMPLETIONS, completion("Hi")),
        (
            "CreateResponse",
            "/v1/responses",
            json!({"model": "test-model", "input": "Hi"}),
        ),
        ("TokenizeRequest", "/tokenize", json!({"prompt": "Hi"})),
        ("DetokenizeRequest", "/detokenize", json!({"tokens": []})),
        ("SimpleRequest", "/generate", json!({"prompt": "Hi"})),
        ("SimpleRequest", "/chat", json!({"prompt": "Hi"})),
        ("SimpleRequest", "/stream", json!({"prompt": "Hi"})),
        ("MessagesRequest", MESSAGES, ask("Hi")),
        (
            "CountMessageTokensRequest",
            "/v1/messages/count_tokens",
            json!({"model": "test-model", "messages": ask("Hi")["messages"]}),
        ),
    ] {
        let properties = document.pointer(&format!("/components/schemas/{schema}/properties"));
        let properties = properties
            .and_then(Value::as_object)
            .expect("a schema with properties");
        assert!(!properties.is_empty());
        for name in properties.keys() {
            // One of them is enough: with both, the other one is named.
            let body = match name.as_str() {
                "messages" if path != CHAT && !path.starts_with(MESSAGES) => json!({}),
                _ => body.clone(),
            };
            check_field(&server, path, &body, name);
        }
    }
    assert_eq!(server.control.steps(), 0);
}

/// A field that is read has values of the wrong type, and the error names the field.
#[track_caller]
fn check_field(server: &TestServer, path: &str, body: &Value, name: &str) {
    let wrong = [
        json!({"?": [{}]}),
        json!(true),
        json!(1.5),
        json!("\u{0}"),
        json!([[{}]]),
    ];
    let mut named = false;
    for value in wrong {
        // The unknown field makes sure that a value which happens to be right generates nothing.
        let body = with(body, json!({name: value, "zzz": 1}));
        let response = server.client().post(path, &body);
        let error = response.error(response.status);
        // Anthropic's errors name the field in the message only.
        let (known, param) = match error.param {
            Some(param) => (error.code.as_deref() != Some("unknown_parameter"), param),
            None => {
                let field = error
                    .message
                    .split(['\'', ' '])
                    .find(|word| word.starts_with(name));
                (
                    !error.message.contains("Unrecognized"),
                    field.unwrap_or_default().to_owned(),
                )
            }
        };
        let unknown = !known && param == name;
        assert!(!unknown, "{name} is documented but not read");
        named |= param.starts_with(name);
    }
    assert!(named, "no wrong value of {name} is refused by name");
}
