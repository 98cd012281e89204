//! The request of a chat completion, for an engine that takes text: what it cannot do is refused by name.
//!
//! Fields were read and checked before, whoever answers. Invariant: whatever of a request would be without effect is an
//! error here; the exceptions are `cache_salt`, which holds because nothing is shared, `speculation`, because nothing is
//! drafted, and `parallel_tool_calls`, which clients send whatever the model: several calls may come all the same.

use std::sync::Arc;

use gossamer_harmony::{Conversation, ToolCall, Turn};

use super::chat::ChatRequest;
use super::fields::invalid;
use super::outputs::{Held, Outputs};
use crate::error::{ApiError, ErrorCode};
use crate::generation::{Messages, SEPARATOR, TextJob, constraint};
use crate::state::AppState;
use crate::text_engine::{TextEngine, TextMessage, TextRequest};

/// Makes the request of `engine`; `prompt_param` is the field that an error about the conversation names.
pub(crate) fn job(
    request: ChatRequest,
    prompt_param: &'static str,
    engine: &Arc<dyn TextEngine>,
    state: &AppState,
) -> Result<TextJob, ApiError> {
    let generate = request.generate;
    let name = engine.name();
    let sampling = &generate.sampling;
    for (param, given, why) in [
        (
            "logit_bias",
            !sampling.logit_bias.is_empty(),
            "it names token ids, and the model's are not known here",
        ),
        (
            "stop_token_ids",
            !generate.stop_token_ids.is_empty(),
            "it names token ids, and the model's are not known here; use 'stop'",
        ),
        (
            "prompt_logprobs",
            generate.prompt_logprobs.is_some(),
            "it does not score prompts",
        ),
        (
            "priority",
            generate.priority != 0,
            "its queue is first come, first served",
        ),
        (
            "max_reasoning_tokens",
            generate.max_reasoning_tokens.is_some(),
            "it cannot end a model's reasoning (that goes for a budget for thinking too)",
        ),
        (
            "constrain_headers",
            request.outputs.headers,
            "its models do not write the headers of GPT-OSS",
        ),
        (
            "tool_choice",
            request.outputs.must_call,
            "it cannot force a call; leave it out, or use 'auto' or 'none'",
        ),
        (
            "max_tokens",
            generate.max_tokens == Some(0),
            "it always draws a token",
        ),
    ] {
        if given {
            return Err(refused(param, name, why));
        }
    }
    // The context's room is known to the engine alone; what the request and the server allow is known here.
    if let Some(most) = generate.max_tokens.or(state.config.default_max_tokens) {
        generate.check_min_tokens(most)?;
    }
    let grammar = held(
        request.outputs,
        !request.conversation.tools.is_empty(),
        name,
    )?;
    let grammar = match grammar {
        None => None,
        // Compiled for what it says about the grammar, in the words and with the limits of the local engine.
        Some(held) => {
            constraint::check(&held, state)?;
            Some(held.source)
        }
    };
    let effort = request.conversation.effort;
    let tools = request.conversation.tools.clone();
    Ok(TextJob {
        engine: Arc::clone(engine),
        request: TextRequest {
            messages: messages(request.conversation),
            tools,
            effort,
            grammar,
            sampling: generate.sampling,
            n: generate.n,
            max_tokens: generate.max_tokens,
            default_max_tokens: state.config.default_max_tokens,
            min_tokens: generate.min_tokens,
            ignore_eos: generate.ignore_eos,
        },
        stop_strings: generate.stop_strings,
        call_prefix: "call_",
        messages: Messages::Joined,
        prompt_param,
    })
}

fn refused(param: &str, engine: &str, why: &str) -> ApiError {
    ApiError::field(
        ErrorCode::UnsupportedParameter,
        param,
        format!("'{param}' cannot be used with the engine '{engine}': {why}."),
    )
}

/// What the answer is held to.
fn held(outputs: Outputs, has_tools: bool, engine: &str) -> Result<Option<Held>, ApiError> {
    if let Some(strict) = outputs.functions.into_iter().find_map(|(_, held)| held) {
        let why = "it cannot hold calls to a schema; leave out 'strict'";
        return Err(refused(&strict.param, engine, why));
    }
    match outputs.answer {
        Some(held) if has_tools => Err(invalid(
            &held.param,
            format!(
                "cannot be combined with 'tools' with the engine '{engine}': it holds the whole output to it, calls too"
            ),
        )),
        held => Ok(held),
    }
}

/// The conversation, without what only GPT-OSS is told.
fn messages(conversation: Conversation) -> Vec<TextMessage> {
    let mut ids = CallIds::default();
    let system = conversation.instructions.map(TextMessage::System);
    let turns = conversation.turns.into_iter();
    (system.into_iter())
        .chain(turns.map(|turn| message(turn, &mut ids)))
        .collect()
}

fn message(turn: Turn, ids: &mut CallIds) -> TextMessage {
    match turn {
        Turn::User { name, text } => TextMessage::User { name, text },
        Turn::Developer(text) => TextMessage::System(text),
        Turn::Assistant {
            reasoning,
            preamble,
            content,
            tool_calls,
        } => {
            let texts: Vec<String> = [preamble, content].into_iter().flatten().collect();
            let call = |call: ToolCall| (ids.call(&call.name), call);
            TextMessage::Assistant {
                content: texts.join(SEPARATOR),
                reasoning,
                calls: tool_calls.into_iter().map(call).collect(),
            }
        }
        // Tokens of another vocabulary: what they say.
        Turn::Generated { plain, .. } => message(*plain, ids),
        Turn::ToolResult { name, content } => TextMessage::Tool {
            id: ids.result(&name),
            name,
            content,
        },
    }
}

/// Ids for calls and results, which the conversation has paired by their functions' names. Nine letters and digits, because
/// some templates ask for exactly that.
#[derive(Default)]
struct CallIds {
    made: usize,
    open: Vec<(String, String)>,
}

impl CallIds {
    fn call(&mut self, name: &str) -> String {
        self.made += 1;
        let id = format!("call{:05}", self.made % 100_000);
        self.open.push((name.to_owned(), id.clone()));
        id
    }

    /// The oldest call of this function that has no result yet.
    fn result(&mut self, name: &str) -> String {
        match self.open.iter().position(|(called, _)| called == name) {
            Some(i) => self.open.remove(i).1,
            None => {
                let id = self.call(name);
                self.open.pop();
                id
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_get_the_ids_of_their_calls() {
        let call = |name: &str| ToolCall {
            name: name.into(),
            arguments: "{}".into(),
        };
        let result = |name: &str| Turn::ToolResult {
            name: name.into(),
            content: "1".into(),
        };
        let said = messages(Conversation {
            instructions: Some("Be brief.".into()),
            turns: vec![
                Turn::Assistant {
                    reasoning: Some("hm".into()),
                    preamble: Some("One".into()),
                    content: Some("Two".into()),
                    tool_calls: vec![call("f"), call("g"), call("f")],
                },
                result("g"),
                result("f"),
                result("f"),
                result("h"),
            ],
            ..Conversation::default()
        });
        let ids: Vec<&str> = (said.iter())
            .filter_map(|message| match message {
                TextMessage::Tool { id, .. } => Some(id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(ids, ["call00002", "call00001", "call00003", "call00004"]);
        assert_eq!(said[0], TextMessage::System("Be brief.".into()));
        assert!(matches!(
            &said[1],
            TextMessage::Assistant { content, .. } if content == "One\n\nTwo"
        ));
    }
}
