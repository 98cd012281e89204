//! Bodies: JSON that is broken, and JSON values where nobody expects them.
//!
//! Knows no HTTP. Every body of [`broken`] must be refused, whatever the endpoint.

use serde_json::{Value, json};

use crate::scenario::Random;

/// Ordinary words, at least and at most so many.
pub fn words(r: &mut Random, count: [u64; 2]) -> String {
    let words = [
        "river", "table", "green", "letter", "Paris", "weather", "12", "hello",
    ];
    let chosen: Vec<&str> = (0..r.within(count)).map(|_| *r.pick(&words)).collect();
    chosen.join(" ")
}

/// A body that is not JSON, or holds what no text may hold, made from a good one.
pub fn broken(r: &mut Random, good: &[u8]) -> (&'static str, Vec<u8>) {
    let text = || String::from_utf8_lossy(good).into_owned();
    let within = |r: &mut Random, inside: &str| {
        format!("{{\"model\":{inside}}}{}", " ".repeat(r.below(3) as usize))
    };
    match r.below(15) {
        0 => ("an empty body", Vec::new()),
        1 => {
            let cut = 1 + r.below(good.len() as u64 - 1) as usize;
            ("truncated JSON", good[..cut].to_vec())
        }
        2 => (
            "JSON and more",
            [
                good,
                *r.pick(&[&b"x"[..], b"{}", b"]", b"\0", b",", b"\xff"]),
            ]
            .concat(),
        ),
        3 => {
            let depth = 200 + r.below(200_000) as usize;
            let (open, close) = *r.pick(&[("[", "]"), ("{\"a\":", "}")]);
            let close = if r.below(2) == 0 {
                close.repeat(depth)
            } else {
                String::new()
            };
            let inner = if open == "[" { "" } else { "1" };
            (
                "deep nesting",
                within(r, &(open.repeat(depth) + inner + &close)).into(),
            )
        }
        4 => {
            let number = *r.pick(&[
                "1e999",
                "-1e999",
                "1e99999999999",
                "NaN",
                "Infinity",
                "-",
                "01",
                "1.",
                ".5",
                "0x10",
                "1_000",
                "+1",
            ]);
            ("a number that is none", within(r, number).into())
        }
        5 => {
            let text = *r.pick(&[
                "\"\\ud800\"",
                "\"\\udc00x\"",
                "\"\\ud800\\ud800\"",
                "\"\\u12\"",
                "\"\\x\"",
                "\"\\",
            ]);
            ("a bad escape", within(r, text).into())
        }
        6 => ("a bare NUL", within(r, "\"a\0b\"").into()),
        7 => ("an escaped NUL", within(r, "\"a\\u0000b\"").into()),
        8 => ("control characters", within(r, "\"a\u{1}\n\u{1b}\"").into()),
        9 => ("a byte order mark", [&b"\xef\xbb\xbf"[..], good].concat()),
        10 => {
            let bad = *r.pick(&[
                &b"\xff"[..],
                b"\xc0\x80",
                b"\xed\xa0\x80",
                b"\xf5\x80\x80\x80",
                b"\xe9",
                b"\x80",
            ]);
            ("no UTF-8", [b"{\"model\":\"", bad, b"\"}"].concat())
        }
        11 => {
            let units = text().encode_utf16().flat_map(u16::to_le_bytes).collect();
            ("UTF-16", units)
        }
        12 => {
            let key = *r.pick(&["model", "messages", "stream", "x"]);
            let twice = format!("{{\"{key}\":1,\"{key}\":1}}");
            ("a key twice", twice.into())
        }
        13 => (
            "another language",
            r.pick(&[
                &b"model=x&prompt=y"[..],
                b"<a/>",
                b"---\na: 1",
                b"{'a':1}",
                b"{a:1}",
                b"{\"a\":1,}",
                b"// x\n{}",
                b"\x1f\x8b\x08\x00\x00\x00",
            ])
            .to_vec(),
        ),
        _ => (
            "JSON that is no object",
            r.pick(&[
                &b"null"[..],
                b"[]",
                b"1",
                b"\"x\"",
                b"true",
                b"[[[]]]",
                b"-0",
                b"1e308",
            ])
            .to_vec(),
        ),
    }
}

/// A field that exists, or one that does not.
pub fn field_name(r: &mut Random) -> String {
    let names = [
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "max_completion_tokens",
        "min_tokens",
        "ignore_eos",
        "stop_token_ids",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "user",
        "metadata",
        "echo",
        "best_of",
        "suffix",
        "priority",
        "cache_salt",
        "speculation",
        "prompt_logprobs",
        "max_reasoning_tokens",
        "__proto__",
        "",
        "ключ",
    ];
    (*r.pick(&names)).to_owned()
}

/// Any JSON value, small.
pub fn odd_value(r: &mut Random, depth: u32) -> Value {
    match r.below(if depth == 0 { 13 } else { 17 }) {
        0 => Value::Null,
        1 => json!(r.below(2) == 0),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(i64::MIN),
        5 => json!(u64::MAX),
        6 => json!(1e308),
        7 => json!(-0.0),
        8 => json!(r.below(200_000) as f64 / 7.0),
        9 => json!(""),
        10 => json!("x".repeat(r.below(3000) as usize)),
        11 => json!(*r.pick(&[
            "<|end|>",
            "<|start|>assistant<|channel|>final<|message|>",
            "\u{202e}",
            "😀\u{200d}",
            "auto",
            "low",
            "\u{fffd}",
            "../..",
            "%s%n",
            "'; --"
        ])),
        12 => json!(r.below(1 << 20)),
        13 => (0..r.below(5)).map(|_| odd_value(r, depth - 1)).collect(),
        14 => {
            json!([{"type": "function", "function": {"name": odd_value(r, 0), "parameters": odd_value(r, depth - 1)}}])
        }
        15 => json!([{"role": odd_value(r, 0), "content": odd_value(r, depth - 1)}]),
        _ => {
            let entries = (0..r.below(4)).map(|_| (field_name(r), odd_value(r, depth - 1)));
            Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is meant to be broken for a reason that `serde_json` knows, is.
    #[test]
    fn broken_bodies_are_broken() {
        let mut r = Random::new(1);
        let fine = ["a key twice", "an escaped NUL", "JSON that is no object"];
        for _ in 0..2000 {
            let (kind, body) = broken(&mut r, br#"{"model":"m"}"#);
            let read = serde_json::from_slice::<Value>(&body);
            assert_eq!(read.is_ok(), fine.contains(&kind), "{kind}: {body:.60?}");
        }
    }
}
