//! `tools` and `tool_choice` of a response, in the shape of a chat completion's.
//!
//! Functions may stand in namespaces (Codex declares its own so, and those of MCP servers). The model has one space of names,
//! so it knows such a function as `namespace__function`; clients get and send the two apart.
//! `web_search`, which Codex declares to every server, is accepted and not offered to the model: it never calls it, and the
//! response does not show it. All other tools that are no functions are refused by name.
//! Invariant: an error names the field that the client sent, wherever its function stands among those of the chat completion.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::fields::{Fields, invalid, quote};
use super::tools::check_name;
use crate::error::ApiError;

/// Tools of OpenAI's API that are no functions.
const OTHER_TOOLS: &[&str] = &[
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "custom",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
];

/// Fields of a function that are not implemented here.
const UNSUPPORTED: &[&str] = &["allowed_callers", "async", "defer_loading", "output_schema"];

/// Longest name of a function that the model is told of.
const MAX_NAME: usize = 64;

/// Of what the model calls by one name: the namespace and the function's name in it.
pub(crate) type Namespaces = HashMap<String, (String, String)>;

/// The name by which the model knows a function of a namespace.
pub(crate) fn joined_name(namespace: &str, name: &str) -> String {
    format!("{namespace}__{name}")
}

/// What `tools` declares.
#[derive(Default)]
pub(super) struct Declared {
    /// As the response shows it.
    pub shown: Vec<Value>,
    /// Where each function that the model is told of stands in the client's body, and the function.
    functions: Vec<(String, Value)>,
    /// Those of namespaces.
    pub namespaces: Namespaces,
}

impl Declared {
    /// Takes `tools`.
    pub fn new(fields: &mut Fields) -> Result<Self, ApiError> {
        let path = fields.path_of("tools");
        let mut declared = Self::default();
        let items = fields.array("tools")?.unwrap_or_default();
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            let mut tool = Fields::new(item, path.as_str())?;
            let kinds = &["function", "namespace", "web_search"];
            let kind =
                (tool.word("type", kinds, OTHER_TOOLS)?).ok_or_else(|| tool.missing("type"))?;
            match kind.as_str() {
                "namespace" => declared.namespace(tool, &path)?,
                // Its fields say how to search.
                "web_search" => {}
                _ => {
                    let function = function(tool)?;
                    declared.shown.push(function.clone());
                    declared.functions.push((path, function));
                }
            }
        }
        Ok(declared)
    }

    fn namespace(&mut self, mut tool: Fields, path: &str) -> Result<(), ApiError> {
        let namespace = tool.required_string("name")?;
        check_name(&namespace, &tool.path_of("name"))?;
        let mut description = tool.string("description")?;
        let items = (tool.array("tools")?).ok_or_else(|| tool.missing("tools"))?;
        tool.finish(&[])?;
        let shown_description = description.clone();
        let mut shown = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}.tools[{i}]");
            let mut tool = Fields::new(item, path.as_str())?;
            (tool.word("type", &["function"], OTHER_TOOLS)?).ok_or_else(|| tool.missing("type"))?;
            let mut function = function(tool)?;
            shown.push(function.clone());
            let name = function["name"].as_str().unwrap_or_default().to_owned();
            let own_path = format!("{path}.name");
            check_name(&name, &own_path)?;
            let joined = joined_name(&namespace, &name);
            if joined.len() > MAX_NAME {
                let complaint = format!(
                    "must be short enough for {} to have at most {MAX_NAME} characters",
                    quote(&joined)
                );
                return Err(invalid(&own_path, complaint));
            }
            function["name"] = joined.as_str().into();
            // The model is told what the namespace is for where it reads of its first function.
            if let Some(of_all) = description.take().filter(|text| !text.is_empty())
                && (function["description"].is_string() || function["description"].is_null())
            {
                let own = function["description"].as_str().unwrap_or_default();
                let separator = if own.is_empty() { "" } else { "\n\n" };
                function["description"] = format!("{of_all}{separator}{own}").into();
            }
            self.namespaces.insert(joined, (namespace.clone(), name));
            self.functions.push((path, function));
        }
        self.shown.push(json!({
            "type": "namespace", "name": namespace, "description": shown_description.unwrap_or_default(), "tools": shown,
        }));
        Ok(())
    }

    /// Nothing that the model could call.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// As a chat completion has them.
    pub fn chat_tools(&self) -> Option<Value> {
        let chat = |(_, function): &(String, Value)| {
            let mut function = function.clone();
            if let Some(map) = function.as_object_mut() {
                map.remove("type");
            }
            json!({"type": "function", "function": function})
        };
        (!self.is_empty()).then(|| self.functions.iter().map(chat).collect())
    }

    /// What stands in the client's body where a chat completion has `path`, if that is a function or a part of one.
    pub fn own_path(&self, path: &str) -> Option<String> {
        let (index, rest) = path.strip_prefix("tools[")?.split_once(']')?;
        let (own, _) = self.functions.get(index.parse::<usize>().ok()?)?;
        let rest = rest.strip_prefix(".function").unwrap_or(rest);
        Some(format!("{own}{rest}"))
    }
}

/// A function, as the response shows it. `type` was taken.
fn function(mut tool: Fields) -> Result<Value, ApiError> {
    let name = tool.required_string("name")?;
    let (description, parameters) = (tool.take("description"), tool.take("parameters"));
    let strict = tool.take("strict");
    tool.finish(UNSUPPORTED)?;
    Ok(json!({
        "type": "function", "name": name, "description": description, "parameters": parameters, "strict": strict,
    }))
}

/// The choice in the shape of chat completions, where names stand one level deeper.
pub(super) fn chat_choice(
    choice: Option<&Value>,
    fields: &Fields,
) -> Result<Option<Value>, ApiError> {
    let Some(Value::Object(given)) = choice else {
        return Ok(choice.cloned());
    };
    let named = |map: &Map<String, Value>| {
        let mut function = map.clone();
        let kind = function.remove("type");
        let mut outer = Map::from_iter(kind.map(|kind| ("type".to_owned(), kind)));
        outer.insert("function".into(), Value::Object(function));
        Value::Object(outer)
    };
    match given.get("type").and_then(Value::as_str) {
        Some(kind) if kind == "web_search" || OTHER_TOOLS.contains(&kind) => {
            Err(fields.unsupported_value("tool_choice", &format!("of type {}", quote(kind))))
        }
        Some("allowed_tools") => {
            let mut allowed = given.clone();
            allowed.remove("type");
            if let Some(Value::Array(tools)) = allowed.get_mut("tools") {
                for tool in tools {
                    if let Value::Object(map) = tool {
                        *tool = named(map);
                    }
                }
            }
            Ok(Some(
                json!({"type": "allowed_tools", "allowed_tools": allowed}),
            ))
        }
        _ => Ok(Some(named(given))),
    }
}
