//! Strict JSON: what `serde_json` reads, no key twice in an object, and no U+0000 in a text.
//!
//! `serde_json` keeps the last of two equal keys, silently; the client then believes in a value that was never used.
//! It already refuses trailing bytes, lone surrogates, numbers out of range and nesting deeper than 128.
//! U+0000 is a character in JSON and in no text that anybody means to send; what comes after us (logs, C strings, databases)
//! treats it in as many ways as there are.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorCode};

/// Reads a body.
///
/// # Errors
/// `invalid_json` with line and column; `invalid_value` with the field that holds U+0000.
pub fn read(bytes: &[u8]) -> Result<Value, ApiError> {
    let value = parse(bytes).map_err(|error| {
        ApiError::new(
            ErrorCode::InvalidJson,
            format!("The body is not valid JSON: {error}."),
        )
    })?;
    // A body that is a text itself is no object, and is refused for that.
    match path_of_nul(&value).filter(|path| !path.is_empty()) {
        None => Ok(value),
        Some(path) => {
            let path = shortened(path);
            let message = format!("'{path}' must not hold the character U+0000.");
            Err(ApiError::field(ErrorCode::InvalidValue, path, message))
        }
    }
}

/// Reads one JSON document. An error is a part of a sentence.
fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark".to_owned());
    }
    serde_json::from_slice::<Strict>(bytes)
        .map(|strict| strict.0)
        .map_err(|error| error.to_string())
}

/// The first text or key with U+0000, as a path: `messages[0].content`.
fn path_of_nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items.iter().enumerate().find_map(|(i, item)| {
            let rest = path_of_nul(item)?;
            Some(join(&format!("[{i}]"), &rest))
        }),
        Value::Object(map) => map.iter().find_map(|(key, value)| {
            if key.contains('\0') {
                return Some(shown(&key.replace('\0', "\u{fffd}")));
            }
            let rest = path_of_nul(value)?;
            Some(join(&shown(key), &rest))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// A path that a person can read: names may be as deep as JSON is read.
fn shortened(mut path: String) -> String {
    const SHOWN: usize = 256;
    if let Some((end, _)) = path.char_indices().nth(SHOWN) {
        path.truncate(end);
        path.push_str("...");
    }
    path
}

/// A path that goes on: `a` and `b` are `a.b`, `a` and `[0]` are `a[0]`.
fn join(first: &str, rest: &str) -> String {
    let dot = if rest.is_empty() || rest.starts_with('[') {
        ""
    } else {
        "."
    };
    format!("{first}{dot}{rest}")
}

fn shown(key: &str) -> String {
    key.chars().take(64).collect()
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown = shown(&key);
                return Err(de::Error::custom(format_args!("duplicate key {shown:?}")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_serde_json_reads_comes_out_the_same() {
        let text =
            r#"{"a":[1,-2,3.5,1e3,"x\u00e9\ud83d\ude00",true,false,null,{}],"z":{"b":1,"a":2}}"#;
        let value = parse(text.as_bytes()).expect("valid JSON");
        assert_eq!(value, serde_json::from_str::<Value>(text).expect("valid"));
        assert_eq!(value["z"], json!({"b": 1, "a": 2}));
        assert_eq!(value["z"].to_string(), r#"{"b":1,"a":2}"#, "order is kept");
    }

    #[test]
    fn a_nul_is_refused_by_its_place() {
        for (text, path) in [
            (r#"{"a":"x\u0000"}"#, "a"),
            (
                r#"{"messages":[{"role":"user"},{"content":[{"text":"\u0000"}]}]}"#,
                "messages[1].content[0].text",
            ),
            (r#"{"a":{"b\u0000c":1}}"#, "a.b\u{fffd}c"),
            (r#"[["\u0000"]]"#, "[0][0]"),
        ] {
            let error = read(text.as_bytes()).expect_err(text);
            assert_eq!(error.param(), Some(path), "{text}");
            assert_eq!(error.code(), ErrorCode::InvalidValue);
        }
        // Found by fuzzing: a hundred names of sixty letters were shown whole, twice.
        let name = format!("{{\"{}\":", "n".repeat(60));
        let deep = name.repeat(100) + r#""\u0000""# + &"}".repeat(100);
        let error = read(deep.as_bytes()).expect_err("it holds one");
        let param = error.param().unwrap_or_default();
        assert!(param.len() == 259 && param.ends_with("..."), "{param}");
        for fine in [&br#"{"a":"\\u0000"}"#[..], br#""\u0000""#] {
            assert!(read(fine).is_ok());
        }
    }

    #[test]
    fn what_is_not_strict_json_is_refused() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in [
            "",
            "\u{feff}{}",
            "{",
            "{} x",
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"c":2,"b":3}}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":NaN}"#,
            r#"{'a':1}"#,
            "{\"a\":\"\u{1}\"}",
            deep.as_str(),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:.40}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
    }
}
