//! What is sent: one [`Attack`] for each number, the same in every run with the same seed.
//!
//! Knows HTTP/1.1 and OpenAI's requests from the outside, and nothing of the server's code. What a server must do with an
//! attack is decided here, where it is known what is wrong with it ([`Answer`]).

use serde_json::{Map, Value, json};

use super::bodies;
use crate::scenario::Random;

/// Something to do to a server.
#[derive(Clone, Debug)]
pub struct Attack {
    /// For the report.
    pub kind: &'static str,
    /// What to send, in this order.
    pub pieces: Vec<Vec<u8>>,
    /// Pause between two pieces, milliseconds.
    pub pause_ms: u64,
    /// What to do after the last piece.
    pub then: Then,
    /// What must come back.
    pub answer: Answer,
}

/// How an attack ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Read until all answers are there or the server closes.
    Read,
    /// Close the sending half, then read.
    HalfClose,
    /// Read this many bytes, then go away.
    Leave(usize),
    /// Read this many bytes, then reset the connection.
    Reset(usize),
    /// Stay this long without a word, then go away.
    Hold(u64),
}

/// What a server owes. A status of 500 or more is never right, except 503 and a reason that is load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: what was sent is no whole request, or nobody waits for the answer.
    Nothing,
    /// So many answers, errors or not.
    Some(usize),
    /// One error, 400 to 499.
    Refusal,
    /// A 200, unless the server is busy.
    Success,
}

/// One attack.
pub fn attack(seed: u64, number: u64, model: &str) -> Attack {
    // A number's attack does not depend on the others, so that one that fails can be repeated alone.
    let mut random = Random::new(seed ^ number.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let r = &mut random;
    match r.below(100) {
        0..=29 => broken_body(r, model),
        30..=41 => odd_fields(r, model),
        42..=49 => sizes(r, model),
        50..=61 => broken_http(r),
        62..=69 => mutated(r, model),
        70..=76 => pipeline(r, model),
        77..=83 => half_open(r, model),
        84..=91 => abandoned(r, model),
        92..=95 => paths(r),
        _ => honest(r, model),
    }
}

fn one(kind: &'static str, bytes: Vec<u8>, answer: Answer) -> Attack {
    Attack {
        kind,
        pieces: vec![bytes],
        pause_ms: 0,
        then: Then::Read,
        answer,
    }
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A head with these lines; a body may follow.
fn head(method: &str, target: &str, lines: &[&str]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: hostile\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    post_as(path, "application/json", body)
}

fn post_as(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let lines = [
        format!("content-type: {content_type}"),
        format!("content-length: {}", body.len()),
    ];
    let mut bytes = head("POST", path, &lines.each_ref().map(String::as_str)).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn chunked(path: &str, body: &[u8], r: &mut Random) -> Vec<u8> {
    let lines = [
        "content-type: application/json",
        "transfer-encoding: chunked",
    ];
    let mut bytes = head("POST", path, &lines).into_bytes();
    let mut rest = body;
    while !rest.is_empty() {
        let size = (1 + r.below(4096) as usize).min(rest.len());
        bytes.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        bytes.extend_from_slice(&rest[..size]);
        bytes.extend_from_slice(b"\r\n");
        rest = &rest[size..];
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// A small request that a server should answer.
fn good(r: &mut Random, model: &str) -> Map<String, Value> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": bodies::words(r, [1, 12])}],
        "max_tokens": 1 + r.below(8),
        "stream": r.below(3) == 0,
    });
    match body {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn good_bytes(r: &mut Random, model: &str) -> Vec<u8> {
    Value::Object(good(r, model)).to_string().into_bytes()
}

/// Not JSON, or no text.
fn broken_body(r: &mut Random, model: &str) -> Attack {
    let good = good_bytes(r, model);
    let path = *r.pick(&[CHAT, COMPLETIONS]);
    let (kind, body) = bodies::broken(r, &good);
    let bytes = if r.below(4) == 0 {
        chunked(path, &body, r)
    } else {
        post(path, &body)
    };
    one(kind, bytes, Answer::Refusal)
}

/// JSON with something that does not belong there.
fn odd_fields(r: &mut Random, model: &str) -> Attack {
    let mut body = good(r, model);
    let path = *r.pick(&[CHAT, COMPLETIONS]);
    if path == COMPLETIONS {
        body.remove("messages");
        body.insert("prompt".into(), json!(bodies::words(r, [5, 5])));
    }
    for _ in 0..1 + r.below(3) {
        let name = bodies::field_name(r);
        let value = bodies::odd_value(r, 3);
        body.insert(name, value);
    }
    // Some odd values are right after all; whatever is generated stays short.
    body.insert("max_tokens".into(), json!(1 + r.below(4)));
    let body = Value::Object(body).to_string();
    one("odd field", post(path, body.as_bytes()), Answer::Some(1))
}

/// Lengths that lie, bodies beyond the limit, long prompts.
fn sizes(r: &mut Random, model: &str) -> Attack {
    let good = good_bytes(r, model);
    let json = "content-type: application/json";
    match r.below(8) {
        0 => {
            let length = format!("content-length: {}", u64::MAX - r.below(1 << 40));
            let bytes = head("POST", CHAT, &[json, &length]).into_bytes();
            one("a length beyond all limits", bytes, Answer::Refusal)
        }
        1 => {
            let length = format!("content-length: {}", (9 << 20) + r.below(1 << 30));
            let mut bytes = head("POST", CHAT, &[json, &length]).into_bytes();
            bytes.extend_from_slice(&good);
            one("a length beyond the limit", bytes, Answer::Refusal)
        }
        2 => {
            let length = format!("content-length: {}", good.len() + 1 + r.below(100) as usize);
            let mut bytes = head("POST", CHAT, &[json, &length]).into_bytes();
            bytes.extend_from_slice(&good);
            Attack {
                then: *r.pick(&[Then::HalfClose, Then::Leave(0), Then::Reset(0)]),
                ..one("a body that is too short", bytes, Answer::Nothing)
            }
        }
        3 => {
            let mut bytes = post(CHAT, &good);
            bytes.extend((0..1 + r.below(200)).map(|_| r.below(256) as u8));
            one("bytes after the body", bytes, Answer::Some(1))
        }
        4 => {
            let body = vec![b' '; (64 << 10) + r.below(512 << 10) as usize];
            one("a long body of nothing", post(CHAT, &body), Answer::Refusal)
        }
        5 => {
            let text = bodies::words(r, [6000, 10_000]);
            let body = json!({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1});
            one(
                "a long prompt",
                post(CHAT, body.to_string().as_bytes()),
                Answer::Some(1),
            )
        }
        6 => {
            let text = "a".repeat(1000 + r.below(30_000) as usize);
            let body = json!({"model": model, "prompt": text, "max_tokens": 1});
            one(
                "a long word",
                post(COMPLETIONS, body.to_string().as_bytes()),
                Answer::Some(1),
            )
        }
        _ => {
            let message = json!({"role": "user", "content": "x"});
            let messages = vec![message; 1000 + r.below(4000) as usize];
            let body = json!({"model": model, "messages": messages, "max_tokens": 1});
            one(
                "many messages",
                post(CHAT, body.to_string().as_bytes()),
                Answer::Some(1),
            )
        }
    }
}

/// Heads that are none.
fn broken_http(r: &mut Random) -> Attack {
    let (kind, bytes): (_, Vec<u8>) = match r.below(10) {
        0 => {
            let noise = (0..1 + r.below(500)).map(|_| r.below(256) as u8);
            let attack = one("noise", noise.collect(), Answer::Nothing);
            return Attack {
                then: Then::HalfClose,
                ..attack
            };
        }
        1 => {
            let lines: Vec<String> = (0..100 + r.below(400))
                .map(|i| format!("x-{i}: y"))
                .collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            ("many headers", head("GET", "/health", &lines).into())
        }
        2 => {
            let line = format!(
                "x: {}",
                "y".repeat((140 << 10) + r.below(200 << 10) as usize)
            );
            ("a long header", head("GET", "/health", &[&line]).into())
        }
        3 => {
            let target = format!("/{}", "x".repeat((66 << 10) + r.below(20 << 10) as usize));
            ("a long target", head("GET", &target, &[]).into())
        }
        4 => {
            let line = *r.pick(&[
                "content-length: -5",
                "content-length: 5, 6",
                "content-length: 0x10",
                "transfer-encoding: gzip, chunked",
                "transfer-encoding: identity",
                "bad name: x",
                ": x",
                "x\u{1}: y",
                "x: \u{0}",
                "host: again",
                " x: folded",
            ]);
            (
                "a bad header",
                head("POST", CHAT, &["content-type: application/json", line]).into(),
            )
        }
        5 => {
            let version = *r.pick(&[
                "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3", "HTTQ/1.1", "http/1.1", "",
            ]);
            (
                "a bad version",
                format!("GET /health {version}\r\nhost: x\r\n\r\n").into(),
            )
        }
        6 => ("no host", b"GET /health HTTP/1.1\r\n\r\n".to_vec()),
        7 => {
            let mut bytes = head(
                "POST",
                CHAT,
                &[
                    "content-type: application/json",
                    "transfer-encoding: chunked",
                ],
            );
            let chunks = *r.pick(&[
                "xyz\r\n",
                "-1\r\nx\r\n",
                "ffffffffffffffffff\r\n",
                "3\r\n{}\r\n0\r\n\r\n",
                "\r\n",
                "1;\u{1}\r\n",
            ]);
            bytes.push_str(chunks);
            ("bad chunks", bytes.into())
        }
        8 => {
            let lines = [
                "content-type: application/json",
                "content-length: 2",
                "transfer-encoding: chunked",
            ];
            (
                "two lengths",
                (head("POST", CHAT, &lines) + "0\r\n\r\n").into(),
            )
        }
        _ => (
            "another protocol",
            r.pick(&[
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n".to_vec(),
                b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(),
                b"*1\r\n$4\r\nPING\r\n\r\n".to_vec(),
            ])
            .clone(),
        ),
    };
    one(kind, bytes, Answer::Refusal)
}

/// A good request with bytes changed, lost or added anywhere.
fn mutated(r: &mut Random, model: &str) -> Attack {
    let mut bytes = post(CHAT, &good_bytes(r, model));
    for _ in 0..1 + r.below(6) {
        let at = r.below(bytes.len() as u64) as usize;
        match r.below(3) {
            0 => bytes[at] ^= 1 << r.below(8),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, r.below(256) as u8),
        }
    }
    Attack {
        // Its length may have changed to anything: nothing is owed, and nobody waits for more.
        then: *r.pick(&[Then::HalfClose, Then::Hold(20), Then::Reset(0)]),
        ..one("mutated bytes", bytes, Answer::Nothing)
    }
}

/// Many requests at once, good and bad.
fn pipeline(r: &mut Random, model: &str) -> Attack {
    let mut bytes = Vec::new();
    let count = 2 + r.below(20) as usize;
    for _ in 0..count {
        bytes.extend(match r.below(5) {
            0 => post(CHAT, b"{"),
            1 => post(CHAT, &good_bytes(r, model)),
            2 => head("GET", "/nowhere", &[]).into_bytes(),
            3 => chunked(COMPLETIONS, b"[]", r),
            _ => head("GET", "/v1/models", &[]).into_bytes(),
        });
    }
    match r.below(4) {
        0 => {
            bytes.extend_from_slice(b"nonsense\r\n\r\n");
            one(
                "a pipeline that ends in nonsense",
                bytes,
                Answer::Some(count + 1),
            )
        }
        1 => Attack {
            then: Then::Leave(r.below(2000) as usize),
            ..one("a pipeline that is left", bytes, Answer::Nothing)
        },
        2 => {
            let cut = r.below(bytes.len() as u64) as usize;
            bytes.truncate(cut);
            Attack {
                then: Then::HalfClose,
                ..one("half a pipeline", bytes, Answer::Nothing)
            }
        }
        _ => one("a pipeline", bytes, Answer::Some(count)),
    }
}

/// Connections that begin and do not go on.
fn half_open(r: &mut Random, model: &str) -> Attack {
    let good = post(CHAT, &good_bytes(r, model));
    let cut = r.below(good.len() as u64) as usize;
    let then = match r.below(4) {
        0 => Then::Hold(r.below(300)),
        1 => Then::HalfClose,
        2 => Then::Leave(0),
        _ => Then::Reset(0),
    };
    let mut attack = one("half a request", good[..cut].to_vec(), Answer::Nothing);
    attack.then = then;
    match r.below(4) {
        0 => {
            attack.kind = "a silent connection";
            attack.pieces.clear();
        }
        1 => {
            attack.kind = "a slow request";
            attack.pieces = good
                .chunks(1 + good.len() / 12)
                .map(<[u8]>::to_vec)
                .collect();
            attack.pause_ms = 5;
            attack.then = Then::Read;
            attack.answer = Answer::Success;
        }
        2 => {
            attack.kind = "an expectation";
            let lines = [
                "content-type: application/json",
                "content-length: 500",
                "expect: 100-continue",
            ];
            attack.pieces = vec![head("POST", CHAT, &lines).into_bytes()];
        }
        _ => {}
    }
    attack
}

/// Requests that cost work, and clients that do not wait for it.
fn abandoned(r: &mut Random, model: &str) -> Attack {
    let mut body = good(r, model);
    body.insert("stream".into(), json!(r.below(4) > 0));
    body.insert("max_tokens".into(), json!(200));
    body.insert("min_tokens".into(), json!(100));
    if r.below(4) == 0 {
        body.insert("n".into(), json!(1 + r.below(4)));
    }
    let read = r.below(3000) as usize;
    let then = match r.below(3) {
        0 => Then::Reset(read),
        1 => Then::Hold(r.below(100)),
        _ => Then::Leave(read),
    };
    let body = Value::Object(body).to_string();
    Attack {
        then,
        ..one(
            "an abandoned answer",
            post(CHAT, body.as_bytes()),
            Answer::Nothing,
        )
    }
}

/// Paths, methods and types that do not exist.
fn paths(r: &mut Random) -> Attack {
    let path = *r.pick(&[
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/models/..%2f..%2fetc",
        "/%00",
        "/%ff%fe",
        "/health/",
        "//",
        "/v1/models/%20",
        "/v1//models",
        "/.env",
        "/v1/engines",
        "/?a=b&c[]=%",
        "*",
        "/metrics/x",
    ]);
    match r.below(3) {
        0 => {
            let method = *r.pick(&[
                "DELETE", "PUT", "PATCH", "TRACE", "PROPFIND", "X", "get", "CONNECT",
            ]);
            let path = *r.pick(&[CHAT, "/v1/models", "/health", path]);
            one(
                "a wrong method",
                head(method, path, &[]).into_bytes(),
                Answer::Refusal,
            )
        }
        1 => {
            let kind = *r.pick(&[
                "text/plain",
                "multipart/form-data; boundary=x",
                "",
                "application/json; charset=utf-7",
                "\"",
                "a/b/c",
            ]);
            one("a wrong type", post_as(CHAT, kind, b"{}"), Answer::Refusal)
        }
        _ => one(
            "a wrong path",
            head("GET", path, &[]).into_bytes(),
            Answer::Refusal,
        ),
    }
}

/// What must work in the middle of all this.
fn honest(r: &mut Random, model: &str) -> Attack {
    let bytes = post(CHAT, &good_bytes(r, model));
    one("an honest request", bytes, Answer::Success)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_makes_the_same_attacks_every_time_and_another_one_others() {
        let all = |seed| {
            let attacks = (0..300).map(|i| attack(seed, i, "m"));
            attacks.map(|a| (a.kind, a.pieces)).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }

    #[test]
    fn every_kind_comes_up_and_none_is_huge() {
        let attacks: Vec<Attack> = (0..5000).map(|i| attack(7, i, "m")).collect();
        let kinds: BTreeSet<&str> = attacks.iter().map(|a| a.kind).collect();
        assert!(kinds.len() >= 45, "{} kinds: {kinds:?}", kinds.len());
        let bytes = |a: &Attack| a.pieces.iter().map(Vec::len).sum::<usize>();
        assert!(attacks.iter().all(|a| bytes(a) < 4 << 20));
    }
}
