//! Our request in mistral.rs's words.
//!
//! Knows both vocabularies and nothing that runs. Messages go to the model's chat template as OpenAI's API has them.

use std::collections::HashMap;

use either::Either;
use gossamer_api::text_engine::{
    GrammarSource, ReasoningEffort, TextMessage, TextRequest, Tool, ToolCall,
};
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, Function, MessageContent, ReasoningEffort as Effort, SamplingParams,
    Tool as Declared, ToolType,
};
use serde_json::{Value, json};

/// A message as a template sees it.
pub(crate) type Message = IndexMap<String, MessageContent>;

/// The conversation for the template.
pub(crate) fn messages(request: &TextRequest) -> Vec<Message> {
    request.messages.iter().map(message).collect()
}

fn message(message: &TextMessage) -> Message {
    let text = |text: &str| Either::Left(text.to_owned());
    let with = |role: &str, content: &str| {
        Message::from([
            ("role".to_owned(), text(role)),
            ("content".to_owned(), text(content)),
        ])
    };
    match message {
        TextMessage::System(content) => with("system", content),
        TextMessage::User {
            name,
            text: content,
        } => {
            let mut message = with("user", content);
            message.extend(name.as_deref().map(|name| ("name".to_owned(), text(name))));
            message
        }
        TextMessage::Assistant {
            content,
            reasoning,
            calls,
        } => {
            let mut message = with("assistant", content);
            if let Some(reasoning) = reasoning {
                message.insert("reasoning_content".to_owned(), text(reasoning));
            }
            if !calls.is_empty() {
                let calls = calls.iter().map(|(id, call)| made(id, call)).collect();
                message.insert("tool_calls".to_owned(), Either::Right(calls));
            }
            message
        }
        TextMessage::Tool { id, name, content } => {
            let mut message = with("tool", content);
            message.insert("tool_call_id".to_owned(), text(id));
            message.insert("name".to_owned(), text(name));
            message
        }
    }
}

fn made(id: &str, call: &ToolCall) -> IndexMap<String, Value> {
    // Templates print arguments as an object; what is none goes in as the text that it is.
    let arguments = serde_json::from_str(&call.arguments)
        .ok()
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::String(call.arguments.clone()));
    let function = json!({"name": call.name, "arguments": arguments});
    IndexMap::from([
        ("id".to_owned(), Value::from(id)),
        ("type".to_owned(), Value::from("function")),
        ("function".to_owned(), function),
    ])
}

/// The functions that the model may call.
pub(crate) fn tools(tools: &[Tool]) -> Vec<Declared> {
    let declared = |tool: &Tool| Declared {
        tp: ToolType::Function,
        function: Function {
            description: tool.description.clone(),
            name: tool.name.clone(),
            parameters: match &tool.parameters {
                Some(Value::Object(schema)) => {
                    let entries = schema
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone()));
                    Some(entries.collect::<HashMap<_, _>>())
                }
                _ => None,
            },
        },
    };
    tools.iter().map(declared).collect()
}

/// For templates that ask for it.
pub(crate) fn effort(effort: ReasoningEffort) -> Effort {
    match effort {
        ReasoningEffort::Low => Effort::Low,
        ReasoningEffort::Medium => Effort::Medium,
        ReasoningEffort::High => Effort::High,
    }
}

/// What the output is held to.
pub(crate) fn constraint(grammar: Option<&GrammarSource>) -> Constraint {
    match grammar {
        None => Constraint::None,
        Some(GrammarSource::JsonSchema(schema)) => Constraint::JsonSchema(schema.clone()),
        Some(GrammarSource::JsonObject) => Constraint::JsonSchema(json!({"type": "object"})),
        Some(GrammarSource::Regex(regex)) => Constraint::Regex(regex.clone()),
        Some(GrammarSource::Lark(grammar)) => Constraint::Lark(grammar.clone()),
        // A string literal of lark is one of JSON.
        Some(GrammarSource::Choice(texts)) => {
            let texts: Vec<String> = (texts.iter())
                .map(|text| Value::from(text.as_str()).to_string())
                .collect();
            Constraint::Lark(format!("start: {}", texts.join(" | ")))
        }
    }
}

/// mistral.rs's sampling, reduced to an argmax over what [`crate::draw`] leaves, for at most so many tokens. A temperature
/// that is not given counts as 1 there, so it is 0.
pub(crate) fn argmax(max_len: usize) -> SamplingParams {
    SamplingParams {
        temperature: Some(0.0),
        max_len: Some(max_len),
        ..SamplingParams::neutral()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_keeps_its_calls_and_results() {
        let call = ToolCall {
            name: "f".into(),
            arguments: "{\"a\":1}".into(),
        };
        let said = message(&TextMessage::Assistant {
            content: "On it.".into(),
            reasoning: Some("hm".into()),
            calls: vec![("call00001".into(), call)],
        });
        assert_eq!(said["role"], Either::Left("assistant".into()));
        assert_eq!(said["reasoning_content"], Either::Left("hm".into()));
        let Either::Right(calls) = &said["tool_calls"] else {
            panic!("calls are objects")
        };
        assert_eq!(calls[0]["id"], "call00001");
        assert_eq!(
            calls[0]["function"],
            json!({"name": "f", "arguments": {"a": 1}})
        );
        let result = message(&TextMessage::Tool {
            id: "call00001".into(),
            name: "f".into(),
            content: "2".into(),
        });
        assert_eq!(result["tool_call_id"], Either::Left("call00001".into()));

        let broken = ToolCall {
            name: "f".into(),
            arguments: "{".into(),
        };
        assert_eq!(made("i", &broken)["function"]["arguments"], "{");
    }

    #[test]
    fn choices_become_literals() {
        let choice = GrammarSource::Choice(vec!["a".into(), "say \"b\"".into()]);
        let Constraint::Lark(grammar) = constraint(Some(&choice)) else {
            panic!("a grammar")
        };
        assert_eq!(grammar, "start: \"a\" | \"say \\\"b\\\"\"");
    }
}
