//! `/v1/responses`.

mod background;
mod create;
mod input;
mod kept;
mod properties;

use gossamer_testkit::{TestServer, response_events};
use serde_json::{Value, json};

use crate::common::with;

pub const RESPONSES: &str = "/v1/responses";

/// A request with a user's text.
pub fn request(text: &str) -> Value {
    json!({"model": "test-model", "input": text, "temperature": 0})
}

/// `get_weather`, as this API declares functions.
pub fn weather() -> Value {
    json!([{
        "type": "function", "name": "get_weather", "description": "Weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }])
}

/// A whole response.
pub fn create(server: &TestServer, body: &Value) -> Value {
    server.client().post(RESPONSES, body).ok()
}

/// The events of a streamed response, checked, and the response of the last one.
pub fn stream(server: &TestServer, body: &Value) -> (Vec<Value>, Value) {
    let body = with(body, json!({"stream": true}));
    let transcript = server.client().stream(RESPONSES, &body).transcript();
    assert!(!transcript.done, "OpenAI's responses end without [DONE]");
    let last = response_events::check(&transcript.chunks);
    (transcript.chunks, last)
}

/// The stored form.
pub fn get(server: &TestServer, response: &Value) -> Value {
    server.client().get(&path(response)).ok()
}

pub fn path(response: &Value) -> String {
    format!("{RESPONSES}/{}", response["id"].as_str().expect("an id"))
}

/// Types and texts of the output items.
pub fn said(response: &Value) -> Vec<(String, String)> {
    let items = response["output"].as_array().expect("output");
    (items.iter())
        .map(|item| {
            let text = match item["type"].as_str() {
                Some("function_call") => &item["arguments"],
                _ => &item["content"][0]["text"],
            };
            let text = text.as_str().expect("a text").to_owned();
            (item["type"].as_str().expect("a type").to_owned(), text)
        })
        .collect()
}

/// Without what differs from one response to the next.
pub fn without_ids(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for name in [
                    "id",
                    "call_id",
                    "item_id",
                    "created_at",
                    "completed_at",
                    "cached_tokens",
                ] {
                    map.remove(name);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}
