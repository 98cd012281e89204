//! Grammars that clients write: each is refused with a reason, or holds a text to its end.
//!
//! The first byte chooses: `s`, `r` and `l` take the rest as a JSON schema, a regular expression or Lark, to the letter;
//! other bytes have one made from parts. What compiles is walked through by chance, along allowed tokens only.

use std::sync::Arc;

use gossamer_harmony::special::{CHANNEL, MESSAGE, RETURN, VOCAB_SIZE};
use gossamer_harmony::{
    Grammar, GrammarSource, Next, Token, Tokenizer, TurnGuard, TurnRules, TurnWishes, Writing,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::{Draws, draws::Dice};

/// Tokens of a walk.
const MAX_STEPS: usize = 40;
/// Characters of a reason.
const MAX_REASON: usize = 320;

pub(crate) fn prepare() {
    gossamer_harmony::prepare_grammars();
}

pub(crate) fn check(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let mut draws = Draws::new(rest);
    let raw = || String::from_utf8_lossy(rest).into_owned();
    let source = match first {
        b's' => match serde_json::from_slice(rest) {
            Ok(schema) => GrammarSource::JsonSchema(schema),
            Err(_) => return,
        },
        b'r' => GrammarSource::Regex(raw()),
        b'l' => GrammarSource::Lark(raw()),
        other => match other % 8 {
            0..=3 => GrammarSource::JsonSchema(root(&mut draws)),
            4 => GrammarSource::Regex(pieces(&REGEX, &mut draws)),
            5 | 6 => GrammarSource::Lark(lark(&mut draws)),
            _ => GrammarSource::Choice((0..=draws.below(6)).map(|_| draws.text(30)).collect()),
        },
    };
    match Grammar::compile(&source) {
        Err(error) => {
            let reason = error.to_string();
            assert!(!reason.is_empty(), "no reason: {source:?}");
            assert!(
                reason.chars().count() <= MAX_REASON && !reason.contains('\n'),
                "{reason:?}: {source:?}"
            );
        }
        Ok(grammar) => {
            let mut dice = Dice::new(seed(bytes));
            walk(&source, Arc::new(grammar), &mut dice);
        }
    }
}

/// FNV-1a: every byte matters to the walk.
fn seed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn walk(source: &GrammarSource, grammar: Arc<Grammar>, dice: &mut Dice) {
    let rules = TurnRules::new(TurnWishes {
        answer: Some(grammar),
        ..TurnWishes::default()
    });
    let mut guard = TurnGuard::new(Arc::new(rules));
    let tokenizer = Tokenizer::get();
    guard.advance(CHANNEL);
    (tokenizer.encode("final").into_iter()).for_each(|token| guard.advance(token));
    guard.advance(MESSAGE);
    assert_eq!(guard.writing(), Writing::Grammar);

    let mut text = Vec::new();
    let shown = |text: &[Token]| String::from_utf8_lossy(&tokenizer.decode(text)).into_owned();
    for _ in 0..MAX_STEPS {
        let Some(token) = next(&mut guard, dice) else {
            assert!(
                may_end_dead(source, &guard),
                "no way on behind {:?}: {source:?}",
                shown(&text)
            );
            return;
        };
        assert!(
            guard.allows(token),
            "{token} is listed behind {:?}: {source:?}",
            shown(&text)
        );
        if token == RETURN {
            check_text(source, &tokenizer.decode(&text));
            return;
        }
        assert!(!tokenizer.is_control(token), "{token}: {source:?}");
        guard.advance(token);
        text.push(token);
    }
    // It need not be at an end; whatever else comes is followed.
    guard.advance(RETURN);
    assert_eq!(guard.writing(), Writing::Anything);
}

/// Whether there may be no way on. Clients may write down a rule of Lark that nothing matches; and a text may become too
/// complex to follow.
fn may_end_dead(source: &GrammarSource, guard: &TurnGuard) -> bool {
    matches!(source, GrammarSource::Lark(_)) || guard.trouble().is_some()
}

fn check_text(source: &GrammarSource, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|_| panic!("{text:?}: {source:?}"));
    match source {
        GrammarSource::JsonSchema(_) | GrammarSource::JsonObject => {
            // A number may be larger than a double can be: that is JSON, and `IgnoredAny` does not look at its size.
            let error = (serde_json::from_str::<Value>(text).err())
                .filter(|error| !error.to_string().starts_with("number out of range"))
                .or_else(|| serde_json::from_str::<IgnoredAny>(text).err());
            if let Some(error) = error {
                panic!("{error} in {text:?}: {source:?}");
            }
        }
        GrammarSource::Choice(texts) => {
            assert!(
                texts.iter().any(|other| other == text),
                "{text:?}: {source:?}"
            );
        }
        GrammarSource::Regex(_) | GrammarSource::Lark(_) => {}
    }
}

/// An allowed token; often one that brings the text to its end.
fn next(guard: &mut TurnGuard, dice: &mut Dice) -> Option<Token> {
    const CLOSING: [u8; 9] = *b"\"}]:,1e \n";
    if dice.below(3) > 0 {
        let closing = CLOSING[dice.below(CLOSING.len())];
        let closing = Tokenizer::get().encode(&char::from(closing).to_string());
        for token in [RETURN, closing[0]] {
            if guard.allows(token) {
                return Some(token);
            }
        }
        for _ in 0..4 {
            let token = dice.below(VOCAB_SIZE) as Token;
            if guard.allows(token) {
                return Some(token);
            }
        }
    }
    let Next::Mask(words) = guard.allowed() else {
        panic!("a grammar has a mask");
    };
    dice.token_of(words)
}

/// A schema, with definitions to refer to.
fn root(draws: &mut Draws) -> Value {
    let mut left = 40;
    let mut root = schema(draws, 0, &mut left);
    if draws.once_in(2)
        && let Value::Object(fields) = &mut root
    {
        let mut defs = Map::new();
        for name in ["a", "b", "c/d"] {
            defs.insert(name.into(), schema(draws, 1, &mut left));
        }
        fields.insert("$defs".into(), defs.into());
    }
    root
}

fn schema(draws: &mut Draws, depth: usize, left: &mut usize) -> Value {
    *left = left.saturating_sub(1);
    let is_deep = *left == 0 || depth > 6;
    let mut schema = match draws.below(if is_deep { 8 } else { 16 }) {
        0 => string(draws),
        1 => number("integer", draws),
        2 => number("number", draws),
        3 => json!({"type": draws.pick(&["boolean", "null", "string", "object", "array"])}),
        4 => json!({"enum": values(draws)}),
        5 => json!({"const": value(draws, 0)}),
        6 => {
            json!({"$ref": draws.pick(&["#/$defs/a", "#/$defs/b", "#", "#/$defs/c~1d", "#/properties/a", "#/$defs/x"])})
        }
        7 => draws.pick(&[true, true, false]).into(),
        8 | 9 => array(draws, depth, left),
        10..=13 => object(draws, depth, left),
        14 => {
            let key = draws.pick(&["anyOf", "anyOf", "oneOf", "allOf"]);
            let parts: Vec<Value> = (0..draws.below(4))
                .map(|_| self::schema(draws, depth + 1, left))
                .collect();
            json!({key: parts})
        }
        _ => json!({"type": ["string", "null", "integer"]}),
    };
    if draws.once_in(12)
        && let Value::Object(fields) = &mut schema
    {
        let (name, value) = match draws.below(9) {
            0 => ("description", json!("d")),
            1 => (
                "x-guidance",
                json!({"whitespace_flexible": false, "lenient": true}),
            ),
            2 => ("not", self::schema(draws, depth + 1, left)),
            3 => ("if", self::schema(draws, depth + 1, left)),
            4 => ("anyOf", json!([self::schema(draws, depth + 1, left), {}])),
            5 => (
                "type",
                json!(draws.pick(&["object", "string", "strin", ""])),
            ),
            6 => ("nullable", json!(true)),
            7 => ("$id", json!("https://example.org/s")),
            _ => ("default", value(draws, 0)),
        };
        fields.insert(name.into(), value);
    }
    schema
}

fn size(draws: &mut Draws) -> Value {
    let sizes = [0, 1, 2, 3, 7, 40, 1000, 100_000, -1, i64::MAX, 1 << 32];
    match draws.once_in(24) {
        true => json!(draws.pick(&[0.5, 1e300, -0.0, 2.0])),
        false => {
            let most = draws.pick(&[5, 5, 5, 11]);
            json!(draws.pick(&sizes[..most]))
        }
    }
}

fn string(draws: &mut Draws) -> Value {
    let mut fields = json!({"type": "string"});
    let formats = [
        "date",
        "time",
        "date-time",
        "email",
        "uuid",
        "ipv4",
        "ipv6",
        "uri",
        "hostname",
        "regex",
        "x",
    ];
    for _ in 0..draws.below(3) {
        match draws.below(4) {
            0 => fields["minLength"] = size(draws),
            1 => fields["maxLength"] = size(draws),
            2 => fields["pattern"] = pieces(&REGEX, draws).into(),
            _ => fields["format"] = draws.pick(&formats).into(),
        }
    }
    fields
}

fn number(kind: &str, draws: &mut Draws) -> Value {
    let numbers = [
        0.0, 1.0, -1.0, 10.0, 0.5, -0.25, 100.0, 1e9, 1e18, 1e300, 3.3, 1e-9,
    ];
    let names = [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ];
    let mut fields = json!({"type": kind});
    for _ in 0..draws.below(3) {
        fields[draws.pick(&names)] = match draws.once_in(3) {
            true => size(draws),
            false => draws.pick(&numbers).into(),
        };
    }
    fields
}

fn array(draws: &mut Draws, depth: usize, left: &mut usize) -> Value {
    let mut fields = json!({"type": "array"});
    for _ in 0..draws.below(4) {
        match draws.below(6) {
            0 => fields["minItems"] = size(draws),
            1 => fields["maxItems"] = size(draws),
            2 => {
                fields["prefixItems"] = (0..draws.below(3))
                    .map(|_| schema(draws, depth + 1, left))
                    .collect();
            }
            3 => fields["uniqueItems"] = draws.once_in(2).into(),
            _ => fields["items"] = schema(draws, depth + 1, left),
        }
    }
    fields
}

const NAMES: [&str; 8] = ["a", "b", "city", "\u{e9}", "\"", "a b", "", "\u{1f600}\n"];

fn object(draws: &mut Draws, depth: usize, left: &mut usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..draws.below(4) {
        properties.insert(draws.pick(&NAMES).into(), schema(draws, depth + 1, left));
    }
    let required: Vec<Value> = (properties.keys())
        .filter(|_| !draws.once_in(3))
        .map(|name| name.as_str().into())
        .collect();
    let mut fields = json!({"type": "object", "properties": properties, "required": required});
    for _ in 0..draws.below(3) {
        match draws.below(8) {
            0 => fields["minProperties"] = size(draws),
            1 => fields["maxProperties"] = size(draws),
            2 => fields["required"] = json!([draws.pick(&NAMES), draws.pick(&NAMES)]),
            3 => {
                let pattern = pieces(&REGEX, draws);
                fields["patternProperties"] = json!({pattern: schema(draws, depth + 1, left)});
            }
            4 => fields["additionalProperties"] = schema(draws, depth + 1, left),
            5 => fields["dependentRequired"] = json!({"a": ["b"]}),
            _ => fields["additionalProperties"] = draws.once_in(3).into(),
        }
    }
    fields
}

fn values(draws: &mut Draws) -> Vec<Value> {
    (0..draws.below(5)).map(|_| value(draws, 0)).collect()
}

fn value(draws: &mut Draws, depth: usize) -> Value {
    match draws.below(if depth > 3 { 6 } else { 8 }) {
        0 => draws.text(12).into(),
        1 => draws.pick(&NAMES).into(),
        2 => draws.long().cast_signed().into(),
        3 => draws.pick(&[0.0, -0.5, 1e300, 1e-7]).into(),
        4 => draws.once_in(2).into(),
        5 => Value::Null,
        6 => (0..draws.below(3))
            .map(|_| value(draws, depth + 1))
            .collect(),
        _ => json!({draws.pick(&NAMES): value(draws, depth + 1)}),
    }
}

const REGEX: [&str; 40] = [
    "a",
    "[a-z]",
    "\\d",
    "(",
    ")",
    "*",
    "+",
    "?",
    "{2,5}",
    "|",
    ".",
    "\\w",
    "\u{e9}",
    "[^\"]",
    "^",
    "$",
    "\\p{L}",
    "(?i)",
    "(?=a)",
    "\\b",
    "{1000}",
    "{0,100000}",
    "&",
    "~",
    "\\s",
    "\\n",
    "[\\s\\S]",
    "(?:",
    "\\",
    "{3}",
    "-",
    "\\x{1F600}",
    "[]",
    "[^\\u0000-\\uffff]",
    "(?P<n>",
    "\"",
    "(ab|ac)*",
    "(a*)*",
    "1",
    " ",
];

fn pieces(of: &[&str], draws: &mut Draws) -> String {
    (0..draws.below(12)).map(|_| draws.pick(of)).collect()
}

/// Rules over a few names, some of which are not there.
fn lark(draws: &mut Draws) -> String {
    const PARTS: [&str; 40] = [
        " a",
        " b",
        " c",
        " A",
        " B",
        " \"x\"",
        " \"\"",
        " \"\u{e9}\\n\"",
        " /[a-z]+/",
        " /./s",
        " |",
        " (",
        " )",
        "*",
        "+",
        "?",
        "~2",
        "~1..3",
        "{2}",
        "{0,}",
        " [\"y\"]",
        " %json {\"type\":\"object\"}",
        " %json true",
        " <|return|>",
        " <|end|>",
        " <[5]>",
        " <[^5]>",
        " %regex {\"substring_words\":\"a b\"}",
        " INT",
        " -> n",
        " \"a\"..\"z\"",
        " \"x\"i",
        " //",
        " ~A",
        " & B",
        " start",
        " %lark { start: \"q\" }",
        " none",
        " // c",
        "!",
    ];
    const HEADS: [&str; 16] = [
        "start:",
        "a:",
        "b:",
        "c:",
        "A:",
        "B:",
        "start:",
        "start[capture]:",
        "a[lazy]:",
        "b[max_tokens=3]:",
        "A[stop=\"x\"]:",
        "a[suffix=\"y\"]:",
        "?a:",
        "A.2:",
        "c[temperature=0.5]:",
        "b[stop=/z/]:",
    ];
    let mut text = match draws.below(4) {
        0 => "%import common.INT\n".to_owned(),
        1 => "%ignore / +/\n".to_owned(),
        2 => "%llguidance {}\n".to_owned(),
        _ => String::new(),
    };
    text.push_str("start:");
    for _ in 0..=draws.below(6) {
        (0..=draws.below(6)).for_each(|_| text.push_str(draws.pick(&PARTS)));
        text.push('\n');
        text.push_str(draws.pick(&HEADS));
    }
    text.push_str(" \"z\"\n");
    text
}
