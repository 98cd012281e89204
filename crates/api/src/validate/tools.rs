//! `tools`, `tool_choice` and what goes with them.

use std::collections::HashSet;

use gossamer_harmony::Tool;
use serde_json::Value;

use super::fields::{Fields, quote, wrong_type};
use crate::error::{ApiError, ErrorCode};

/// OpenAI's bound on `tools`.
const MAX_TOOLS: usize = 128;

/// Takes the fields about tools. Returns the functions that the model may call: none with `tool_choice: "none"`.
pub(super) fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
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
    let declared = declared.unwrap_or_default();
    match choice {
        None => Ok(declared),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(declared),
            // A function that the model has not read about is one that it does not call.
            "none" => Ok(Vec::new()),
            "required" => Err(fields.unsupported_value("tool_choice", "'required'")),
            other => Err(fields.invalid(
                "tool_choice",
                format!("must be 'auto', 'none' or 'required', not {}", quote(other)),
            )),
        },
        Some(Value::Object(choice)) => {
            let path = fields.path_of("tool_choice");
            let choice = Fields::new(Value::Object(choice), path)?;
            choose(choice, declared, fields)
        }
        Some(other) => Err(wrong_type(
            &fields.path_of("tool_choice"),
            "a string or an object",
            &other,
        )),
    }
}

/// A choice of functions: all that `allowed_tools` leaves the model free to call. Forcing one is not supported.
fn choose(mut choice: Fields, declared: Vec<Tool>, fields: &Fields) -> Result<Vec<Tool>, ApiError> {
    const KINDS: &[&str] = &["function", "allowed_tools"];
    let kind = (choice.word("type", KINDS, &["custom"])?).ok_or_else(|| choice.missing("type"))?;
    if kind == "function" {
        let name = function_name(&mut choice, &declared)?;
        choice.finish(&[])?;
        return Err(
            fields.unsupported_value("tool_choice", &format!("that forces a call of '{name}'"))
        );
    }
    let mut allowed = choice
        .object("allowed_tools")?
        .ok_or_else(|| choice.missing("allowed_tools"))?;
    choice.finish(&[])?;
    (allowed.word("mode", &["auto"], &["required"])?).ok_or_else(|| allowed.missing("mode"))?;
    let path = allowed.path_of("tools");
    let items = allowed
        .array("tools")?
        .ok_or_else(|| allowed.missing("tools"))?;
    allowed.finish(&[])?;
    let mut names = HashSet::new();
    for (i, item) in items.into_iter().enumerate() {
        let mut item = Fields::new(item, format!("{path}[{i}]"))?;
        (item.word("type", &["function"], &["custom"])?).ok_or_else(|| item.missing("type"))?;
        names.insert(function_name(&mut item, &declared)?);
        item.finish(&[])?;
    }
    Ok(declared
        .into_iter()
        .filter(|tool| names.contains(&tool.name))
        .collect())
}

/// Takes `function`, which names a declared one.
fn function_name(choice: &mut Fields, declared: &[Tool]) -> Result<String, ApiError> {
    let mut function = choice
        .object("function")?
        .ok_or_else(|| choice.missing("function"))?;
    let name = function.required_string("name")?;
    if !declared.iter().any(|tool| tool.name == name) {
        return Err(function.invalid("name", format!("is {}, not one of 'tools'", quote(&name))));
    }
    function.finish(&[])?;
    Ok(name)
}

fn declared(fields: &mut Fields) -> Result<Option<Vec<Tool>>, ApiError> {
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
        let tool = tool(item, &path)?;
        if !names.insert(tool.name.clone()) {
            return Err(super::fields::invalid(
                &format!("{path}.function.name"),
                format!("repeats the name {}", quote(&tool.name)),
            ));
        }
        tools.push(tool);
    }
    Ok(Some(tools))
}

fn tool(item: Value, path: &str) -> Result<Tool, ApiError> {
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
    // Clients set this by themselves (OpenAI's Agents SDK, its Python helper for Pydantic models), so it must not stop
    // them: arguments are as good as the model writes them, with or without it.
    function.boolean("strict")?;
    function.finish(&[])?;
    Ok(Tool {
        name,
        description,
        parameters,
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
