//! `system` and `messages` to the instructions and turns of a harmony conversation.
//!
//! A message is text or blocks. Texts of one message are joined with a blank line between them, as are blocks of `system`.
//! An assistant's blocks become one turn: its thinking, its text (a preamble, if it calls a tool), its calls. Results of
//! tools come first in the message after the calls, and each becomes a turn.
//! Invariant: each result answers a call of the assistant's last message, and no call is left unanswered.

use gossamer_harmony::{ToolCall, Turn};
use serde_json::Value;

use super::super::fields::{Fields, invalid, quote, wrong_type};
use super::super::messages::Dialogue;
use super::super::tools::check_name;
use super::{cache_control, other_block};
use crate::error::{ApiError, ErrorCode};

/// Kinds of blocks that the API has.
pub(super) const KINDS: &[&str] = &[
    "text",
    "image",
    "document",
    "search_result",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "tool_reference",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "container_upload",
    "browser_state",
    "compaction",
];

/// Between texts that become one.
const SEPARATOR: &str = "\n\n";
/// What the model reads before the result of a call that failed.
const FAILED: &str = "Error: ";
/// Bound on ids, which are compared with each other.
const MAX_ID: usize = 256;

/// Takes `system`.
pub(super) fn system(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let text = match fields.take("system") {
        None => return Ok(None),
        Some(value) => text(value, fields.path_of("system"))?,
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Takes `messages`.
pub(super) fn messages(fields: &mut Fields, system: Option<String>) -> Result<Dialogue, ApiError> {
    let path = fields.path_of("messages");
    let items = (fields.array("messages")?).ok_or_else(|| fields.missing("messages"))?;
    if items.is_empty() {
        return Err(empty(&path, "message"));
    }
    let mut reader = Reader {
        instructions: system.into_iter().collect(),
        ..Reader::default()
    };
    let last = items.len() - 1;
    for (i, item) in items.into_iter().enumerate() {
        reader.read(item, &format!("{path}[{i}]"))?;
    }
    if matches!(reader.turns.last(), Some(Turn::Assistant { .. })) {
        reader.all_answered()?;
        return Err(invalid(
            &format!("{path}[{last}].role"),
            "must be 'user': this model cannot go on with an answer that was begun for it (prefill)",
        ));
    }
    reader.all_answered()?;
    Ok(Dialogue {
        instructions: (!reader.instructions.is_empty())
            .then(|| reader.instructions.join(SEPARATOR)),
        turns: reader.turns,
        calls: reader.first_calls,
    })
}

#[derive(Default)]
struct Reader {
    instructions: Vec<String>,
    turns: Vec<Turn>,
    first_calls: Vec<(usize, String)>,
    /// Calls of the assistant's last message: id, name, whether a result came.
    calls: Vec<(String, String, bool)>,
    /// Path of that message's content.
    calls_path: String,
}

impl Reader {
    fn read(&mut self, item: Value, path: &str) -> Result<(), ApiError> {
        let mut message = Fields::new(item, path)?;
        let role = (message.string("role")?).ok_or_else(|| message.missing("role"))?;
        let role = match role.as_str() {
            "user" | "assistant" | "system" => role,
            // What Claude Code calls some of the user's messages (vLLM's `anthropic/protocol.py` found it in 2.1.154).
            "ctx" | "msg" => "user".to_owned(),
            other => {
                return Err(message.invalid(
                    "role",
                    format!(
                        "must be one of 'user', 'assistant', 'system', not {}",
                        quote(other)
                    ),
                ));
            }
        };
        let content = (message.take("content")).ok_or_else(|| message.missing("content"))?;
        let at = message.path_of("content");
        message.finish(&[])?;
        match role.as_str() {
            "user" => self.user(content, &at),
            "assistant" => self.assistant(content, at),
            _ => {
                self.all_answered()?;
                let text = text(content, at)?;
                if self.turns.is_empty() {
                    self.instructions.push(text);
                } else {
                    self.turns.push(Turn::Developer(text));
                }
                Ok(())
            }
        }
    }

    fn user(&mut self, content: Value, path: &str) -> Result<(), ApiError> {
        let mut texts = Vec::new();
        for block in blocks(content, path)? {
            let mut block = Fields::new(block.value, block.path)?;
            match kind(&mut block)?.as_str() {
                "tool_result" if texts.is_empty() => self.tool_result(block)?,
                "tool_result" => {
                    return Err(block.invalid(
                        "type",
                        "is 'tool_result', which must come before the other blocks of its message",
                    ));
                }
                "text" => texts.push(text_block(block)?),
                other => return Err(other_block(&block, other, &["text", "tool_result"])),
            }
        }
        if !texts.is_empty() {
            self.all_answered()?;
            self.turns.push(Turn::User {
                name: None,
                text: texts.join(SEPARATOR),
            });
        }
        Ok(())
    }

    fn tool_result(&mut self, mut block: Fields) -> Result<(), ApiError> {
        let id = block.required_string("tool_use_id")?;
        let path = block.path_of("content");
        let result = match block.take("content") {
            None => String::new(),
            Some(Value::Array(parts)) if parts.is_empty() => String::new(),
            Some(content) => text(content, path)?,
        };
        let failed = block.boolean("is_error")?.unwrap_or(false);
        cache_control(&mut block)?;
        let call = self.calls.iter_mut().find(|(other, ..)| *other == id);
        let Some((_, name, answered)) = call else {
            return Err(block.invalid(
                "tool_use_id",
                format!(
                    "is {}, but the assistant message before it makes no such call",
                    quote(&id)
                ),
            ));
        };
        if std::mem::replace(answered, true) {
            return Err(block.invalid(
                "tool_use_id",
                format!("is {}, which was answered already", quote(&id)),
            ));
        }
        let name = name.clone();
        block.finish(&["toolset_name"])?;
        let content = if failed {
            format!("{FAILED}{result}")
        } else {
            result
        };
        self.turns.push(Turn::ToolResult { name, content });
        Ok(())
    }

    fn assistant(&mut self, content: Value, path: String) -> Result<(), ApiError> {
        self.all_answered()?;
        self.calls.clear();
        let (mut thoughts, mut texts, mut tool_calls) = (Vec::new(), Vec::new(), Vec::new());
        for block in blocks(content, &path)? {
            let mut block = Fields::new(block.value, block.path)?;
            match kind(&mut block)?.as_str() {
                "text" => texts.push(text_block(block)?),
                "thinking" => {
                    thoughts.push(block.required_string("thinking")?);
                    // Nobody but the client is deceived by reasoning that it has changed.
                    block.string("signature")?;
                    block.finish(&[])?;
                }
                "redacted_thinking" => {
                    block.required_string("data")?;
                    block.finish(&[])?;
                }
                "tool_use" => tool_calls.push(self.tool_use(block)?),
                other => {
                    let known = ["text", "thinking", "redacted_thinking", "tool_use"];
                    return Err(other_block(&block, other, &known));
                }
            }
        }
        self.calls_path = path;
        let joined = |texts: Vec<String>| {
            let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
            (!texts.is_empty()).then(|| texts.join(SEPARATOR))
        };
        if let Some((id, ..)) = self.calls.first() {
            self.first_calls.push((self.turns.len(), id.clone()));
        }
        let (reasoning, said) = (joined(thoughts), joined(texts));
        let (preamble, content) = match (said, tool_calls.is_empty()) {
            (said, false) => (said, None),
            // An answer that was empty: it still has its place in the dialogue.
            (None, true) if reasoning.is_none() => (None, Some(String::new())),
            (said, true) => (None, said),
        };
        self.turns.push(Turn::Assistant {
            reasoning,
            preamble,
            content,
            tool_calls,
        });
        Ok(())
    }

    fn tool_use(&mut self, mut block: Fields) -> Result<ToolCall, ApiError> {
        let id = block.required_string("id")?;
        super::super::fields::check_length(&id, &block.path_of("id"), MAX_ID)?;
        let name = block.required_string("name")?;
        check_name(&name, &block.path_of("name"))?;
        let path = block.path_of("input");
        let input = match block.take("input") {
            Some(input @ Value::Object(_)) => input,
            Some(other) => return Err(wrong_type(&path, "an object", &other)),
            None => return Err(block.missing("input")),
        };
        cache_control(&mut block)?;
        if let Some(mut caller) = block.object("caller")? {
            caller.word("type", &["direct"], &["code_execution_20250825"])?;
            caller.finish(&[])?;
        }
        if self.calls.iter().any(|(other, ..)| *other == id) {
            return Err(block.invalid("id", format!("repeats the id {}", quote(&id))));
        }
        block.finish(&["toolset_name"])?;
        self.calls.push((id, name.clone(), false));
        Ok(ToolCall {
            name,
            arguments: input.to_string(),
        })
    }

    /// Checks that every call of the assistant's last message has its result.
    fn all_answered(&self) -> Result<(), ApiError> {
        match self.calls.iter().find(|(_, _, answered)| !answered) {
            None => Ok(()),
            Some((id, ..)) => Err(invalid(
                &self.calls_path,
                format!(
                    "has calls, each of which needs a 'tool_result' at the beginning of the next message; none answers {}",
                    quote(id)
                ),
            )),
        }
    }
}

/// A block and where it stands.
struct Block {
    value: Value,
    path: String,
}

/// The blocks of `content`. A string is one text block.
fn blocks(content: Value, path: &str) -> Result<Vec<Block>, ApiError> {
    match content {
        Value::String(text) => Ok(vec![Block {
            value: serde_json::json!({"type": "text", "text": text}),
            path: path.to_owned(),
        }]),
        Value::Array(items) if items.is_empty() => Err(empty(path, "block")),
        Value::Array(items) => Ok(items
            .into_iter()
            .enumerate()
            .map(|(i, value)| Block {
                value,
                path: format!("{path}[{i}]"),
            })
            .collect()),
        other => Err(wrong_type(path, "a string or an array of blocks", &other)),
    }
}

fn kind(block: &mut Fields) -> Result<String, ApiError> {
    block.required_string("type")
}

/// Text that stands in place of nothing but text: of `system`, of a system message, of a tool's result.
fn text(content: Value, path: String) -> Result<String, ApiError> {
    let mut texts = Vec::new();
    for block in blocks(content, &path)? {
        let mut block = Fields::new(block.value, block.path)?;
        match kind(&mut block)?.as_str() {
            "text" => texts.push(text_block(block)?),
            other => return Err(other_block(&block, other, &["text"])),
        }
    }
    Ok(texts.join(SEPARATOR))
}

/// The text of a block whose type was taken.
fn text_block(mut block: Fields) -> Result<String, ApiError> {
    let text = block.required_string("text")?;
    cache_control(&mut block)?;
    // Sent back by clients as it came.
    if let Some(citations) = block.array("citations")?
        && !citations.is_empty()
    {
        return Err(block.unsupported_value("citations", "that is not empty"));
    }
    block.finish(&[])?;
    Ok(text)
}

fn empty(path: &str, what: &str) -> ApiError {
    ApiError::field(
        ErrorCode::EmptyArray,
        path,
        format!("'{path}' must hold at least one {what}."),
    )
}
