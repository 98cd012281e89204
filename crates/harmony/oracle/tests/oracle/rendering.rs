//! Rendering: equal to the official renderer, token by token.

use gossamer_harmony::{Conversation, Token, Tokenizer, Tool, Turn, render};
use openai_harmony::HarmonyEncoding;
use openai_harmony::chat::{Message, Role};
use proptest::prelude::*;
use serde_json::json;

use crate::official::{encoding, messages};
use crate::strategies::{conversation, schema, text};

/// Official tokens. The type of the official options is private, so they cannot be named here:
/// with none given, all reasoning is kept.
fn official(messages: &[Message]) -> Vec<Token> {
    HarmonyEncoding::render_conversation_for_completion(encoding(), messages, Role::Assistant, None)
        .expect("the official renderer takes every conversation we can state")
}

/// Fails with both texts rather than with two lists of numbers.
fn assert_same(ours: &[Token], theirs: &[Token]) {
    if ours != theirs {
        let show = |tokens: &[Token]| {
            String::from_utf8_lossy(&Tokenizer::get().decode(tokens)).into_owned()
        };
        assert_eq!(show(ours), show(theirs), "the texts differ");
        assert_eq!(ours, theirs, "equal texts, other tokens");
    }
}

fn is_answer(message: &Message) -> bool {
    message.channel.as_deref() == Some("final")
}

/// The rule of `docs/format.md`, said in terms of messages: reasoning before an answer is dropped.
fn without_old_reasoning(messages: Vec<Message>) -> Vec<Message> {
    let num_kept_from = messages.iter().rposition(is_answer).unwrap_or(0);
    messages
        .into_iter()
        .enumerate()
        .filter(|(at, m)| *at > num_kept_from || m.channel.as_deref() != Some("analysis"))
        .map(|(_, message)| message)
        .collect()
}

fn with_tools(tools: Vec<Tool>) -> Conversation {
    Conversation {
        tools,
        ..Conversation::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_conversations_render_to_the_same_tokens(conversation in conversation()) {
        let theirs = official(&without_old_reasoning(messages(&conversation)));
        assert_same(&render(&conversation), &theirs);
    }

    #[test]
    fn random_schemas_are_declared_alike(schemas in proptest::collection::vec(schema(), 1..4)) {
        let tools = schemas.into_iter().enumerate().map(|(at, schema)| Tool {
            name: format!("f{at}"),
            description: None,
            parameters: Some(schema),
        });
        let conversation = with_tools(tools.collect());
        assert_same(&render(&conversation), &official(&messages(&conversation)));
    }

    #[test]
    fn random_texts_are_encoded_alike(text in text()) {
        let theirs = encoding().tokenizer().encode_ordinary(&text);
        assert_same(&Tokenizer::get().encode(&text), &theirs);
        let theirs = encoding().tokenizer().encode_with_special_tokens(&text);
        assert_same(&Tokenizer::get().encode_with_special(&text), &theirs);
    }
}

#[test]
fn runs_around_the_encoders_limits_are_encoded_alike() {
    for unit in ["a", "A", " ", "\n", " \n", "!", "1", "é", "漢", "😀", "ab "] {
        for times in [1, 2, 63, 64, 99, 100, 101, 1000, 5_000] {
            for text in [unit.repeat(times), format!("x{}y", unit.repeat(times))] {
                let theirs = encoding().tokenizer().encode_ordinary(&text);
                assert_same(&Tokenizer::get().encode(&text), &theirs);
            }
        }
    }
}

#[test]
fn a_conversation_with_every_kind_of_turn_renders_alike() {
    let assistant =
        |reasoning: &str, call: Option<(&str, &str)>, content: Option<&str>| Turn::Assistant {
            reasoning: Some(reasoning.to_owned()),
            preamble: call.map(|_| "Let me look.".to_owned()),
            content: content.map(str::to_owned),
            tool_calls: call
                .map(|(name, arguments)| gossamer_harmony::ToolCall {
                    name: name.to_owned(),
                    arguments: arguments.to_owned(),
                })
                .into_iter()
                .collect(),
        };
    let conversation = Conversation {
        date: Some("2026-11-22".to_owned()),
        instructions: Some("Be brief.".to_owned()),
        tools: vec![Tool {
            name: "get_weather".to_owned(),
            description: Some("The weather.\nOf a city.".to_owned()),
            parameters: Some(json!({
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name"}},
                "required": ["city"],
            })),
        }],
        turns: vec![
            Turn::User {
                name: None,
                text: "Hello <|end|>".to_owned(),
            },
            assistant("old thought", None, Some("Hello!")),
            Turn::Developer("Now in French.".to_owned()),
            Turn::User {
                name: Some("ada".to_owned()),
                text: "Weather in Oslo?".to_owned(),
            },
            assistant(
                "new thought",
                Some(("get_weather", "{\"city\":\"Oslo\"}")),
                None,
            ),
            Turn::ToolResult {
                name: "get_weather".to_owned(),
                content: "{\"sunny\": true}".to_owned(),
            },
        ],
        ..Conversation::default()
    };
    let ours = render(&conversation);
    assert_same(
        &ours,
        &official(&without_old_reasoning(messages(&conversation))),
    );
    let text = String::from_utf8(Tokenizer::get().decode(&ours)).expect("whole texts");
    assert!(
        text.contains("new thought") && !text.contains("old thought"),
        "{text}"
    );
}
