//! `input` of a response, and what it continues, to the instructions and turns of a harmony conversation.
//!
//! Every item is a turn of its own, so that output items that come back are rendered as the tokens that they were made of.
//! `instructions`, then `system` and `developer` messages before the first other item, are the instructions; later ones stay
//! where they are. An assistant's message without a `phase` that stands before a call was said on the way to it.
//! Invariant: each output answers a call that was made before it, and no call is left unanswered.

use std::collections::HashMap;

use gossamer_harmony::{ToolCall, Turn};
use serde_json::{Value, json};

use super::fields::{Fields, invalid, quote, wrong_type};
use super::messages::Dialogue;
use super::response_tools::joined_name;
use super::tools::check_name;
use crate::error::{ApiError, ErrorCode};
use crate::request_id::random_id;

const TYPES: &[&str] = &[
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
];

/// Items of the API that belong to tools and services which are not here.
const OTHER_TYPES: &[&str] = &[
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "custom_tool_call",
    "custom_tool_call_output",
    "file_search_call",
    "image_generation_call",
    "item_reference",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
];

const ROLES: &[&str] = &["user", "assistant", "system", "developer"];
const STATUSES: &[&str] = &["in_progress", "completed", "incomplete"];

/// Content that the API has and a text model has not.
const OTHER_PARTS: &[&str] = &["input_image", "input_file", "input_audio"];

/// Reads items, in order.
pub(super) struct ItemReader {
    instructions: Vec<String>,
    turns: Vec<Turn>,
    /// Name of the function by the call's id, and whether its output came.
    calls: HashMap<String, (String, bool)>,
    /// Which turns are calls, with their ids.
    call_turns: Vec<(usize, String)>,
    /// The turn of an assistant's message that was said before a call, if one follows.
    undecided: Option<usize>,
}

impl ItemReader {
    /// Begins with `instructions`.
    pub fn new(instructions: Option<String>) -> Self {
        Self {
            instructions: instructions.into_iter().collect(),
            turns: Vec::new(),
            calls: HashMap::new(),
            call_turns: Vec::new(),
            undecided: None,
        }
    }

    /// Takes `input`. Returns its items with ids and all that a list of them shows.
    pub fn input(&mut self, fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
        let path = fields.path_of("input");
        let items = match fields.take("input") {
            None => return Err(fields.missing("input")),
            Some(Value::String(text)) => vec![json!({"role": "user", "content": text})],
            Some(Value::Array(items)) => items,
            Some(other) => return Err(wrong_type(&path, "a string or an array of items", &other)),
        };
        if items.is_empty() {
            return Err(ApiError::field(
                ErrorCode::EmptyArray,
                path.clone(),
                format!("'{path}' must hold at least one item."),
            ));
        }
        let mut shown = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let item = complete(item);
            self.read(item.clone(), format!("{path}[{i}]"))?;
            shown.push(item);
        }
        Ok(shown)
    }

    /// Takes an item.
    pub fn read(&mut self, item: Value, path: String) -> Result<(), ApiError> {
        let mut item = Fields::new(item, path)?;
        let kind = item.word("type", TYPES, OTHER_TYPES)?;
        item.string("id")?;
        item.word("status", STATUSES, &[])?;
        match kind.as_deref() {
            Some("reasoning") => {
                let text = reasoning(&mut item)?;
                if !text.is_empty() {
                    self.turns
                        .push(assistant(|turn| turn.reasoning = Some(text)));
                }
                return item.finish(&[]);
            }
            Some("function_call") => self.call(&mut item)?,
            Some("function_call_output") => self.output(&mut item)?,
            _ => return self.message(item),
        }
        self.undecided = None;
        item.finish(&["async", "caller"])
    }

    /// All items were taken.
    pub fn finish(self) -> Result<Dialogue, ApiError> {
        if let Some((id, _)) = self.calls.iter().find(|(_, (_, answered))| !answered) {
            return Err(invalid(
                "input",
                format!(
                    "must hold a 'function_call_output' for each call; none answers {}",
                    quote(id)
                ),
            ));
        }
        Ok(Dialogue {
            instructions: (!self.instructions.is_empty()).then(|| self.instructions.join("\n\n")),
            calls: first_calls(&self.turns, self.call_turns),
            turns: self.turns,
        })
    }

    fn message(&mut self, mut item: Fields) -> Result<(), ApiError> {
        let role = item
            .word("role", ROLES, &[])?
            .ok_or_else(|| item.missing("role"))?;
        self.undecided = None;
        if role == "assistant" {
            let text = text(
                &mut item,
                "content",
                &["output_text", "refusal", "input_text"],
            )?;
            let phase = item.word("phase", &["commentary", "final_answer"], &[])?;
            if phase.is_none() {
                self.undecided = Some(self.turns.len());
            }
            self.turns.push(assistant(|turn| match phase.as_deref() {
                Some("commentary") => turn.preamble = Some(text),
                _ => turn.content = Some(text),
            }));
            return item.finish(&[]);
        }
        let text = text(&mut item, "content", &["input_text"])?;
        match role.as_str() {
            "user" => self.turns.push(Turn::User { name: None, text }),
            _ if self.turns.is_empty() => self.instructions.push(text),
            _ => self.turns.push(Turn::Developer(text)),
        }
        item.finish(&[])
    }

    fn call(&mut self, item: &mut Fields) -> Result<(), ApiError> {
        let id = item.required_string("call_id")?;
        let mut name = item.required_string("name")?;
        check_name(&name, &item.path_of("name"))?;
        if let Some(namespace) = item.string("namespace")? {
            check_name(&namespace, &item.path_of("namespace"))?;
            name = joined_name(&namespace, &name);
        }
        let arguments = item.required_string("arguments")?;
        let repeats = self.calls.insert(id.clone(), (name.clone(), false));
        if repeats.is_some() {
            return Err(item.invalid("call_id", format!("repeats the id {}", quote(&id))));
        }
        if let Some(Turn::Assistant {
            preamble, content, ..
        }) = self.undecided.and_then(|at| self.turns.get_mut(at))
        {
            *preamble = content.take();
        }
        let call = ToolCall { name, arguments };
        self.call_turns.push((self.turns.len(), id));
        self.turns
            .push(assistant(|turn| turn.tool_calls.push(call)));
        Ok(())
    }

    fn output(&mut self, item: &mut Fields) -> Result<(), ApiError> {
        let content = text(item, "output", &["input_text"])?;
        let id = item.required_string("call_id")?;
        let Some((name, answered)) = self.calls.get_mut(&id) else {
            return Err(item.invalid(
                "call_id",
                format!("is {}, but no call before it has this id", quote(&id)),
            ));
        };
        if std::mem::replace(answered, true) {
            return Err(item.invalid(
                "call_id",
                format!("is {}, which was answered already", quote(&id)),
            ));
        }
        let name = name.clone();
        self.turns.push(Turn::ToolResult { name, content });
        Ok(())
    }
}

/// Those of the calls that may be the first of a generation: between it and the call before it is something that the model
/// did not say on the way to a call.
fn first_calls(turns: &[Turn], calls: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let on_the_way = |turn: &Turn| matches!(turn, Turn::Assistant { content: None, .. });
    let mut before = None;
    let mut is_first = |at: usize| {
        let goes_on = before.is_some_and(|before| turns[before..at].iter().all(on_the_way));
        before = Some(at);
        !goes_on
    };
    (calls.into_iter())
        .filter(|(at, _)| is_first(*at))
        .collect()
}

/// The parts of [`Turn::Assistant`].
#[derive(Default)]
struct Said {
    reasoning: Option<String>,
    preamble: Option<String>,
    content: Option<String>,
    tool_calls: Vec<ToolCall>,
}

fn assistant(fill: impl FnOnce(&mut Said)) -> Turn {
    let mut said = Said::default();
    fill(&mut said);
    Turn::Assistant {
        reasoning: said.reasoning,
        preamble: said.preamble,
        content: said.content,
        tool_calls: said.tool_calls,
    }
}

/// The text of a thought: its content, or what summarizes it.
fn reasoning(item: &mut Fields) -> Result<String, ApiError> {
    let content = parts(item, "content", "reasoning_text")?;
    let summary = parts(item, "summary", "summary_text")?;
    let encrypted = item.string("encrypted_content")?;
    let text = if content.is_empty() { summary } else { content };
    match encrypted {
        Some(secret) if text.is_empty() && !secret.is_empty() => Err(item.unsupported_value(
            "encrypted_content",
            "without 'content', which only the server that made it can read,",
        )),
        _ => Ok(text),
    }
}

/// Takes parts of one type, if they are there, joined as they stand.
fn parts(item: &mut Fields, name: &str, kind: &str) -> Result<String, ApiError> {
    let path = item.path_of(name);
    let mut joined = String::new();
    for (i, part) in item
        .array(name)?
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let mut part = Fields::new(part, format!("{path}[{i}]"))?;
        (part.word("type", &[kind], &[])?).ok_or_else(|| part.missing("type"))?;
        joined.push_str(&part.required_string("text")?);
        part.finish(&[])?;
    }
    Ok(joined)
}

/// Takes a text that must be there: a string, or an array of parts of these types, joined as they stand.
fn text(item: &mut Fields, name: &str, kinds: &[&str]) -> Result<String, ApiError> {
    let path = item.path_of(name);
    let parts = match item.take(name) {
        None => return Err(item.missing(name)),
        Some(Value::String(text)) => return Ok(text),
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
        let kind = part
            .word("type", kinds, OTHER_PARTS)?
            .ok_or_else(|| part.missing("type"))?;
        let field = if kind == "refusal" { "refusal" } else { "text" };
        joined.push_str(&part.required_string(field)?);
        if kind == "output_text" {
            // As they came.
            part.array("logprobs")?;
            if let Some(annotations) = part.array("annotations")?
                && !annotations.is_empty()
            {
                return Err(part.unsupported_value("annotations", "that is not empty"));
            }
        }
        part.finish(&["prompt_cache_breakpoint"])?;
    }
    Ok(joined)
}

/// An item as a list of items shows it: with an id, a type, a status, and content in parts. What is wrong stays wrong.
fn complete(mut item: Value) -> Value {
    let Some(map) = item.as_object_mut() else {
        return item;
    };
    map.retain(|_, value| !value.is_null());
    if !map.contains_key("type") && map.contains_key("role") {
        map.insert("type".into(), "message".into());
    }
    let prefix = match map.get("type").and_then(Value::as_str) {
        Some("message") => "msg_",
        Some("reasoning") => "rs_",
        Some("function_call") => "fc_",
        Some("function_call_output") => "fco_",
        _ => return item,
    };
    if prefix == "rs_" {
        map.entry("summary").or_insert_with(|| json!([]));
    }
    if prefix == "msg_"
        && let Some(Value::String(text)) = map.get("content")
    {
        let assistant = map.get("role").is_some_and(|role| role == "assistant");
        let part = if assistant {
            json!({"type": "output_text", "text": text, "annotations": []})
        } else {
            json!({"type": "input_text", "text": text})
        };
        map.insert("content".into(), json!([part]));
    }
    map.entry("id").or_insert_with(|| random_id(prefix).into());
    map.entry("status").or_insert_with(|| "completed".into());
    item
}
