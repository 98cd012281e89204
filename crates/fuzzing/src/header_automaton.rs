//! Turns under constraints: there is always a way on, what is asked and what is listed agree, and a turn of allowed tokens
//! needs no repair and calls declared functions only.

use std::sync::{Arc, LazyLock};

use gossamer_harmony::special::{
    CALL, CHANNEL, END, END_OF_TEXT, FIRST_CONTROL, MESSAGE, RETURN, START, VOCAB_SIZE,
};
use gossamer_harmony::{
    Callable, Channel, Delta, Grammar, GrammarSource, Next, Parser, RepairKind, Token, Tokenizer,
    TurnGuard, TurnRules, TurnWishes, Writing,
};
use serde_json::json;

use crate::harmony_parser::{CONTROLS, SYNTAX};
use crate::{Draws, draws::Dice};

/// Tokens of a turn.
const MAX_TOKENS: usize = 160;

/// What answers and arguments are held to; compiling is the affair of another property.
static GRAMMARS: LazyLock<Vec<Arc<Grammar>>> = LazyLock::new(|| {
    let sources = [
        GrammarSource::JsonObject,
        GrammarSource::JsonSchema(json!({
            "type": "object",
            "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": false,
        })),
        GrammarSource::Choice(vec!["yes".into(), "no".into(), "\u{e9}t\u{e9}".into()]),
        GrammarSource::Regex("[a-z]{0,5}".into()),
    ];
    let compile = |source| Arc::new(Grammar::compile(source).expect("a usable grammar"));
    sources.iter().map(compile).collect()
});

pub(crate) fn prepare() {
    // The lists of tokens by their bytes are built when a header is first asked about.
    check(&[0; 8]);
    LazyLock::force(&GRAMMARS);
}

pub(crate) fn check(bytes: &[u8]) {
    let mut draws = Draws::new(bytes);
    let wishes = wishes(&mut draws);
    let names: Vec<String> = wishes.functions.iter().map(|f| f.name.clone()).collect();
    let must_call = wishes.must_call && !names.is_empty();
    let (is_held, has_answer) = (wishes.headers || must_call, wishes.answer.is_some());
    let rules = Arc::new(TurnRules::new(wishes));
    assert_eq!(rules.forced_call().is_some(), must_call);
    let foreign = draws.once_in(4);
    let turn = write(&rules, foreign, &mut draws);
    if is_held && !foreign {
        check_turn(&turn, &names, must_call, has_answer);
    }
}

fn wishes(draws: &mut Draws) -> TurnWishes {
    let grammar = |draws: &mut Draws| {
        let at = draws.below(2 * GRAMMARS.len());
        GRAMMARS.get(at).cloned()
    };
    let functions = (0..draws.below(6))
        .map(|_| Callable {
            name: name(draws),
            arguments: grammar(draws),
        })
        .collect();
    TurnWishes {
        functions,
        must_call: draws.once_in(3),
        answer: grammar(draws),
        json_answer: draws.once_in(2),
        headers: !draws.once_in(4),
    }
}

/// A name as the API takes them: 1 to 64 of `[a-zA-Z0-9_-]`; often one that resembles others, or syntax.
fn name(draws: &mut Draws) -> String {
    const NAMES: [&str; 16] = [
        "f",
        "get",
        "get_weather",
        "get_weather_2",
        "commentary",
        "final",
        "functions",
        "json",
        "assistant",
        "to",
        "python",
        "-",
        "_",
        "0",
        "analysis-json",
        "getWeather",
    ];
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if !draws.once_in(3) {
        return draws.pick(&NAMES).to_owned();
    }
    let len = 1 + draws.below(64);
    let letter = |_| char::from(LETTERS[usize::from(draws.byte()) % LETTERS.len()]);
    (0..len).map(letter).collect()
}

/// Writes a turn. With `foreign`, some tokens are put in that nobody asked the rules about.
fn write(rules: &Arc<TurnRules>, foreign: bool, draws: &mut Draws) -> Vec<Token> {
    let mut guard = TurnGuard::new(Arc::clone(rules));
    let mut dice = Dice::new(draws.long());
    let mut turn = Vec::new();
    while turn.len() < MAX_TOKENS {
        let way = draws.byte();
        let token = match foreign && way % 8 == 7 {
            true => some_token(&mut dice),
            false => match allowed(&mut guard, way, &mut dice) {
                Some(token) => token,
                // A grammar says nothing more about a text that is not one of its own.
                None if foreign => break,
                None => panic!("no way on behind {:?}", text(&turn)),
            },
        };
        for asked in [
            token,
            some_token(&mut dice),
            CONTROLS[dice.below(CONTROLS.len())],
        ] {
            assert_eq!(
                guard.allows(asked),
                is_listed(&mut guard, asked),
                "{asked} behind {:?}",
                text(&turn)
            );
        }
        guard.advance(token);
        turn.push(token);
        if matches!(token, RETURN | CALL | END_OF_TEXT) && !(foreign && way % 16 == 7) {
            break;
        }
    }
    turn
}

/// One of the tokens that are allowed; with most ways one that gets ahead.
fn allowed(guard: &mut TurnGuard, way: u8, dice: &mut Dice) -> Option<Token> {
    let is_header = guard.writing() == Writing::Header;
    if !is_header && !way.is_multiple_of(4) {
        let ahead = [RETURN, CALL, END, MESSAGE, CHANNEL, START];
        if let Some(token) = ahead.into_iter().find(|token| guard.allows(*token)) {
            // Without rules everything is allowed: then any of them.
            return Some(match guard.writing() {
                Writing::Anything => ahead[dice.below(ahead.len())],
                _ => token,
            });
        }
    }
    match guard.allowed() {
        Next::Anything => Some(some_token(dice)),
        Next::AllBut(refused) => (0..100)
            .map(|_| some_token(dice))
            .find(|token| refused.binary_search(token).is_err()),
        Next::Only(tokens) => {
            assert!(
                tokens.is_sorted(),
                "the list is searched by halves: {tokens:?}"
            );
            (!tokens.is_empty()).then(|| tokens[dice.below(tokens.len())])
        }
        Next::Mask(words) => dice.token_of(words),
    }
}

/// Any token of the vocabulary, those of headers and texts often.
fn some_token(dice: &mut Dice) -> Token {
    match dice.below(4) {
        0 => CONTROLS[dice.below(CONTROLS.len() - 2)],
        1 => {
            let tokens = Tokenizer::get().encode(SYNTAX[dice.below(SYNTAX.len())]);
            tokens[dice.below(tokens.len())]
        }
        _ => dice.below(FIRST_CONTROL as usize) as Token,
    }
}

fn is_listed(guard: &mut TurnGuard, token: Token) -> bool {
    match guard.allowed() {
        Next::Anything => true,
        // Beyond the vocabulary there is nothing to list.
        Next::AllBut(refused) => {
            (token as usize) < VOCAB_SIZE && refused.binary_search(&token).is_err()
        }
        Next::Only(tokens) => tokens.binary_search(&token).is_ok(),
        Next::Mask(words) => {
            let word = words.get(token as usize / 32);
            word.is_some_and(|word| word >> (token % 32) & 1 == 1)
        }
    }
}

fn check_turn(turn: &[Token], names: &[String], must_call: bool, has_answer: bool) {
    let mut parser = Parser::new();
    let mut called = Vec::new();
    for &token in turn {
        let (channel, broken) = (
            parser.channel(),
            parser.repairs().get(RepairKind::InvalidUtf8),
        );
        for delta in parser.push(token) {
            if let Delta::ToolCall { name, .. } = delta {
                called.push(name);
            }
        }
        assert!(
            !has_answer
                || channel != Channel::Content
                || broken == parser.repairs().get(RepairKind::InvalidUtf8),
            "a grammar has bytes that form no character: {:?}",
            text(turn)
        );
    }
    let shown = text(turn);
    // Texts are free to hold bytes that form no character.
    let repairs: Vec<_> = (parser.repairs().iter())
        .filter(|(kind, _)| *kind != RepairKind::InvalidUtf8)
        .collect();
    assert!(repairs.is_empty(), "{repairs:?} in {shown:?}");
    for name in &called {
        assert!(
            names.contains(name),
            "{name:?}, one of {names:?}, in {shown:?}"
        );
    }
    match turn.last() {
        Some(&CALL) => assert_eq!(called.len(), 1, "{shown:?}"),
        Some(&RETURN) => {
            assert!(called.is_empty() && !must_call, "{shown:?}");
        }
        Some(&END_OF_TEXT) => panic!("{shown:?}"),
        _ => {}
    }
}

fn text(turn: &[Token]) -> String {
    String::from_utf8_lossy(&Tokenizer::get().decode(turn)).into_owned()
}
