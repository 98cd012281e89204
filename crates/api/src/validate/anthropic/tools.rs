//! `tools` and `tool_choice` of Anthropic's API.
//!
//! Only tools that the client runs: those of the API itself (web search, code execution, ...) have a `type` with a date, and
//! nobody here who would run them.

use std::collections::HashSet;

use gossamer_harmony::Tool;
use serde_json::Value;

use super::super::fields::{Fields, invalid, quote, wrong_type};
use super::super::sampling::too_many;
use super::super::tools::{Calls, Declared, check_name, told_and_callable};
use super::cache_control;
use crate::error::ApiError;

/// Bound on `tools`. The API documents none; agents with many servers of tools send a few hundred.
const MAX_TOOLS: usize = 1024;

/// Takes the fields about tools. Returns those that the model is told of (none with `tool_choice` `none`) and what it may do
/// with them.
pub(super) fn tools(fields: &mut Fields) -> Result<(Vec<Tool>, Calls), ApiError> {
    let declared = declared(fields)?;
    let Some(mut choice) = fields.object("tool_choice")? else {
        return Ok(told_and_callable(declared, false, None));
    };
    let kind = (choice.required_string("type"))?;
    let path = choice.path_of("type");
    let name = choice.string("name")?;
    choice.boolean("disable_parallel_tool_use")?;
    choice.finish(&[])?;
    if declared.is_empty() {
        return Err(fields.invalid("tool_choice", "may only be given with 'tools'"));
    }
    if name.is_some() && kind != "tool" {
        return Err(invalid(
            &fields.path_of("tool_choice.name"),
            "may only be given with 'type': 'tool'",
        ));
    }
    match kind.as_str() {
        "auto" => Ok(told_and_callable(declared, false, None)),
        // A tool that the model has not read about is one that it does not call.
        "none" => Ok((Vec::new(), Calls::default())),
        "any" => Ok(told_and_callable(declared, true, None)),
        "tool" => match name {
            None => Err(fields.missing("tool_choice.name")),
            Some(name) if declared.iter().any(|known| known.tool.name == name) => {
                Ok(told_and_callable(declared, true, Some(&name)))
            }
            Some(name) => Err(invalid(
                &fields.path_of("tool_choice.name"),
                format!("is {}, not one of 'tools'", quote(&name)),
            )),
        },
        other => Err(invalid(
            &path,
            format!(
                "must be 'auto', 'any', 'tool' or 'none', not {}",
                quote(other)
            ),
        )),
    }
}

fn declared(fields: &mut Fields) -> Result<Vec<Declared>, ApiError> {
    let path = fields.path_of("tools");
    let items = fields.array("tools")?.unwrap_or_default();
    if items.len() > MAX_TOOLS {
        return Err(too_many(&path, MAX_TOOLS, items.len()));
    }
    let mut names = HashSet::new();
    let mut tools = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let known = tool(item, &path)?;
        if !names.insert(known.tool.name.clone()) {
            return Err(invalid(
                &format!("{path}.name"),
                format!("repeats the name {}", quote(&known.tool.name)),
            ));
        }
        tools.push(known);
    }
    Ok(tools)
}

fn tool(item: Value, path: &str) -> Result<Declared, ApiError> {
    let mut tool = Fields::new(item, path)?;
    if let Some(kind) = tool.string("type")?
        && kind != "custom"
    {
        return Err(tool.unsupported_value("type", &quote(&kind)));
    }
    let name = tool.required_string("name")?;
    check_name(&name, &tool.path_of("name"))?;
    let description = tool.string("description")?;
    let parameters = match tool.take("input_schema") {
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => {
            return Err(wrong_type(
                &tool.path_of("input_schema"),
                "an object",
                &other,
            ));
        }
        None => return Err(tool.missing("input_schema")),
    };
    let param = tool.path_of("input_schema");
    let strict = tool.boolean("strict")?.unwrap_or(false);
    tool.boolean("eager_input_streaming")?;
    tool.only_boolean("defer_loading", false)?;
    cache_control(&mut tool)?;
    tool.finish(&["allowed_callers", "input_examples"])?;
    Ok(Declared {
        tool: Tool {
            name,
            description: description.filter(|text| !text.is_empty()),
            parameters: Some(parameters),
        },
        strict,
        param,
    })
}
