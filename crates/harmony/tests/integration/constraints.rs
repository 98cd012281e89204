//! Turns written by chance under the rules: whatever is allowed must be right.
//!
//! The writer here draws from what is allowed and nothing else, without a model. What comes out is read by the parser, by
//! `serde_json` and by another implementation of JSON schemas.

use std::sync::Arc;

use gossamer_harmony::special::{CALL, END, END_OF_TEXT, FIRST_CONTROL, RETURN, START, VOCAB_SIZE};
use gossamer_harmony::{
    Callable, Delta, Grammar, GrammarSource, Next, Parser, RepairKind, Token, Tokenizer, TurnGuard,
    TurnRules, TurnWishes, Writing,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A small generator: the draws of a walk are many and need no shrinking.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

fn allowed(guard: &mut TurnGuard) -> Vec<Token> {
    let all = 0..VOCAB_SIZE as Token;
    match guard.allowed() {
        Next::Anything => all.collect(),
        Next::AllBut(refused) => all
            .filter(|token| refused.binary_search(token).is_err())
            .collect(),
        Next::Only(tokens) => tokens.to_vec(),
        Next::Mask(words) => {
            let set = |token: &Token| words[*token as usize / 32] >> (token % 32) & 1 == 1;
            all.filter(set).collect()
        }
    }
}

/// Tokens that bring a text to its end.
fn closing() -> Vec<Token> {
    let mut tokens: Vec<Token> = [
        "\"", "\"}", "}", "]", "\"]", "}}", "]}", ":", "\":", "1", "true", "null",
    ]
    .iter()
    .flat_map(|text| Tokenizer::get().encode(text))
    .collect();
    tokens.extend([END, RETURN, CALL]);
    tokens
}

/// An allowed token: often one that brings the text to its end, else any.
fn pick(guard: &mut TurnGuard, closing: &[Token], dice: &mut Dice) -> Option<Token> {
    if guard.writing() != Writing::Header {
        if dice.below(3) > 0 {
            let likely = closing.iter().copied().filter(|token| guard.allows(*token));
            let likely: Vec<Token> = likely.collect();
            if !likely.is_empty() {
                return Some(likely[dice.below(likely.len())]);
            }
        }
        for _ in 0..20 {
            let token = dice.below(VOCAB_SIZE) as Token;
            if guard.allows(token) {
                return Some(token);
            }
        }
    }
    let all = allowed(guard);
    (!all.is_empty()).then(|| all[dice.below(all.len())])
}

/// Writes a turn of at most `max` tokens; `None` if it did not end by then.
fn write(rules: &Arc<TurnRules>, dice: &mut Dice, max: usize) -> Option<Vec<Token>> {
    let mut guard = TurnGuard::new(Arc::clone(rules));
    let closing = closing();
    let mut turn = Vec::new();
    while turn.len() < max {
        let token = pick(&mut guard, &closing, dice);
        let token = token.unwrap_or_else(|| panic!("a dead end behind {:?}", text(&turn)));
        assert!(guard.allows(token));
        guard.advance(token);
        turn.push(token);
        if matches!(token, RETURN | CALL | END_OF_TEXT) {
            return Some(turn);
        }
    }
    None
}

fn text(turn: &[Token]) -> String {
    String::from_utf8_lossy(&Tokenizer::get().decode(turn)).into_owned()
}

#[derive(Default, Debug)]
struct Heard {
    content: String,
    name: Option<String>,
    arguments: String,
    header_repairs: u64,
}

fn hear(turn: &[Token]) -> Heard {
    let mut parser = Parser::new();
    let mut heard = Heard::default();
    let mut deltas: Vec<Delta> = turn.iter().flat_map(|&token| parser.push(token)).collect();
    deltas.extend(parser.finish());
    for delta in deltas {
        match delta {
            Delta::Content(text) => heard.content += &text,
            Delta::ToolCall { name, .. } => heard.name = Some(name),
            Delta::Arguments { text, .. } => heard.arguments += &text,
            Delta::Reasoning(_) | Delta::Preamble(_) => {}
        }
    }
    let repairs = parser.repairs();
    heard.header_repairs = repairs.total() - repairs.get(RepairKind::InvalidUtf8);
    heard
}

fn compile(source: GrammarSource) -> Arc<Grammar> {
    Arc::new(Grammar::compile(&source).unwrap_or_else(|error| panic!("{source:?}: {error}")))
}

fn callable(name: &str, schema: Option<Value>) -> Callable {
    Callable {
        name: name.to_owned(),
        arguments: schema.map(|schema| compile(GrammarSource::JsonSchema(schema))),
    }
}

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"unit": {"enum": ["c", "f", "gr\u{fc}n \"x\""]}, "n": {"type": "integer", "minimum": -3, "maximum": 12}}, "required": ["unit", "n"]}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, "minItems": 1, "maxItems": 2}),
        json!({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "number"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"type": "object", "properties": {"\u{fc}\u{f6}\u{4f60}": {"const": "\u{1f600}"}}, "required": ["\u{fc}\u{f6}\u{4f60}"], "additionalProperties": false}),
        json!({"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$", "maxLength": 12}),
    ]
}

#[test]
fn answers_and_arguments_are_valid_by_their_schemas() {
    let mut dice = Dice(7);
    let mut written = 0;
    for schema in schemas() {
        let validator = jsonschema::validator_for(&schema).unwrap();
        let check = |text: &str| {
            let value: Value =
                serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(
                validator.is_valid(&value),
                "{value} is not valid by {schema}"
            );
        };
        for must_call in [false, true] {
            let rules = Arc::new(TurnRules::new(TurnWishes {
                functions: vec![
                    callable("f", Some(schema.clone())),
                    callable("get_weather", Some(schema.clone())),
                ],
                must_call,
                answer: Some(compile(GrammarSource::JsonSchema(schema.clone()))),
                json_answer: true,
                headers: true,
            }));
            for _ in 0..4 {
                let Some(turn) = write(&rules, &mut dice, 400) else {
                    continue;
                };
                let heard = hear(&turn);
                assert_eq!(heard.header_repairs, 0, "{}", text(&turn));
                match (&heard.name, turn.last()) {
                    (Some(_), Some(&CALL)) => check(&heard.arguments),
                    (None, Some(&RETURN)) if !must_call => check(&heard.content),
                    _ => panic!("{heard:?}"),
                }
                written += 1;
            }
        }
    }
    assert!(written > 20, "only {written} turns came to an end");
}

#[test]
fn other_grammars_hold_too() {
    let mut dice = Dice(11);
    let whole = |regex: &str| {
        let regex = format!("^(?:{regex})$");
        let schema = json!({"type": "string", "pattern": regex});
        let validator = jsonschema::validator_for(&schema).unwrap();
        move |text: &str| validator.is_valid(&json!(text))
    };
    type Check = Box<dyn Fn(&str) -> bool>;
    let cases: Vec<(GrammarSource, Check)> = vec![
        (
            GrammarSource::Regex("[a-c]{3}|x\u{e9}\\d".into()),
            Box::new(whole("[a-c]{3}|x\u{e9}[0-9]")),
        ),
        (
            GrammarSource::Choice(vec![
                "yes".into(),
                "no \"way\"\n\\/".into(),
                "n\u{fc}\u{1f600}".into(),
            ]),
            Box::new(|text| ["yes", "no \"way\"\n\\/", "n\u{fc}\u{1f600}"].contains(&text)),
        ),
        (
            GrammarSource::Lark(
                "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]{1,3}/".into(),
            ),
            Box::new(whole("[0-9]{1,3}(\\+[0-9]{1,3})*")),
        ),
        (
            GrammarSource::JsonObject,
            Box::new(|text| matches!(serde_json::from_str(text), Ok(Value::Object(_)))),
        ),
    ];
    for (source, holds) in cases {
        let rules = Arc::new(TurnRules::new(TurnWishes {
            answer: Some(compile(source.clone())),
            headers: true,
            ..TurnWishes::default()
        }));
        let turns: Vec<_> = (0..8)
            .filter_map(|_| write(&rules, &mut dice, 300))
            .collect();
        assert!(!turns.is_empty());
        for turn in turns {
            let heard = hear(&turn);
            assert!(
                holds(&heard.content),
                "{:?} under {source:?}",
                heard.content
            );
        }
    }
}

#[test]
fn what_is_allowed_and_what_is_asked_agree() {
    let rules = Arc::new(TurnRules::new(TurnWishes {
        functions: vec![callable("f", Some(schemas()[1].clone()))],
        answer: Some(compile(GrammarSource::JsonObject)),
        json_answer: true,
        headers: true,
        ..TurnWishes::default()
    }));
    let mut dice = Dice(3);
    for _ in 0..2 {
        let Some(turn) = write(&rules, &mut dice, 40) else {
            continue;
        };
        let mut guard = TurnGuard::new(Arc::clone(&rules));
        for token in turn {
            let allowed = allowed(&mut guard);
            for other in
                (0..VOCAB_SIZE as Token).filter(|t| t % 61 == token % 61 || *t >= FIRST_CONTROL)
            {
                assert_eq!(
                    guard.allows(other),
                    allowed.binary_search(&other).is_ok(),
                    "{other}"
                );
            }
            guard.advance(token);
        }
    }
}

/// Found by fuzzing: from `multipleOf: 1000` on, a number could not be begun.
#[test]
fn a_number_of_the_largest_multiple_can_be_written() {
    for (multiple, number) in [
        (json!(1000), "4000"),
        (json!(100_000), "300000"),
        (json!(0.0025), "1.0075"),
    ] {
        let schema = json!({"type": "number", "multipleOf": multiple});
        let rules = Arc::new(TurnRules::new(TurnWishes {
            answer: Some(compile(GrammarSource::JsonSchema(schema))),
            ..TurnWishes::default()
        }));
        let mut guard = TurnGuard::new(rules);
        for token in Tokenizer::get().encode_with_special("<|channel|>final<|message|>") {
            guard.advance(token);
        }
        for token in Tokenizer::get().encode(number) {
            assert!(
                allowed(&mut guard).contains(&token),
                "{number}: {:?}",
                guard.trouble()
            );
            guard.advance(token);
        }
        assert!(guard.allows(RETURN));
        guard.advance(Tokenizer::get().encode("x")[0]);
        assert!(guard.trouble().is_some() && allowed(&mut guard).is_empty());
    }
}

/// Found by fuzzing: the mask of a text that might end was too complex, and then it might not end any more.
#[test]
fn a_text_that_may_end_may_end_though_going_on_is_too_complex() {
    let regex = r#"[^"]~\w{2,5}*{0,100000}{0,100000}{0,100000}"#;
    let rules = Arc::new(TurnRules::new(TurnWishes {
        answer: Some(compile(GrammarSource::Regex(regex.to_owned()))),
        ..TurnWishes::default()
    }));
    let mut guard = TurnGuard::new(rules);
    for token in Tokenizer::get().encode_with_special("<|channel|>final<|message|>赋~") {
        guard.advance(token);
    }
    assert!(allowed(&mut guard).contains(&RETURN));
    assert!(guard.allows(RETURN), "{:?}", guard.trouble());
}

#[test]
fn nobody_is_called_where_there_is_nobody() {
    let rules = TurnRules::new(TurnWishes {
        must_call: true,
        ..TurnWishes::default()
    });
    assert_eq!(rules.forced_call(), None);
}

#[test]
fn a_turn_that_must_call_has_no_answer() {
    let rules = Arc::new(TurnRules::new(TurnWishes {
        functions: vec![callable("f", None)],
        must_call: true,
        // Not asked for, and needed.
        headers: false,
        ..TurnWishes::default()
    }));
    let mut guard = TurnGuard::new(rules);
    for token in Tokenizer::get().encode_with_special("<|channel|>analysis<|message|>Hm.") {
        assert!(guard.allows(token));
        guard.advance(token);
    }
    assert!(!guard.allows(RETURN) && !guard.allows(CALL) && guard.allows(END));
    for token in Tokenizer::get().encode_with_special("<|end|><|start|>assistant<|channel|>") {
        assert!(guard.allows(token));
        guard.advance(token);
    }
    assert!(!guard.allows(Tokenizer::get().encode("final")[0]));
    for token in Tokenizer::get()
        .encode_with_special("commentary to=functions.f <|constrain|>json<|message|>{}<|call|>")
    {
        assert!(guard.allows(token), "{token}");
        guard.advance(token);
    }
    assert_eq!(guard.writing(), Writing::Anything);
}

#[test]
fn with_headers_left_free_a_grammar_holds_all_the_same() {
    let rules = Arc::new(TurnRules::new(TurnWishes {
        answer: Some(compile(GrammarSource::Choice(vec![
            "yes".into(),
            "no".into(),
        ]))),
        ..TurnWishes::default()
    }));
    let mut guard = TurnGuard::new(rules);
    for token in Tokenizer::get().encode_with_special(
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>",
    ) {
        assert_eq!(guard.writing(), Writing::Anything);
        guard.advance(token);
    }
    assert_eq!(guard.writing(), Writing::Grammar);
    assert!(!guard.allows(RETURN) && !guard.allows(START));
    for token in Tokenizer::get().encode("yes") {
        assert!(guard.allows(token));
        guard.advance(token);
    }
    assert_eq!(allowed(&mut guard), [RETURN]);
}

#[test]
fn grammars_that_cannot_be_used_say_why() {
    for (source, part) in [
        (GrammarSource::JsonSchema(json!({"type": "strin"})), "strin"),
        (
            GrammarSource::JsonSchema(json!({"$ref": "#/nowhere"})),
            "nowhere",
        ),
        (
            GrammarSource::JsonSchema(json!({"$ref": "https://example.org/schema"})),
            "ref",
        ),
        (
            GrammarSource::JsonSchema(json!({"not": {"type": "string"}})),
            "not",
        ),
        (
            GrammarSource::JsonSchema(json!({"type": "string", "minLength": 5, "maxLength": 2})),
            "minLength",
        ),
        (
            GrammarSource::JsonSchema(
                json!({"items": {"type": "integer", "multipleOf": 1_000_000_000}}),
            ),
            "multipleOf 1000000000 has more digits",
        ),
        (
            GrammarSource::JsonSchema(json!({"type": "number", "multipleOf": 1e-9})),
            "multipleOf 1e-9",
        ),
        (GrammarSource::Regex("(".into()), "regex"),
        (GrammarSource::Lark("start: nothing".into()), "nothing"),
        (
            GrammarSource::Lark("start: <|return|>".into()),
            "allows no text",
        ),
        (GrammarSource::Regex("x".repeat(300_000)), "bytes"),
    ] {
        let Err(error) = Grammar::compile(&source) else {
            panic!("{source:?} was compiled");
        };
        let error = error.to_string();
        assert!(error.contains(part), "{source:?}: {error}");
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
}

proptest! {
    /// Tokens are also put in by others: nothing panics, and the guard goes on.
    #[test]
    fn any_token_is_followed(
        tokens in proptest::collection::vec(prop_oneof![
            3 => proptest::sample::select(vec![START, END, RETURN, CALL, 200_005, 200_008, 200_003]),
            3 => proptest::sample::select(Tokenizer::get().encode("assistant final analysis commentary to=functions.f {\"a\": 1}")),
            1 => any::<Token>(),
        ], 0..40),
        headers: bool,
        must_call: bool,
    ) {
        thread_local!(static GRAMMAR: Arc<Grammar> = compile(GrammarSource::JsonObject));
        let rules = Arc::new(TurnRules::new(TurnWishes {
            functions: vec![Callable { name: "f".into(), arguments: Some(GRAMMAR.with(Arc::clone)) }],
            must_call,
            answer: Some(GRAMMAR.with(Arc::clone)),
            json_answer: true,
            headers,
        }));
        let mut guard = TurnGuard::new(rules);
        for token in tokens {
            let allows = guard.allows(token);
            let listed = match guard.allowed() {
                Next::Anything => true,
                Next::AllBut(refused) => refused.binary_search(&token).is_err(),
                Next::Only(tokens) => tokens.binary_search(&token).is_ok(),
                Next::Mask(words) => words.get(token as usize / 32).is_some_and(|w| w >> (token % 32) & 1 == 1),
            };
            // Beyond the vocabulary there is nothing to draw.
            prop_assert!(allows == listed || token as usize >= VOCAB_SIZE);
            guard.advance(token);
        }
    }
}
