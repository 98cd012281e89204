//! The body of `POST /v1/responses`: its own fields read here, those that chat completions have too read as theirs.
//!
//! So a field has one meaning, one check and one way to the scheduler, under whichever name it came.
//! Invariant: an error names the field that the client sent, not the one that it was translated to.

use serde_json::{Map, Value, json};

use super::chat::{self, ChatRequest};
use super::fields::{Fields, quote, wrong_type};
use super::items::ItemReader;
use super::model;
use super::response_tools::{Declared, Namespaces, chat_choice};
use crate::error::ApiError;
use crate::request_id::random_id;
use crate::state::{ApiConfig, unix_seconds};
use crate::wire::responses::Truncation;
use crate::wire::responses::answer::{ReasoningShown, Response, ResponseStatus};

/// Fields of OpenAI's API that are not implemented here.
pub(crate) const UNSUPPORTED: &[&str] = &[
    "access_programs",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "moderation",
    "prompt",
    "prompt_cache_options",
];

/// Fields that go over as they stand.
const SAME: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "priority",
    "cache_salt",
    "speculation",
    "max_reasoning_tokens",
    "stream",
    "stream_options",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "metadata",
];

/// Beginnings of paths in a chat completion's body, and what stands there in a response's.
const RENAMED: &[(&str, &str)] = &[
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("tool_choice.function", "tool_choice"),
    ("tool_choice.allowed_tools", "tool_choice"),
];

/// Words of `include` that ask for what this server does not have.
const OTHER_INCLUDES: &[&str] = &[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// A valid request.
#[derive(Debug)]
pub(crate) struct ResponseRequest {
    /// What to generate, and from what.
    pub chat: ChatRequest,
    /// The response as it begins.
    pub response: Response,
    /// Its own input items.
    pub input: Vec<Value>,
    /// The client wants to read it as it comes.
    pub streamed: bool,
    /// Functions that the client knows by two names.
    pub namespaces: Namespaces,
}

/// Reads the body. `history` holds the items of what it continues; `can_store` says whether responses are kept at all.
pub(crate) fn validate(
    body: Value,
    history: Vec<Value>,
    can_store: bool,
    config: &ApiConfig,
) -> Result<ResponseRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    model(&mut fields, config)?;
    let instructions = fields.string("instructions")?;
    let previous = fields.string("previous_response_id")?;
    let mut items = ItemReader::new(instructions.clone());
    for (i, item) in history.into_iter().enumerate() {
        items.read(item, format!("previous_response_id[{i}]"))?;
    }
    let input = items.input(&mut fields)?;
    let dialogue = items.finish()?;

    let mut chat: Map<String, Value> = (SAME.iter())
        .filter_map(|name| Some(((*name).to_owned(), fields.take(name)?)))
        .collect();
    let mut put = |name: &str, value: Option<Value>| {
        chat.extend(value.map(|value| (name.to_owned(), value)));
    };
    let tools = Declared::new(&mut fields)?;
    let tool_choice = fields.take("tool_choice");
    let parallel = fields.boolean("parallel_tool_calls")?;
    // SDKs send these without tools too; without tools they mean nothing.
    let is_word = |choice: &Value| choice == "auto" || choice == "none";
    if !tools.is_empty() || !tool_choice.as_ref().is_none_or(is_word) {
        put("tool_choice", chat_choice(tool_choice.as_ref(), &fields)?);
    }
    put("tools", tools.chat_tools());
    let (effort, summary) = reasoning(&mut fields)?;
    put("reasoning_effort", effort.clone());
    let (format, verbosity) = text(&mut fields)?;
    put("response_format", format.clone().map(chat_format));
    put("verbosity", verbosity);
    let max_output_tokens = fields.take("max_output_tokens");
    put("max_completion_tokens", max_output_tokens.clone());
    let top_logprobs = fields.integer("top_logprobs", 0..=20)?;
    if include(&mut fields)? {
        put("logprobs", Some(true.into()));
        put("top_logprobs", top_logprobs.map(Into::into));
    }

    let max_tool_calls = fields.integer("max_tool_calls", 1..=i64::MAX)?;
    fields.object("client_metadata")?;
    let truncation = match fields
        .word("truncation", &["auto", "disabled"], &[])?
        .as_deref()
    {
        Some("auto") => Truncation::Auto,
        _ => Truncation::Disabled,
    };
    let store = store(&mut fields, can_store)?;
    let background = fields.boolean("background")?.unwrap_or(false);
    if background && !store {
        return Err(fields.invalid(
            "background",
            "may only be true for a response that is stored: nobody could fetch it",
        ));
    }
    let shown = chat.clone();
    let request = chat::with_dialogue(Fields::new(Value::Object(chat), "")?, dialogue, config)
        .map_err(|error| error.renamed(|path| tools.own_path(path).or_else(|| own_path(path))))?;
    fields.finish(UNSUPPORTED)?;

    let as_text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let number = |name| shown.get(name).and_then(Value::as_f64);
    let streamed = request.generate.stream.is_some();
    let response = Response {
        id: random_id("resp_"),
        object: "response",
        created_at: unix_seconds(),
        access_programs: None,
        status: if background {
            ResponseStatus::Queued
        } else {
            ResponseStatus::InProgress
        },
        completed_at: None,
        background,
        error: None,
        incomplete_details: None,
        instructions,
        max_output_tokens: request
            .generate
            .max_tokens
            .filter(|_| max_output_tokens.is_some()),
        max_tool_calls: max_tool_calls.map(|count| count as usize),
        model: config.model.clone(),
        output: Vec::new(),
        parallel_tool_calls: parallel.unwrap_or(true),
        previous_response_id: previous,
        prompt_cache_key: as_text(shown.get("prompt_cache_key")),
        reasoning: ReasoningShown {
            effort: as_text(effort.as_ref()).unwrap_or_else(|| "medium".to_owned()),
            summary,
        },
        safety_identifier: as_text(shown.get("safety_identifier")),
        service_tier: "default",
        store,
        temperature: number("temperature").unwrap_or(1.0),
        text: json!({
            "format": format.unwrap_or_else(|| json!({"type": "text"})),
            "verbosity": "medium",
        }),
        tool_choice: tool_choice.unwrap_or_else(|| "auto".into()),
        tools: tools.shown,
        top_logprobs: top_logprobs.unwrap_or(0) as u8,
        top_p: number("top_p").unwrap_or(1.0),
        truncation,
        usage: None,
        user: as_text(shown.get("user")),
        metadata: match shown.get("metadata") {
            Some(Value::Object(entries)) => entries.clone(),
            _ => Map::new(),
        },
    };
    Ok(ResponseRequest {
        chat: request,
        response,
        input,
        streamed,
        namespaces: tools.namespaces,
    })
}

/// What stands in the client's body where a chat completion has `path`.
fn own_path(path: &str) -> Option<String> {
    let after = |from: &str| path.strip_prefix(from).filter(|rest| is_boundary(rest));
    (RENAMED.iter())
        .find_map(|(from, to)| Some((to, after(from)?)))
        // Names of functions stand one level deeper in a chat completion.
        .map(|(to, rest)| format!("{to}{}", rest.replace("].function", "]")))
}

fn is_boundary(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['.', '['])
}

fn store(fields: &mut Fields, can_store: bool) -> Result<bool, ApiError> {
    match fields.boolean("store")? {
        Some(true) if !can_store => Err(fields.unsupported_value("store", "true")),
        given => Ok(given.unwrap_or(can_store)),
    }
}

/// The form in the shape of chat completions, where a schema and its name stand one level deeper.
fn chat_format(format: Value) -> Value {
    match format {
        Value::Object(mut map) if map.get("type").is_some_and(|kind| kind == "json_schema") => {
            map.remove("type");
            json!({"type": "json_schema", "json_schema": map})
        }
        format => format,
    }
}

/// Takes `reasoning`: effort and kind of summary.
fn reasoning(fields: &mut Fields) -> Result<(Option<Value>, Option<String>), ApiError> {
    const SUMMARIES: &[&str] = &["auto", "concise", "detailed", "none"];
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok((None, None));
    };
    let effort = reasoning.take("effort");
    let summary = reasoning.word("summary", SUMMARIES, &[])?;
    let older = reasoning.word("generate_summary", SUMMARIES, &[])?;
    reasoning.finish(&["context", "mode"])?;
    Ok((effort, summary.or(older).filter(|word| word != "none")))
}

/// Takes `text`: form and verbosity.
fn text(fields: &mut Fields) -> Result<(Option<Value>, Option<Value>), ApiError> {
    let Some(mut text) = fields.object("text")? else {
        return Ok((None, None));
    };
    let found = (text.take("format"), text.take("verbosity"));
    text.finish(&[])?;
    Ok(found)
}

/// Takes `include`; whether log-probabilities are asked for.
fn include(fields: &mut Fields) -> Result<bool, ApiError> {
    let path = fields.path_of("include");
    let mut logprobs = false;
    for (i, word) in fields
        .array("include")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let path = format!("{path}[{i}]");
        match word {
            Value::String(word) if word == "message.output_text.logprobs" => logprobs = true,
            Value::String(word) if word == "reasoning.encrypted_content" => {}
            Value::String(word) if OTHER_INCLUDES.contains(&word.as_str()) => {
                return Err(super::fields::unsupported_value(&path, &quote(word)));
            }
            Value::String(word) => {
                let complaint = format!("is {}, which is nothing to include", quote(word));
                return Err(super::fields::invalid(&path, complaint));
            }
            other => return Err(wrong_type(&path, "a string", other)),
        }
    }
    Ok(logprobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_back_to_what_the_client_sent() {
        for (chat, own) in [
            ("max_completion_tokens", "max_output_tokens"),
            ("reasoning_effort", "reasoning.effort"),
            ("response_format.json_schema.schema", "text.format.schema"),
            ("response_format.type", "text.format.type"),
            ("tool_choice.function.name", "tool_choice.name"),
            (
                "tool_choice.allowed_tools.tools[1].function.name",
                "tool_choice.tools[1].name",
            ),
            ("tool_choice.allowed_tools.mode", "tool_choice.mode"),
        ] {
            assert_eq!(own_path(chat).as_deref(), Some(own), "{chat}");
        }
        for same in [
            "temperature",
            "tools",
            "tools[3]",
            "tool_choice",
            "verbosity_x",
        ] {
            assert_eq!(own_path(same), None, "{same}");
        }
    }
}
