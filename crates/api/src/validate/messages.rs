//! `messages` to the instructions and turns of a harmony conversation.
//!
//! `system` and `developer` mean the same: those before the first other message become the instructions, later ones stay
//! where they are. An assistant message with calls has its `content` as preamble, which is how such an answer left here.
//! A user's `name` goes into the message's header, as the format has it; names of others are checked and not used.
//! Invariant: each tool result answers a call that was made, and no call made in a message is left unanswered.

use gossamer_harmony::{ToolCall, Turn};
use serde_json::Value;

use super::fields::{Fields, invalid, quote, wrong_type};
use super::tools::check_name;
use crate::error::{ApiError, ErrorCode};

/// What the messages say.
pub(super) struct Dialogue {
    pub instructions: Option<String>,
    pub turns: Vec<Turn>,
    /// Which turns made calls, with the id of each one's first.
    pub calls: Vec<(usize, String)>,
}

#[derive(Clone, Copy)]
enum Role {
    Instructions,
    User,
    Assistant,
    Tool,
}

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];
/// Of older versions of the API.
const OLDER_ROLES: &[&str] = &["function"];

/// OpenAI's bound on `name`.
const MAX_NAME: usize = 64;

/// Kinds of content that the API has and a text model has not.
const OTHER_PARTS: &[&str] = &["image_url", "input_audio", "file", "refusal"];

/// Takes `messages`.
pub(super) fn messages(fields: &mut Fields) -> Result<Dialogue, ApiError> {
    let path = fields.path_of("messages");
    let items = fields
        .array("messages")?
        .ok_or_else(|| fields.missing("messages"))?;
    if items.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            path.clone(),
            format!("'{path}' must hold at least one message."),
        ));
    }
    let mut reader = Reader::default();
    for (i, item) in items.into_iter().enumerate() {
        reader.read(item, format!("{path}[{i}]"))?;
    }
    reader.all_answered()?;
    Ok(Dialogue {
        instructions: (!reader.instructions.is_empty()).then(|| reader.instructions.join("\n\n")),
        turns: reader.turns,
        calls: reader.first_calls,
    })
}

#[derive(Default)]
struct Reader {
    instructions: Vec<String>,
    turns: Vec<Turn>,
    first_calls: Vec<(usize, String)>,
    /// Calls of the last assistant message: id, name, whether a result came.
    calls: Vec<(String, String, bool)>,
    /// Path of the message that made them.
    calls_path: String,
}

impl Reader {
    fn read(&mut self, item: Value, path: String) -> Result<(), ApiError> {
        let mut message = Fields::new(item, path.as_str())?;
        let role = message
            .word("role", ROLES, OLDER_ROLES)?
            .ok_or_else(|| message.missing("role"))?;
        let role = match role.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            _ => Role::Instructions,
        };
        if !matches!(role, Role::Tool) {
            self.all_answered()?;
        }
        match role {
            Role::Instructions => {
                let text = required_text(&mut message)?;
                participant(&mut message)?;
                if self.turns.is_empty() {
                    self.instructions.push(text);
                } else {
                    self.turns.push(Turn::Developer(text));
                }
            }
            Role::User => {
                let text = required_text(&mut message)?;
                let name = participant(&mut message)?;
                self.turns.push(Turn::User { name, text });
            }
            Role::Assistant => self.assistant(&mut message, path)?,
            Role::Tool => self.tool_result(&mut message)?,
        }
        message.finish(&["audio", "function_call"])
    }

    fn assistant(&mut self, message: &mut Fields, path: String) -> Result<(), ApiError> {
        let content = text(message, true)?;
        let refusal = message.string("refusal")?;
        participant(message)?;
        let said = content.or(refusal);
        let said_nothing = said.is_some();
        let content = said.filter(|text| !text.is_empty());
        let reasoning = message.string("reasoning")?;
        let reasoning_content = message.string("reasoning_content")?;
        let reasoning = reasoning
            .filter(|text| !text.is_empty())
            .or(reasoning_content)
            .filter(|text| !text.is_empty());
        let tool_calls = self.tool_calls(message)?;
        // Sent back by SDKs as it came from OpenAI; nothing to refuse in an empty list.
        if let Some(annotations) = message.array("annotations")?
            && !annotations.is_empty()
        {
            return Err(message.unsupported_value("annotations", "that is not empty"));
        }
        // Where LiteLLM keeps what it does not know of an answer, and what it then sends back.
        message.object("provider_specific_fields")?;
        if content.is_none() && tool_calls.is_empty() && reasoning.is_none() {
            if !said_nothing {
                return Err(message.missing("content"));
            }
            // An answer that was empty: it still has its place in the dialogue.
            self.turns.push(Turn::Assistant {
                reasoning: None,
                preamble: None,
                content: Some(String::new()),
                tool_calls,
            });
            return Ok(());
        }
        self.calls_path = path;
        if let Some((id, ..)) = self.calls.first() {
            self.first_calls.push((self.turns.len(), id.clone()));
        }
        let (preamble, content) = if tool_calls.is_empty() {
            (None, content)
        } else {
            (content, None)
        };
        self.turns.push(Turn::Assistant {
            reasoning,
            preamble,
            content,
            tool_calls,
        });
        Ok(())
    }

    fn tool_calls(&mut self, message: &mut Fields) -> Result<Vec<ToolCall>, ApiError> {
        let path = message.path_of("tool_calls");
        self.calls.clear();
        let mut calls = Vec::new();
        for (i, item) in message
            .array("tool_calls")?
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            let mut call = Fields::new(item, format!("{path}[{i}]"))?;
            let id = call.required_string("id")?;
            call.word("type", &["function"], &["custom"])?;
            // Some clients send a streamed call back with the index it had in the stream.
            call.integer("index", 0..=i64::MAX)?;
            let mut function = call
                .object("function")?
                .ok_or_else(|| call.missing("function"))?;
            call.finish(&[])?;
            let name = function.required_string("name")?;
            check_name(&name, &function.path_of("name"))?;
            let arguments = function.required_string("arguments")?;
            function.finish(&[])?;
            if self.calls.iter().any(|(other, ..)| *other == id) {
                return Err(invalid(
                    &format!("{path}[{i}].id"),
                    format!("repeats the id {}", quote(&id)),
                ));
            }
            self.calls.push((id, name.clone(), false));
            calls.push(ToolCall { name, arguments });
        }
        Ok(calls)
    }

    fn tool_result(&mut self, message: &mut Fields) -> Result<(), ApiError> {
        let content = required_text(message)?;
        let id = message.required_string("tool_call_id")?;
        let Some((_, name, answered)) = self.calls.iter_mut().find(|(other, ..)| *other == id)
        else {
            return Err(message.invalid(
                "tool_call_id",
                format!(
                    "is {}, but the assistant message before it makes no such call",
                    quote(&id)
                ),
            ));
        };
        if std::mem::replace(answered, true) {
            return Err(message.invalid(
                "tool_call_id",
                format!("is {}, which was answered already", quote(&id)),
            ));
        }
        let name = name.clone();
        if let Some(given) = message.string("name")?
            && given != name
        {
            return Err(message.invalid(
                "name",
                format!("is {}, but the call was of '{name}'", quote(&given)),
            ));
        }
        self.turns.push(Turn::ToolResult { name, content });
        Ok(())
    }

    /// Checks that every call of the last assistant message has its result.
    fn all_answered(&self) -> Result<(), ApiError> {
        match self.calls.iter().find(|(_, _, answered)| !answered) {
            None => Ok(()),
            Some((id, ..)) => Err(invalid(
                &format!("{}.tool_calls", self.calls_path),
                format!(
                    "must be followed by a 'tool' message for each call; none answers {}",
                    quote(id)
                ),
            )),
        }
    }
}

/// Takes the `name` of whoever speaks. It becomes part of a header, so it holds nothing that a header is made of
/// (OpenAI's API has the same rule).
fn participant(message: &mut Fields) -> Result<Option<String>, ApiError> {
    let name = message.short_string("name", MAX_NAME)?;
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "<|\\/>".contains(c);
    match &name {
        Some(text) if text.is_empty() || text.contains(forbidden) => Err(message.invalid(
            "name",
            format!(
                "must be 1 to {MAX_NAME} characters without spaces and <, |, \\, /, >, not {}",
                quote(text)
            ),
        )),
        _ => Ok(name),
    }
}

/// Takes `content`, which must be there.
fn required_text(message: &mut Fields) -> Result<String, ApiError> {
    text(message, false)?.ok_or_else(|| message.missing("content"))
}

/// Takes `content`: a string, or an array of text parts, joined as they stand.
fn text(message: &mut Fields, refusals: bool) -> Result<Option<String>, ApiError> {
    let path = message.path_of("content");
    let parts = match message.take("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong_type(&path, "a string or an array of parts", &other)),
    };
    if parts.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            path.clone(),
            format!("'{path}' must hold at least one part."),
        ));
    }
    let mut joined = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let mut part = Fields::new(part, format!("{path}[{i}]"))?;
        let kinds: &[&str] = if refusals {
            &["text", "refusal"]
        } else {
            &["text"]
        };
        let kind = part
            .word("type", kinds, OTHER_PARTS)?
            .ok_or_else(|| part.missing("type"))?;
        joined.push_str(&part.required_string(&kind)?);
        part.finish(&["prompt_cache_breakpoint"])?;
    }
    Ok(Some(joined))
}
