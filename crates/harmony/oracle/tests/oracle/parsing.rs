//! Parsing: equal to the official streaming parser on well-formed generations, after every token.

use gossamer_harmony::{Channel, Delta, Parser, Token, Tokenizer, special};
use openai_harmony::StreamableParser;
use openai_harmony::chat::{Content, Message, Role};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::official::encoding;
use crate::strategies::text;

/// Where a message belongs, in both parsers' terms.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Preamble,
    Content,
    Call(String),
}

/// A message as a model writes it.
#[derive(Debug, Clone)]
struct Written {
    kind: Kind,
    /// Calls: whether `to=` stands in the role part rather than the channel part.
    recipient_first: bool,
    /// Calls: what follows, if anything: 0 nothing, 1 `json`, 2 ` <|constrain|>json`,
    /// 3 `<|constrain|>json`, 4 `code`.
    content_type: usize,
    /// Calls: whether the channel is analysis, as for built-in tools.
    in_analysis: bool,
    text: Vec<Token>,
}

/// Tokens of `text`; where `bytewise`, one per byte, so that characters are cut at every place.
fn tokens_of(text: &str, bytewise: bool) -> Vec<Token> {
    let tokenizer = Tokenizer::get();
    if !bytewise {
        return tokenizer.encode(text);
    }
    // The first 256 tokens are the single bytes, in an order of their own.
    text.bytes()
        .filter_map(|byte| (0..256).find(|&token| tokenizer.token_bytes(token) == Some(&[byte])))
        .collect()
}

fn written() -> impl Strategy<Value = Written> {
    let kind = prop_oneof![
        Just(Kind::Reasoning),
        Just(Kind::Preamble),
        Just(Kind::Content),
        "[a-zA-Z_][a-zA-Z0-9_-]{0,63}".prop_map(Kind::Call),
    ];
    let flags = (any::<bool>(), 0..5usize, any::<bool>());
    (kind, flags, text(), any::<bool>()).prop_map(
        |(kind, (recipient_first, content_type, in_analysis), text, bytewise)| Written {
            kind,
            recipient_first,
            content_type,
            in_analysis,
            text: tokens_of(&text, bytewise),
        },
    )
}

/// The tokens of `message` after `<|start|>assistant`, without the token that ends it.
fn write(message: &Written) -> Vec<Token> {
    let encode = |text: &str| Tokenizer::get().encode(text);
    let mut out = Vec::new();
    let recipient = match &message.kind {
        Kind::Call(name) => encode(&format!(" to=functions.{name}")),
        _ => Vec::new(),
    };
    if message.recipient_first {
        out.extend(&recipient);
    }
    out.push(special::CHANNEL);
    out.extend(encode(match message.kind {
        Kind::Reasoning => "analysis",
        Kind::Call(_) if message.in_analysis => "analysis",
        Kind::Preamble | Kind::Call(_) => "commentary",
        Kind::Content => "final",
    }));
    if !message.recipient_first {
        out.extend(&recipient);
    }
    if matches!(message.kind, Kind::Call(_)) {
        match message.content_type {
            0 => {}
            1 => out.extend(encode(" json")),
            2 => out.extend(
                encode(" ")
                    .into_iter()
                    .chain([special::CONSTRAIN])
                    .chain(encode("json")),
            ),
            3 => out.extend([special::CONSTRAIN].into_iter().chain(encode("json"))),
            _ => out.extend(encode(" code")),
        }
    }
    out.push(special::MESSAGE);
    out.extend(&message.text);
    out
}

/// A whole generation. `end`: how the last message ends, if at all.
fn generation(messages: &[Written], end: Option<Token>) -> Vec<Token> {
    let mut out = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if at > 0 {
            out.extend([special::END, special::START]);
            out.extend(Tokenizer::get().encode("assistant"));
        }
        out.extend(write(message));
    }
    out.extend(end);
    out
}

/// A message as our parser gave it out.
type Said = (Kind, String);

/// Adds `deltas` to `said`; a new message begins where the parser changed over.
fn collect(said: &mut Vec<Said>, begins: bool, deltas: Vec<Delta>) {
    let mut begins = begins;
    for delta in deltas {
        let (kind, text) = match delta {
            Delta::Reasoning(text) => (Kind::Reasoning, text),
            Delta::Preamble(text) => (Kind::Preamble, text),
            Delta::Content(text) => (Kind::Content, text),
            Delta::ToolCall { name, .. } => {
                said.push((Kind::Call(name), String::new()));
                begins = false;
                continue;
            }
            Delta::Arguments { text, .. } => {
                let (kind, arguments) = said.last_mut().expect("a call was opened");
                assert!(matches!(kind, Kind::Call(_)), "arguments outside a call");
                arguments.push_str(&text);
                continue;
            }
        };
        match said.last_mut().filter(|_| !begins) {
            Some((last, so_far)) if *last == kind => so_far.push_str(&text),
            _ => said.push((kind, text)),
        }
        begins = false;
    }
}

fn official_kind(channel: Option<&str>, recipient: Option<&str>) -> Kind {
    if let Some(name) = recipient.and_then(|name| name.strip_prefix("functions.")) {
        return Kind::Call(name.to_owned());
    }
    match channel {
        Some("analysis") => Kind::Reasoning,
        Some("commentary") => Kind::Preamble,
        Some("final") => Kind::Content,
        other => panic!("not a channel of a well-formed generation: {other:?}"),
    }
}

fn official_said(message: &Message) -> Said {
    let text = message
        .content
        .iter()
        .map(|content| match content {
            Content::Text(text) => text.text.as_str(),
            other => panic!("the official parser gives text only, not {other:?}"),
        })
        .collect();
    (
        official_kind(message.channel.as_deref(), message.recipient.as_deref()),
        text,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn well_formed_generations_parse_alike_token_by_token(
        messages in vec(written(), 1..5),
        end in proptest::sample::select(vec![
            None, Some(special::RETURN), Some(special::CALL), Some(special::END),
        ]),
    ) {
        let mut theirs = StreamableParser::new(encoding().clone(), Some(Role::Assistant))
            .expect("the official parser starts");
        let mut ours = Parser::new();
        // What our parser said in messages that are over, and in the one that is open.
        let mut over: Vec<Said> = Vec::new();
        let mut open: Vec<Said> = Vec::new();
        for token in generation(&messages, end) {
            theirs.process(token).expect("the generation is well-formed");
            collect(&mut open, false, ours.push(token));

            let is_open = ours.channel() != Channel::Header;
            prop_assert_eq!(is_open, theirs.current_channel().is_some());
            if is_open {
                prop_assert!(open.len() <= 1);
                let kind = official_kind(
                    theirs.current_channel().as_deref(),
                    theirs.current_recipient().as_deref(),
                );
                let text = theirs.current_content().expect("whole characters");
                match open.first() {
                    Some(said) => prop_assert_eq!(said, &(kind, text)),
                    // Nothing was said yet: a message is known by its first text.
                    None => prop_assert_eq!(text, ""),
                }
            } else {
                over.append(&mut open);
            }
        }
        theirs.process_eos().expect("the generation is well-formed");
        collect(&mut open, false, ours.finish());
        over.append(&mut open);

        // Our deltas do not mention a message without text.
        let expected: Vec<Said> = theirs
            .messages()
            .iter()
            .map(official_said)
            .filter(|(kind, text)| !text.is_empty() || matches!(kind, Kind::Call(_)))
            .collect();
        prop_assert_eq!(over, expected);
        prop_assert_eq!(ours.repairs().total(), 0, "{:?}", ours.repairs());
    }
}
