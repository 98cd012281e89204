//! What holds for every sequence of tokens.

use gossamer_harmony::{Channel, Parser, Token, Tokenizer, Utf8Stream, special};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::heard::{Heard, parse};

const CONTROLS: [Token; 12] = [
    special::START,
    special::END,
    special::MESSAGE,
    special::CHANNEL,
    special::CONSTRAIN,
    special::RETURN,
    special::CALL,
    special::END_OF_TEXT,
    special::FIRST_CONTROL,
    200_013,
    special::VOCAB_SIZE as Token,
    Token::MAX,
];

fn control() -> impl Strategy<Value = Token> {
    proptest::sample::select(CONTROLS.to_vec())
}

/// Tokens of a random word of header syntax.
fn syntax() -> impl Strategy<Value = Vec<Token>> {
    let words = vec![
        "assistant",
        "user",
        "tool",
        "analysis",
        "commentary",
        "final",
        "comment",
        " to",
        " to=",
        " to=functions.",
        " to=functions.get_weather",
        "to=python",
        " json",
        "json",
        " code",
        "functions.f",
        " to=assistant",
        " ",
        "\n",
        "{\"a\":",
        "1}",
    ];
    proptest::sample::select(words).prop_map(|word| Tokenizer::get().encode(word))
}

/// Any tokens whatever, with those that matter to the parser often enough to meet.
fn chaos() -> impl Strategy<Value = Vec<Token>> {
    let piece = prop_oneof![
        6 => control().prop_map(|token| vec![token]),
        5 => syntax(),
        2 => (0..256u32).prop_map(|token| vec![token]),
        2 => (0..special::FIRST_CONTROL).prop_map(|token| vec![token]),
        1 => any::<Token>().prop_map(|token| vec![token]),
        1 => "[ -~]{0,20}".prop_map(|text| Tokenizer::get().encode(&text)),
        1 => "\\PC{0,6}".prop_map(|text| Tokenizer::get().encode(&text)),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// A word that is not header syntax, recognizable in the output: `⟦7⟧`. A blank stands before it,
/// for right after `to=` it would be a name.
fn marker(number: usize) -> String {
    format!(" ⟦{number}⟧")
}

/// Header syntax, control tokens and numbered words in any order; the number of words, and the
/// tokens.
fn marked() -> impl Strategy<Value = (usize, Vec<Token>)> {
    let piece = prop_oneof![
        4 => control().prop_map(|token| Some(vec![token])),
        3 => syntax().prop_map(Some),
        // None stands for the next numbered word.
        4 => Just(None),
    ];
    vec(piece, 0..60).prop_map(|pieces| {
        let mut num_words = 0;
        let mut tokens = Vec::new();
        for piece in pieces {
            tokens.extend(piece.unwrap_or_else(|| {
                num_words += 1;
                Tokenizer::get().encode(&marker(num_words - 1))
            }));
        }
        (num_words, tokens)
    })
}

/// A well-formed generation.
fn well_formed() -> impl Strategy<Value = Vec<Token>> {
    let header = proptest::sample::select(vec![
        "<|channel|>analysis",
        "<|channel|>commentary",
        "<|channel|>final",
        "<|channel|>final <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.add json",
        " to=functions.add<|channel|>commentary <|constrain|>json",
        " to=functions.add<|channel|>analysis code",
    ]);
    let body = prop_oneof!["[ -~]{0,20}", "\\PC{0,12}", Just("👨‍👩‍👧 é\n".to_owned())];
    vec((header, body), 1..5).prop_map(|messages| {
        let tokenizer = Tokenizer::get();
        let mut tokens = Vec::new();
        for (at, (header, body)) in messages.into_iter().enumerate() {
            if at > 0 {
                tokens.extend(tokenizer.encode_with_special("<|end|><|start|>assistant"));
            }
            tokens.extend(tokenizer.encode_with_special(header));
            tokens.push(special::MESSAGE);
            tokens.extend(tokenizer.encode(&body));
        }
        tokens.push(special::RETURN);
        tokens
    })
}

/// Whether `cut` is how `whole` begins; a character that was cut may stand as U+FFFD.
fn begins_like(cut: &[Heard], whole: &[Heard]) -> bool {
    let Some((last, before)) = cut.split_last() else {
        return true;
    };
    let Some(counterpart) = whole.get(before.len()) else {
        return false;
    };
    whole.starts_with(before)
        && last.kind == counterpart.kind
        && counterpart
            .text
            .starts_with(last.text.trim_end_matches('\u{fffd}'))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// `parse` checks each delta besides: texts not empty, calls numbered, arguments of open calls.
    #[test]
    fn any_tokens_give_deltas_without_control_tokens(tokens in chaos()) {
        // Text may spell a marker out; its brackets are taken away to see what the parser adds.
        let tokenizer = Tokenizer::get();
        let is_spelled = |t: Token| !tokenizer.is_control(t)
            && tokenizer.token_bytes(t).is_some_and(|b| b.contains(&b'|'));
        let tokens: Vec<_> = tokens.into_iter().filter(|&t| !is_spelled(t)).collect();
        let text = parse(&tokens).all_text();
        prop_assert!(!text.contains('|'), "{text}");
    }

    #[test]
    fn no_text_is_lost_and_none_is_doubled((num_words, tokens) in marked()) {
        let text = parse(&tokens).all_text();
        for number in 0..num_words {
            let count = text.matches(marker(number).trim()).count();
            prop_assert_eq!(count, 1, "word {} in {:?}", number, text);
        }
    }

    #[test]
    fn a_body_comes_out_byte_for_byte(
        header in proptest::sample::select(vec![
            "<|channel|>analysis", "<|channel|>commentary", "<|channel|>final", "",
            "<|channel|>commentary to=functions.f json", "<|start|>user", "junk <|channel|>junk junk",
        ]),
        body in vec(0..special::FIRST_CONTROL, 0..40),
    ) {
        let tokenizer = Tokenizer::get();
        let header = [tokenizer.encode_with_special(header), vec![special::MESSAGE]].concat();
        let without_body = parse(&header).all_text();
        let text = parse(&[header, body.clone()].concat()).all_text();
        let mut stream = Utf8Stream::new();
        let expected = stream.push(&tokenizer.decode(&body)) + &stream.finish();
        prop_assert_eq!(text, without_body + &expected);
    }

    /// The stop token may be withheld.
    #[test]
    fn a_well_formed_generation_needs_no_stop_token(tokens in well_formed()) {
        let whole = parse(&tokens);
        let withheld = parse(&tokens[..tokens.len() - 1]);
        prop_assert_eq!(whole.heard, withheld.heard);
        prop_assert_eq!(withheld.repairs, &[]);
    }

    /// What `channel` promises of the next text token is where it goes.
    #[test]
    fn the_next_text_goes_where_channel_says(tokens in chaos()) {
        let mut parser = Parser::new();
        for &token in &tokens {
            parser.push(token);
        }
        let kind = match parser.channel() {
            Channel::Header => None,
            Channel::Reasoning => Some("Reasoning"),
            Channel::Preamble => Some("Preamble"),
            Channel::Content => Some("Content"),
            Channel::ToolCall => Some("Arguments"),
        };
        let word = Tokenizer::get().encode("word")[0];
        let deltas = parser.push(word);
        match kind {
            Some(kind) => {
                prop_assert_eq!(deltas.len(), 1);
                prop_assert!(format!("{:?}", deltas[0]).starts_with(kind), "{:?}", deltas);
            }
            // Unless that very token makes the header too long.
            None => prop_assert!(deltas.is_empty() || parser.channel() != Channel::Header),
        }
    }
}

proptest! {
    // Each case parses as many generations as it has tokens.
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_well_formed_generation_cut_anywhere_begins_like_the_whole(tokens in well_formed()) {
        let whole = parse(&tokens);
        prop_assert_eq!(&whole.repairs, &[]);
        for len in 0..tokens.len() {
            let cut = parse(&tokens[..len]);
            prop_assert!(begins_like(&cut.heard, &whole.heard), "{:?} of {:?}", cut, whole);
        }
    }
}
