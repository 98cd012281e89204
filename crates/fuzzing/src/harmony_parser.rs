//! The parser of turns: total, loses no text, leaks no control token, and does not care how text was cut into tokens.
//!
//! The words that are looked for in the output (`⟦7⟧`) are no header syntax wherever they stand, so each must come out once.

use std::sync::LazyLock;

use gossamer_harmony::{Channel, Delta, Parser, Repairs, Token, Tokenizer, special};

use crate::Draws;

/// Tokens of a header from which on how many there are matters; the parser's own bound is 96.
const LONG_HEADER: usize = 90;

pub(crate) const CONTROLS: [Token; 13] = [
    special::CHANNEL,
    special::MESSAGE,
    special::END,
    special::START,
    special::CONSTRAIN,
    special::RETURN,
    special::CALL,
    special::END_OF_TEXT,
    special::FIRST_CONTROL,
    200_004,
    200_013,
    special::VOCAB_SIZE as Token,
    Token::MAX,
];

pub(crate) const SYNTAX: [&str; 24] = [
    "assistant",
    "analysis",
    "commentary",
    "final",
    " to=functions.f",
    " to=",
    "to=python",
    " json",
    "json",
    " code",
    "user",
    "tool",
    "system",
    "comment",
    "finally",
    " to=functions.",
    "functions.f",
    " to=assistant",
    " ",
    "\n",
    "{\"a\":",
    "1}",
    "to=browser.search",
    "Analysis",
];

/// The token of each single byte.
static BYTES: LazyLock<Vec<Token>> = LazyLock::new(|| {
    let tokenizer = Tokenizer::get();
    let of = |byte: u8| (0..256).find(|token| tokenizer.token_bytes(*token) == Some(&[byte]));
    (0..=255).filter_map(of).collect()
});

pub(crate) fn prepare() {
    LazyLock::force(&BYTES);
}

pub(crate) fn check(bytes: &[u8]) {
    let mut draws = Draws::new(bytes);
    let cut_at = draws.below(64);
    let seed = draws.byte();
    let (tokens, num_words) = turn(&mut draws);
    let whole = parse(&tokens);
    check_text(&whole, &tokens, num_words);

    let recut = recut(&tokens, seed);
    let other = parse(&recut);
    if whole.longest_header < LONG_HEADER && other.longest_header < LONG_HEADER {
        assert_eq!(whole.heard, other.heard, "{tokens:?} cut as {recut:?}");
        assert_eq!(whole.repairs, other.repairs, "{tokens:?} cut as {recut:?}");
    }

    // Whoever ends a generation and goes on all the same is still listened to.
    let (first, second) = tokens.split_at(cut_at.min(tokens.len()));
    let mut parser = Parser::new();
    first.iter().for_each(|token| drop(parser.push(*token)));
    parser.finish();
    assert_eq!(parser.channel(), Channel::Header);
    second.iter().for_each(|token| drop(parser.push(*token)));
    parser.finish();
}

/// Any tokens, those that matter to the parser often; and the number of words in them to look for.
fn turn(draws: &mut Draws) -> (Vec<Token>, usize) {
    let tokenizer = Tokenizer::get();
    let (mut tokens, mut num_words) = (Vec::new(), 0);
    while !draws.is_over() {
        match draws.byte() {
            kind @ 0..96 => tokens.push(CONTROLS[usize::from(kind) % CONTROLS.len()]),
            kind @ 96..168 => {
                tokens.extend(tokenizer.encode(SYNTAX[usize::from(kind) % SYNTAX.len()]));
            }
            168..192 => {
                tokens.extend(tokenizer.encode(&marker(num_words)));
                num_words += 1;
            }
            192..216 => tokens.push(draws.word() % special::FIRST_CONTROL),
            216..232 => tokens.push(BYTES[usize::from(draws.byte())]),
            232..240 => tokens.push(draws.word()),
            _ => tokens.extend(tokenizer.encode(&draws.text(24))),
        }
    }
    (tokens, num_words)
}

/// A blank stands before it: right after `to=` it would be a name.
fn marker(number: usize) -> String {
    format!(" \u{27e6}{number}\u{27e7}")
}

/// One run of deltas of the same kind.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    /// A call's name is a text of its own.
    kind: &'static str,
    call: Option<usize>,
    text: String,
}

struct Outcome {
    heard: Vec<Heard>,
    repairs: Repairs,
    /// In tokens.
    longest_header: usize,
}

fn parse(tokens: &[Token]) -> Outcome {
    let mut parser = Parser::new();
    let mut heard = Vec::new();
    let (mut header, mut longest_header, mut num_calls) = (0, 0, 0);
    for &token in tokens {
        let channel = parser.channel();
        let deltas = parser.push(token);
        if channel != Channel::Header && token < special::FIRST_CONTROL {
            let goes = |delta: &Delta| channel_of(delta) == Some(channel);
            assert!(
                deltas.iter().all(goes),
                "{deltas:?} in {channel:?}: {tokens:?}"
            );
        }
        header = match parser.channel() {
            Channel::Header => header + 1,
            // The token that ends it counts too, for it may have been cut off by its length.
            _ if channel == Channel::Header => {
                longest_header = longest_header.max(header + 1);
                0
            }
            _ => 0,
        };
        longest_header = longest_header.max(header);
        add(&mut heard, &mut num_calls, deltas);
    }
    add(&mut heard, &mut num_calls, parser.finish());
    assert!(
        parser.finish().is_empty(),
        "something is left behind the end"
    );
    Outcome {
        heard,
        repairs: *parser.repairs(),
        longest_header,
    }
}

fn channel_of(delta: &Delta) -> Option<Channel> {
    match delta {
        Delta::Reasoning(_) => Some(Channel::Reasoning),
        Delta::Preamble(_) => Some(Channel::Preamble),
        Delta::Content(_) => Some(Channel::Content),
        Delta::Arguments { .. } => Some(Channel::ToolCall),
        Delta::ToolCall { .. } => None,
    }
}

fn add(heard: &mut Vec<Heard>, num_calls: &mut usize, deltas: Vec<Delta>) {
    for delta in deltas {
        let (kind, call, text) = match delta {
            Delta::Reasoning(text) => ("reasoning", None, text),
            Delta::Preamble(text) => ("preamble", None, text),
            Delta::Content(text) => ("content", None, text),
            Delta::ToolCall { index, name } => {
                assert_eq!(index, *num_calls, "calls are numbered in order");
                *num_calls += 1;
                ("name", Some(index), name)
            }
            Delta::Arguments { index, text } => {
                assert!(index < *num_calls, "arguments of a call that was opened");
                ("arguments", Some(index), text)
            }
        };
        assert!(!text.is_empty(), "an empty {kind}");
        match heard.last_mut() {
            Some(last) if last.kind == kind && last.call == call => last.text.push_str(&text),
            _ => heard.push(Heard { kind, call, text }),
        }
    }
}

fn check_text(outcome: &Outcome, tokens: &[Token], num_words: usize) {
    let tokenizer = Tokenizer::get();
    let is_text = |token: &&Token| **token < special::FIRST_CONTROL;
    let given: Vec<Token> = tokens.iter().filter(is_text).copied().collect();
    let given = tokenizer.decode(&given);
    let shown = String::from_utf8_lossy(&given);
    let all: String = outcome.heard.iter().map(|run| &*run.text).collect();

    let bars = |text: &str| text.matches('|').count();
    assert!(
        bars(&all) <= bars(&shown),
        "a control token in {all:?}: {tokens:?}"
    );
    assert!(
        unbroken(&all).len() <= given.len(),
        "{all:?} is more than {shown:?}"
    );
    let is_spelled = shown.matches('\u{27e6}').count() != num_words;
    for number in 0..num_words {
        let count = all.matches(marker(number).trim()).count();
        assert!(
            count == 1 || (is_spelled && count > 0),
            "word {number} comes out {count} times in {all:?}: {tokens:?}"
        );
    }
    for kind in ["reasoning", "preamble", "content", "arguments", "name"] {
        let runs = outcome.heard.iter().filter(|run| run.kind == kind);
        let text = unbroken(&runs.map(|run| &*run.text).collect::<String>());
        let mut given = given.iter();
        assert!(
            text.bytes().all(|byte| given.any(|other| *other == byte)),
            "{kind} {text:?} is not in the order of {shown:?}"
        );
    }
}

/// The text without what stands for broken characters.
fn unbroken(text: &str) -> String {
    text.replace('\u{fffd}', "")
}

/// The same text in other tokens; whatever is no text stays.
fn recut(tokens: &[Token], seed: u8) -> Vec<Token> {
    let tokenizer = Tokenizer::get();
    let mut out = Vec::new();
    for run in tokens.chunk_by(|a, b| a.max(b) < &special::FIRST_CONTROL) {
        if run[0] >= special::FIRST_CONTROL {
            out.extend_from_slice(run);
            continue;
        }
        let bytes = tokenizer.decode(run);
        match (seed % 3, std::str::from_utf8(&bytes)) {
            (0, Ok(text)) => out.extend(tokenizer.encode(text)),
            (1, Ok(text)) => {
                // Two halves, cut at a character.
                let mut at = usize::from(seed) % (text.len() + 1);
                while !text.is_char_boundary(at) {
                    at += 1;
                }
                out.extend(tokenizer.encode(&text[..at]));
                out.extend(tokenizer.encode(&text[at..]));
            }
            _ => out.extend(bytes.iter().map(|byte| BYTES[usize::from(*byte)])),
        }
    }
    out
}
