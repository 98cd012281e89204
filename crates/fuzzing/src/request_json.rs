//! Bodies of requests: whatever comes is accepted, or refused with a 4xx in the form of its API that names the field.
//!
//! The first byte chooses the route. Below 128 the rest is the body, to the letter. From there on a body is made from the
//! OpenAPI document (its examples and schemas), so that fields and values are those that the server knows.

use std::sync::LazyLock;

use gossamer_api::dry_run::{self, Refusal};
use gossamer_testkit::{BelowHttp, Script, TestSetup};
use serde_json::{Map, Value, json};

use crate::Draws;

/// Values of a body that is made.
const MAX_VALUES: usize = 300;
/// Characters of a message to a client.
const MAX_MESSAGE: usize = 1500;

struct Api {
    below: BelowHttp,
    document: Value,
    /// Words that the document names.
    words: Vec<String>,
}

static API: LazyLock<Api> = LazyLock::new(|| {
    let below = TestSetup::new(Script::echo()).below_http();
    let document = serde_json::to_value(gossamer_api::openapi()).expect("a document");
    let mut words = WORDS.map(str::to_owned).to_vec();
    collect_words(&document, &mut words);
    words.sort_unstable();
    words.dedup();
    Api {
        below,
        document,
        words,
    }
});

/// Words that mean something in values, besides those of the document.
const WORDS: [&str; 28] = [
    "test-model",
    "test-alias",
    "gpt-4",
    "",
    "f",
    "get_weather",
    "{}",
    "{\"a\":1}",
    "call_1",
    "resp_1",
    "weather?",
    "a b",
    "\u{e9}\u{1f600}",
    "<|end|>",
    "\u{0}",
    "data:image/png;base64,AAAA",
    "{\"type\":\"object\"}",
    "start: \"a\"",
    "[a-z]+",
    "custom",
    "web_search",
    "image_url",
    "refusal",
    "thinking",
    "redacted_thinking",
    "ephemeral",
    "allowed_tools",
    "reasoning.encrypted_content",
];

fn collect_words(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_words(item, words)),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("enum", Value::Array(items)) => {
                        words.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    ("example" | "const", Value::String(text)) => words.push(text.clone()),
                    _ => collect_words(value, words),
                }
            }
        }
        _ => {}
    }
}

pub(crate) fn prepare() {
    LazyLock::force(&API);
}

pub(crate) fn check(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let paths: Vec<&str> = dry_run::paths().collect();
    let path = paths[usize::from(first % 16) % paths.len()];
    if first < 128 {
        return check_body(path, rest);
    }
    let mut draws = Draws::new(rest);
    let body = body(path, &mut draws);
    let mut text = body.to_string();
    if draws.once_in(32) {
        // The same field twice.
        text = text.replacen("{\"", "{\"model\":\"test-model\",\"", 1);
    }
    check_body(path, text.as_bytes());
}

fn check_body(path: &str, body: &[u8]) {
    let result = dry_run::read(path, body, &API.below.state).expect("a route with a body");
    if let Err(refusal) = result {
        check_refusal(path, body, &refusal);
    }
}

fn check_refusal(path: &str, body: &[u8], refusal: &Refusal) {
    let shown = String::from_utf8_lossy(body);
    assert!(
        (400..500).contains(&refusal.status),
        "{refusal:?} to {path}: {shown}"
    );
    let error = &refusal.body["error"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let message = text(&error["message"]).unwrap_or_default();
    assert!(!message.is_empty(), "{refusal:?} to {path}: {shown}");
    assert!(
        message.chars().count() <= MAX_MESSAGE,
        "{} characters to {path}: {shown}",
        message.chars().count()
    );
    assert!(text(&error["type"]).is_some_and(|kind| !kind.is_empty()));
    if path.starts_with("/v1/messages") {
        assert_eq!(refusal.body["type"], "error");
        assert!(text(&refusal.body["request_id"]).is_some());
    } else {
        assert_eq!(text(&error["code"]).as_deref(), Some(refusal.code));
        assert_eq!(text(&error["param"]), refusal.param);
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return;
    };
    if refusal.code != "invalid_json" {
        check_param(&fields, refusal, || {
            format!("{refusal:?} to {path}: {shown}")
        });
    }
}

/// The field that a refusal names is there, or is what is missing.
fn check_param(fields: &Map<String, Value>, refusal: &Refusal, shown: impl Fn() -> String) {
    let param = refusal.param.as_deref();
    let param = param.unwrap_or_else(|| panic!("no field: {}", shown()));
    let root = param.split(['.', '[']).next().unwrap_or_default();
    let is_known = |name: &String| {
        // As it is shown.
        let name = name.replace('\0', "\u{fffd}");
        param.starts_with(&name) || name.starts_with(root)
    };
    let may_be_absent = ["missing_required_parameter", "context_length_exceeded"];
    assert!(
        fields.keys().any(is_known) || may_be_absent.contains(&refusal.code),
        "not a field of the body: {}",
        shown()
    );
}

/// A body for this route, mostly right.
fn body(path: &str, draws: &mut Draws) -> Value {
    let operation = &API.document["paths"][path]["post"]["requestBody"]["content"];
    let media = &operation["application/json"];
    let schema = resolve(&media["schema"]);
    let examples: Vec<&Value> = match &media["examples"] {
        Value::Object(examples) => examples.values().map(|example| &example["value"]).collect(),
        _ => Vec::new(),
    };
    let mut left = MAX_VALUES;
    let mut body = match draws.below(4) {
        0 => instance(schema, draws, 0, &mut left),
        _ if examples.is_empty() => json!({}),
        _ => examples[draws.below(examples.len())].clone(),
    };
    if let Value::Object(fields) = &mut body {
        if !draws.once_in(16) && schema["properties"]["model"].is_object() {
            fields.insert("model".into(), "test-model".into());
        }
        for _ in 0..draws.below(6) {
            change(fields, schema, draws, &mut left);
        }
    }
    for _ in 0..draws.below(3) {
        disturb(&mut body, draws, &mut left);
    }
    body
}

/// Sets a field that the schema knows, or takes one away.
fn change(fields: &mut Map<String, Value>, schema: &Value, draws: &mut Draws, left: &mut usize) {
    let Some(known) = schema["properties"].as_object() else {
        return;
    };
    let at = draws.below(known.len());
    let Some((name, schema)) = known.iter().nth(at) else {
        return;
    };
    if draws.once_in(8) {
        fields.shift_remove(name);
    } else {
        fields.insert(name.clone(), instance(schema, draws, 0, left));
    }
}

/// Changes something somewhere in a value.
fn disturb(value: &mut Value, draws: &mut Draws, left: &mut usize) {
    let deeper = !draws.once_in(4);
    match value {
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = draws.below(items.len());
            match draws.below(8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => disturb(&mut items[at], draws, left),
            }
        }
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = draws.below(map.len());
            let Some(name) = map.keys().nth(at).cloned() else {
                return;
            };
            match draws.below(8) {
                0 => drop(map.shift_remove(&name)),
                1 => drop(map.insert(word(draws), any(draws, left))),
                _ => disturb(&mut map[&name], draws, left),
            }
        }
        value => *value = any(draws, left),
    }
}

/// Any value.
fn any(draws: &mut Draws, left: &mut usize) -> Value {
    *left = left.saturating_sub(1);
    match draws.below(if *left == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => draws.once_in(2).into(),
        2 => integer(draws).into(),
        3 => draws.pick(&NUMBERS).into(),
        4 => word(draws).into(),
        5 => draws.text(40).into(),
        6 => (0..draws.below(4)).map(|_| any(draws, left)).collect(),
        _ => (0..draws.below(4))
            .map(|_| (word(draws), any(draws, left)))
            .collect(),
    }
}

fn word(draws: &mut Draws) -> String {
    API.words[draws.below(API.words.len())].clone()
}

const NUMBERS: [f64; 10] = [
    0.0,
    1.0,
    0.5,
    -0.5,
    2.0,
    2.5,
    -2.0,
    1e-300,
    1e300,
    0.300_000_000_000_000_04,
];

fn integer(draws: &mut Draws) -> i64 {
    let edges = [
        0,
        1,
        2,
        3,
        4,
        20,
        128,
        -1,
        4096,
        201_088,
        i64::MAX,
        i64::MIN,
        i64::from(u32::MAX),
        1 << 53,
    ];
    match draws.once_in(4) {
        true => draws.long().cast_signed(),
        false => draws.pick(&edges),
    }
}

fn resolve(mut schema: &Value) -> &Value {
    while let Some(path) = schema["$ref"].as_str() {
        let Some(found) = API.document.pointer(path.trim_start_matches('#')) else {
            return &Value::Null;
        };
        schema = found;
    }
    schema
}

/// A value that a schema allows, about.
fn instance(schema: &Value, draws: &mut Draws, depth: usize, left: &mut usize) -> Value {
    let schema = resolve(schema);
    if *left == 0 || depth > 12 {
        return Value::Null;
    }
    *left -= 1;
    if draws.once_in(48) {
        return any(draws, left);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(variants) = schema[key].as_array().filter(|list| !list.is_empty()) {
            let chosen = &variants[draws.below(variants.len())];
            return instance(chosen, draws, depth + 1, left);
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = Map::new();
        for part in parts {
            match instance(part, draws, depth + 1, left) {
                Value::Object(fields) => whole.extend(fields),
                other => return other,
            }
        }
        return whole.into();
    }
    if let Some(values) = schema["enum"].as_array().filter(|list| !list.is_empty()) {
        return values[draws.below(values.len())].clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) if !kinds.is_empty() => &kinds[draws.below(kinds.len())],
        kind => kind,
    };
    match kind.as_str() {
        Some("object") => object(schema, draws, depth, left),
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap_or(0).min(2) as usize;
            let count = least + draws.below(3);
            (0..count)
                .map(|_| instance(&schema["items"], draws, depth + 1, left))
                .collect()
        }
        Some("integer") => bounded(schema, draws).unwrap_or_else(|| integer(draws).into()),
        Some("number") => bounded(schema, draws).unwrap_or_else(|| draws.pick(&NUMBERS).into()),
        Some("boolean") => draws.once_in(2).into(),
        Some("string") if draws.once_in(4) => draws.text(60).into(),
        Some("string") => word(draws).into(),
        Some("null") => Value::Null,
        _ => any(draws, left),
    }
}

fn object(schema: &Value, draws: &mut Draws, depth: usize, left: &mut usize) -> Value {
    let mut fields = Map::new();
    let required = schema["required"].as_array();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.iter().any(|other| other == name));
        let wanted = match is_required {
            true => !draws.once_in(48),
            // Many fields at once rarely go together.
            false => draws.once_in(5),
        };
        if wanted {
            fields.insert(name.clone(), instance(property, draws, depth + 1, left));
        }
    }
    let others = &schema["additionalProperties"];
    if others.is_object() || draws.once_in(64) {
        for _ in 0..draws.below(3) {
            let name = word(draws);
            fields.insert(name, instance(others, draws, depth + 1, left));
        }
    }
    fields.into()
}

/// One of the bounds, if there is one.
fn bounded(schema: &Value, draws: &mut Draws) -> Option<Value> {
    let bound = &schema[draws.pick(&["minimum", "maximum", "default", "example"])];
    (bound.is_number() && !draws.once_in(4)).then(|| bound.clone())
}
