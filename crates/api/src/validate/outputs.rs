//! What an answer or a call's arguments are held to: `response_format`, vLLM's `guided_*` and `structured_outputs`, and the
//! parameters of functions.
//!
//! Reads; nothing is compiled here. Invariant: a request holds its answer to one thing at most.

use gossamer_harmony::{GrammarSource, ResponseFormat};
use serde_json::{Value, json};

use super::fields::{Fields, invalid, quote, wrong_type};
use super::tools::{Calls, check_name};
use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;

/// Most texts of a choice.
const MAX_CHOICES: usize = 1024;

/// What a turn is held to.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    /// What the answer must be.
    pub answer: Option<Held>,
    /// Functions that may be called, and what their arguments must be.
    pub functions: Vec<(String, Option<Held>)>,
    /// The turn ends in a call.
    pub must_call: bool,
    /// Headers are held to their form.
    pub headers: bool,
}

/// What a text is held to.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The grammar.
    pub source: GrammarSource,
    /// The field that it stands in, for errors.
    pub param: String,
}

impl Held {
    /// Whether the text is JSON.
    pub fn is_json(&self) -> bool {
        matches!(
            self.source,
            GrammarSource::JsonSchema(_) | GrammarSource::JsonObject
        )
    }
}

/// Takes all fields about the form of the answer, beside what `calls` says about calls. Also returns what the model is told
/// of that form.
pub(super) fn outputs(
    fields: &mut Fields,
    calls: Calls,
    config: &ApiConfig,
) -> Result<(Outputs, Option<ResponseFormat>), ApiError> {
    let (format, shown) = response_format(fields)?;
    let mut found: Vec<(&str, Held)> = Vec::new();
    found.extend(format.map(|held| ("response_format", held)));
    for (name, kind) in [
        ("guided_json", Kind::Json),
        ("guided_regex", Kind::Regex),
        ("guided_choice", Kind::Choice),
        ("guided_grammar", Kind::Grammar),
    ] {
        found.extend(guide(fields, name, kind)?.map(|held| (name, held)));
    }
    let structured = structured_outputs(fields)?;
    found.extend(structured.map(|held| ("structured_outputs", held)));
    if let [(first, _), (second, _), ..] = &found[..] {
        return Err(fields.invalid(
            second,
            format!("and '{first}' both say what the answer must be; give only one of them"),
        ));
    }
    let wanted = fields.boolean("constrain_headers")?;
    if wanted == Some(false) && calls.must_call {
        return Err(fields.invalid(
            "constrain_headers",
            "must not be false where 'tool_choice' forces a call",
        ));
    }
    let outputs = Outputs {
        answer: found.pop().map(|(_, held)| held),
        functions: calls.functions,
        must_call: calls.must_call,
        headers: wanted.unwrap_or(config.constrain_headers),
    };
    Ok((outputs, shown))
}

type Format = (Option<Held>, Option<ResponseFormat>);

fn response_format(fields: &mut Fields) -> Result<Format, ApiError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok((None, None));
    };
    let kind = format.required_string("type")?;
    let found = match kind.as_str() {
        "text" => (None, None),
        "json_object" => {
            let held = Held {
                source: GrammarSource::JsonObject,
                param: format.path_of("type"),
            };
            (Some(held), None)
        }
        "json_schema" => json_schema(&mut format)?,
        _ => {
            return Err(format.invalid(
                "type",
                format!(
                    "must be 'text', 'json_object' or 'json_schema', not {}",
                    quote(&kind)
                ),
            ));
        }
    };
    format.finish(&[])?;
    Ok(found)
}

/// The longest description of a format that OpenAI's API takes is not documented; this is more than any.
const MAX_DESCRIPTION: usize = 16_384;

fn json_schema(format: &mut Fields) -> Result<Format, ApiError> {
    let mut named = (format.object("json_schema")?).ok_or_else(|| format.missing("json_schema"))?;
    let name = named.required_string("name")?;
    check_name(&name, &named.path_of("name"))?;
    let description = named.short_string("description", MAX_DESCRIPTION)?;
    let param = named.path_of("schema");
    let schema = match named.take("schema") {
        None => None,
        Some(schema @ Value::Object(_)) => Some(schema),
        Some(other) => return Err(wrong_type(&param, "an object", &other)),
    };
    // The schema holds in any case: a laxer way to follow it there is none.
    named.boolean("strict")?;
    named.finish(&[])?;
    let source = match &schema {
        Some(schema) => GrammarSource::JsonSchema(schema.clone()),
        None => GrammarSource::JsonObject,
    };
    let shown = schema.map(|schema| ResponseFormat {
        name,
        description,
        schema,
    });
    Ok((Some(Held { source, param }), shown))
}

/// vLLM's ways to say what a text must be.
#[derive(Clone, Copy)]
enum Kind {
    Json,
    Regex,
    Choice,
    Grammar,
}

fn guide(fields: &mut Fields, name: &str, kind: Kind) -> Result<Option<Held>, ApiError> {
    let param = fields.path_of(name);
    let source = match kind {
        Kind::Json => match fields.take(name) {
            None => return Ok(None),
            Some(schema @ Value::Object(_)) => GrammarSource::JsonSchema(schema),
            // As vLLM takes it: the schema as a text.
            Some(Value::String(text)) => match serde_json::from_str(&text) {
                Ok(schema @ Value::Object(_)) => GrammarSource::JsonSchema(schema),
                _ => return Err(invalid(&param, "must hold a JSON schema, an object")),
            },
            Some(other) => return Err(wrong_type(&param, "an object or a string", &other)),
        },
        Kind::Choice => match fields.array(name)? {
            None => return Ok(None),
            Some(texts) => GrammarSource::Choice(choices(texts, &param)?),
        },
        Kind::Regex | Kind::Grammar => match fields.string(name)? {
            None => return Ok(None),
            Some(text) if text.is_empty() => {
                return Err(ApiError::field(
                    ErrorCode::EmptyString,
                    param.clone(),
                    format!("'{param}' must not be empty."),
                ));
            }
            Some(text) if matches!(kind, Kind::Regex) => GrammarSource::Regex(text),
            Some(text) => GrammarSource::Lark(text),
        },
    };
    Ok(Some(Held { source, param }))
}

fn choices(texts: Vec<Value>, param: &str) -> Result<Vec<String>, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            param,
            format!("'{param}' must hold at least one string."),
        ));
    }
    if texts.len() > MAX_CHOICES {
        return Err(super::sampling::too_many(param, MAX_CHOICES, texts.len()));
    }
    let text = |(i, text): (usize, Value)| match text {
        Value::String(text) if text.is_empty() => Err(ApiError::field(
            ErrorCode::EmptyString,
            format!("{param}[{i}]"),
            format!("'{param}[{i}]' must not be empty."),
        )),
        Value::String(text) => Ok(text),
        other => Err(wrong_type(&format!("{param}[{i}]"), "a string", &other)),
    };
    texts.into_iter().enumerate().map(text).collect()
}

fn structured_outputs(fields: &mut Fields) -> Result<Option<Held>, ApiError> {
    let Some(mut wanted) = fields.object("structured_outputs")? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for (name, kind) in [
        ("json", Kind::Json),
        ("regex", Kind::Regex),
        ("choice", Kind::Choice),
        ("grammar", Kind::Grammar),
    ] {
        found.extend(guide(&mut wanted, name, kind)?);
    }
    if wanted.boolean("json_object")? == Some(true) {
        found.push(Held {
            source: GrammarSource::JsonObject,
            param: wanted.path_of("json_object"),
        });
    }
    wanted.finish(&[
        "disable_additional_properties",
        "disable_any_whitespace",
        "disable_fallback",
        "structural_tag",
        "whitespace_pattern",
    ])?;
    match found.len() {
        1 => Ok(found.pop()),
        count => Err(fields.invalid(
            "structured_outputs",
            format!(
                "must have one of 'json', 'regex', 'choice', 'grammar' and 'json_object', not {count} of them"
            ),
        )),
    }
}

/// What the arguments of a function are held to. `parameters` is its schema; without one it takes no arguments.
pub(super) fn arguments(parameters: Option<&Value>, param: String) -> Held {
    let schema = match parameters {
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(schema) => {
            let mut schema = schema.clone();
            // Arguments are an object, whether the schema says so or not.
            if let Value::Object(keywords) = &mut schema
                && !["type", "$ref", "anyOf", "oneOf", "allOf"]
                    .iter()
                    .any(|keyword| keywords.contains_key(*keyword))
            {
                keywords.insert("type".to_owned(), "object".into());
            }
            schema
        }
    };
    Held {
        source: GrammarSource::JsonSchema(schema),
        param,
    }
}
