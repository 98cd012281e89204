//! `tools`, `tool_choice` and what goes with them.

use std::collections::HashSet;

use gossamer_harmony::Tool;
use serde_json::Value;

use super::fields::{Fields, quote, wrong_type};
use super::outputs::{Held, arguments};
use crate::error::{ApiError, ErrorCode};

/// OpenAI's bound on `tools`.
const MAX_TOOLS: usize = 128;

/// A declared function, and what of its declaration concerns whoever samples.
pub(super) struct Declared {
    /// What the model reads.
    pub tool: Tool,
    /// Its arguments are held to its parameters.
    pub strict: bool,
    /// The field of its parameters.
    pub param: String,
}

/// Who may be called, and must.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Functions that may be called, and what their arguments are held to.
    pub functions: Vec<(String, Option<Held>)>,
    /// One of them must be.
    pub must_call: bool,
}

/// Takes the fields about tools. Returns the functions that the model is told of (none with `tool_choice: "none"`) and what
/// it may do with them.
pub(super) fn tools(fields: &mut Fields) -> Result<(Vec<Tool>, Calls), ApiError> {
    let declared = declared(fields)?;
    let choice = fields.take("tool_choice");
    let parallel = fields.boolean("parallel_tool_calls")?;
    if declared.is_none() {
        for (name, given) in [
            ("tool_choice", choice.is_some()),
            ("parallel_tool_calls", parallel.is_some()),
        ] {
            if given {
                return Err(fields.invalid(name, "may only be given with 'tools'"));
            }
        }
    }
    let mut declared = declared.unwrap_or_default();
    let mut must_call = false;
    // The model reads about all functions even if one of them is forced: the prompt stays the same, and its cached prefix.
    let mut only = None;
    match choice {
        None => {}
        Some(Value::String(word)) => match word.as_str() {
            "auto" => {}
            // A function that the model has not read about is one that it does not call.
            "none" => declared.clear(),
            "required" => must_call = true,
            other => {
                return Err(fields.invalid(
                    "tool_choice",
                    format!("must be 'auto', 'none' or 'required', not {}", quote(other)),
                ));
            }
        },
        Some(Value::Object(choice)) => {
            let path = fields.path_of("tool_choice");
            let choice = Fields::new(Value::Object(choice), path)?;
            match choose(choice, &declared)? {
                Choice::Function(name) => {
                    must_call = true;
                    only = Some(name);
                }
                Choice::Some { names, required } => {
                    must_call = required;
                    declared.retain(|known| names.contains(&known.tool.name));
                }
            }
        }
        Some(other) => {
            return Err(wrong_type(
                &fields.path_of("tool_choice"),
                "a string or an object",
                &other,
            ));
        }
    }
    Ok(told_and_callable(declared, must_call, only.as_deref()))
}

/// What the model reads about these functions, and what it may do with them. `only`: the one that it may call.
pub(super) fn told_and_callable(
    declared: Vec<Declared>,
    must_call: bool,
    only: Option<&str>,
) -> (Vec<Tool>, Calls) {
    let callable = |known: &&Declared| only.is_none_or(|name| name == known.tool.name);
    let held = |known: &Declared| {
        // A call that is asked for must be one that can be made.
        let held = (known.strict || must_call)
            .then(|| arguments(known.tool.parameters.as_ref(), known.param.clone()));
        (known.tool.name.clone(), held)
    };
    let functions = declared.iter().filter(callable).map(held).collect();
    let calls = Calls {
        functions,
        must_call,
    };
    (
        declared.into_iter().map(|known| known.tool).collect(),
        calls,
    )
}

/// A choice of functions.
enum Choice {
    /// This one must be called.
    Function(String),
    /// All that `allowed_tools` leaves the model free to call.
    Some {
        names: HashSet<String>,
        required: bool,
    },
}

fn choose(mut choice: Fields, declared: &[Declared]) -> Result<Choice, ApiError> {
    const KINDS: &[&str] = &["function", "allowed_tools"];
    let kind = (choice.word("type", KINDS, &["custom"])?).ok_or_else(|| choice.missing("type"))?;
    if kind == "function" {
        let name = function_name(&mut choice, declared)?;
        choice.finish(&[])?;
        return Ok(Choice::Function(name));
    }
    let mut allowed = choice
        .object("allowed_tools")?
        .ok_or_else(|| choice.missing("allowed_tools"))?;
    choice.finish(&[])?;
    let mode = (allowed.word("mode", &["auto", "required"], &[])?)
        .ok_or_else(|| allowed.missing("mode"))?;
    let path = allowed.path_of("tools");
    let items = allowed
        .array("tools")?
        .ok_or_else(|| allowed.missing("tools"))?;
    allowed.finish(&[])?;
    let mut names = HashSet::new();
    for (i, item) in items.into_iter().enumerate() {
        let mut item = Fields::new(item, format!("{path}[{i}]"))?;
        (item.word("type", &["function"], &["custom"])?).ok_or_else(|| item.missing("type"))?;
        names.insert(function_name(&mut item, declared)?);
        item.finish(&[])?;
    }
    let required = mode == "required";
    if required && names.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            path.clone(),
            format!("'{path}' must hold a function where one must be called."),
        ));
    }
    Ok(Choice::Some { names, required })
}

/// Takes `function`, which names a declared one.
fn function_name(choice: &mut Fields, declared: &[Declared]) -> Result<String, ApiError> {
    let mut function = choice
        .object("function")?
        .ok_or_else(|| choice.missing("function"))?;
    let name = function.required_string("name")?;
    if !declared.iter().any(|known| known.tool.name == name) {
        return Err(function.invalid("name", format!("is {}, not one of 'tools'", quote(&name))));
    }
    function.finish(&[])?;
    Ok(name)
}

fn declared(fields: &mut Fields) -> Result<Option<Vec<Declared>>, ApiError> {
    let path = fields.path_of("tools");
    let Some(items) = fields.array("tools")? else {
        return Ok(None);
    };
    if items.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            path.clone(),
            format!("'{path}' must hold at least one function; leave it out to have none."),
        ));
    }
    if items.len() > MAX_TOOLS {
        return Err(ApiError::field(
            ErrorCode::ArrayAboveMaxLength,
            path.clone(),
            format!(
                "'{path}' may hold at most {MAX_TOOLS} functions, not {}.",
                items.len()
            ),
        ));
    }
    let mut names = HashSet::new();
    let mut tools = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let known = tool(item, &path)?;
        if !names.insert(known.tool.name.clone()) {
            return Err(super::fields::invalid(
                &format!("{path}.function.name"),
                format!("repeats the name {}", quote(&known.tool.name)),
            ));
        }
        tools.push(known);
    }
    Ok(Some(tools))
}

fn tool(item: Value, path: &str) -> Result<Declared, ApiError> {
    let mut item = Fields::new(item, path)?;
    (item.word("type", &["function"], &["custom"])?).ok_or_else(|| item.missing("type"))?;
    let mut function = item
        .object("function")?
        .ok_or_else(|| item.missing("function"))?;
    item.finish(&[])?;

    let name = function.required_string("name")?;
    check_name(&name, &function.path_of("name"))?;
    let description = function.string("description")?;
    let parameters = match function.take("parameters") {
        None => None,
        Some(schema @ Value::Object(_)) => Some(schema),
        Some(other) => {
            return Err(wrong_type(
                &function.path_of("parameters"),
                "an object",
                &other,
            ));
        }
    };
    let param = function.path_of("parameters");
    let strict = function.boolean("strict")?.unwrap_or(false);
    function.finish(&[])?;
    Ok(Declared {
        tool: Tool {
            name,
            description,
            parameters,
        },
        strict,
        param,
    })
}

/// Checks a function's name, which becomes part of a message header.
pub(super) fn check_name(name: &str, path: &str) -> Result<(), ApiError> {
    let ordinary = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(ordinary) {
        return Ok(());
    }
    Err(super::fields::invalid(
        path,
        format!(
            "must be 1 to 64 letters, digits, '_' or '-', not {}",
            quote(name)
        ),
    ))
}
