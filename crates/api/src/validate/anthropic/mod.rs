//! The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`: read into the request of a chat completion.
//!
//! There is one typed request and one way from it to the scheduler; this is another door to it. What the API has and a
//! single text model behind it has not (images, tools that the server runs, containers) is refused by name.
//! Invariant: an error names the field that the client sent.
//!
//! Thinking is what does not translate one to one. The model always thinks; `thinking` decides how long, by its budget, and
//! whether it is shown: a client that has not asked for thinking does not know what to do with it.

mod blocks;
mod tools;

use gossamer_harmony::{Conversation, GrammarSource, ReasoningEffort, ResponseFormat};
use gossamer_scheduler::{SamplingParams, Speculation};
use serde_json::Value;

use super::chat::ChatRequest;
use super::fields::{Fields, invalid, quote, wrong_type};
use super::outputs::{Held, Outputs};
use super::{Generate, StreamOptions, model, sampling};
use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;

/// Fields of Anthropic's API that are not implemented here.
const UNSUPPORTED: &[&str] = &[
    "container",
    "diagnostics",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "output_format",
];

/// Bound on `stop_sequences`, which are looked for in every piece of text.
const MAX_STOP_SEQUENCES: usize = 64;
/// Anthropic's bound.
const LEAST_BUDGET: i64 = 1024;
/// Budgets below this are little thinking, those from [`MUCH`] on much.
const SOME: i64 = 4096;
const MUCH: i64 = 16_384;

/// A valid request.
#[derive(Debug)]
pub(crate) struct MessagesRequest {
    /// What to do.
    pub chat: ChatRequest,
    /// What to show of the reasoning.
    pub thinking: Thinking,
}

/// Which turns made calls, with the id of each one's first.
type Calls = Vec<(usize, String)>;

/// What an answer shows of the reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// Nothing.
    Hidden,
    /// That there was some.
    Omitted,
    /// All of it.
    Shown,
}

/// What `thinking` says.
struct Plan {
    shown: Thinking,
    /// Unless `output_config` says otherwise.
    effort: ReasoningEffort,
    budget: Option<usize>,
}

/// Reads the body of a request for an answer.
pub(crate) fn validate(body: Value, config: &ApiConfig) -> Result<MessagesRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    let Prompt {
        conversation,
        calls,
        outputs,
        plan,
    } = prompt(&mut fields, config)?;
    let max_tokens = (fields.integer("max_tokens", 0..=i64::MAX)?)
        .ok_or_else(|| fields.missing("max_tokens"))?;
    let generate = Generate {
        sampling: sampling(&mut fields)?,
        n: 1,
        max_tokens: Some(max_tokens as usize),
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: false,
        stop_strings: stop_sequences(&mut fields)?,
        stream: (fields.boolean("stream")?.unwrap_or(false)).then(StreamOptions::default),
        priority: 0,
        cache_salt: None,
        speculation: Speculation::Auto,
        prompt_logprobs: None,
        max_reasoning_tokens: plan.budget,
    };
    if let Some(mut metadata) = fields.object("metadata")? {
        metadata.string("user_id")?;
        metadata.finish(&[])?;
    }
    fields.word("service_tier", &["auto", "standard_only"], &[])?;
    fields.finish(UNSUPPORTED)?;
    Ok(MessagesRequest {
        chat: ChatRequest {
            outputs,
            conversation,
            calls,
            generate,
            include_reasoning: plan.shown == Thinking::Shown,
            names_tier: false,
        },
        thinking: plan.shown,
    })
}

/// Reads the body of a request to count the prompt's tokens.
pub(crate) fn count(body: Value, config: &ApiConfig) -> Result<(Conversation, Calls), ApiError> {
    let mut fields = Fields::new(body, "")?;
    let prompt = prompt(&mut fields, config)?;
    fields.finish(UNSUPPORTED)?;
    Ok((prompt.conversation, prompt.calls))
}

/// What the requests for an answer and for a count have in common.
struct Prompt {
    conversation: Conversation,
    calls: Calls,
    /// What the answer to it is held to.
    outputs: Outputs,
    plan: Plan,
}

/// Takes all that decides about the prompt.
fn prompt(fields: &mut Fields, config: &ApiConfig) -> Result<Prompt, ApiError> {
    model(fields, config)?;
    let system = blocks::system(fields)?;
    let dialogue = blocks::messages(fields, system)?;
    let (tools, callable) = tools::tools(fields)?;
    let plan = thinking(fields)?;
    let OutputConfig {
        effort,
        answer,
        shown,
    } = output_config(fields)?;
    cache_control(fields)?;
    context_management(fields)?;
    fields.word("speed", &["standard"], &["fast"])?;
    fields.string("user_profile_id")?;
    let conversation = Conversation {
        effort: effort.unwrap_or(plan.effort),
        date: Some(config.date.today()),
        model_identity: None,
        knowledge_cutoff: None,
        instructions: dialogue.instructions,
        tools,
        response_format: shown,
        turns: dialogue.turns,
    };
    Ok(Prompt {
        conversation,
        calls: dialogue.calls,
        outputs: Outputs {
            answer,
            functions: callable.functions,
            must_call: callable.must_call,
            headers: config.constrain_headers || callable.must_call,
        },
        plan,
    })
}

fn sampling(fields: &mut Fields) -> Result<SamplingParams, ApiError> {
    let temperature = fields.number("temperature", 0.0..=1.0)?.unwrap_or(1.0);
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
    let top_k = fields.integer("top_k", 0..=i64::from(u32::MAX))?;
    Ok(SamplingParams {
        temperature: sampling::temperature(temperature),
        top_p: top_p as f32,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        top_k: top_k.map_or(0, |k| k as u32),
        logit_bias: Vec::new(),
        seed: fastrand::u64(..),
        logprobs: None,
    })
}

fn stop_sequences(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path_of("stop_sequences");
    let values = fields.array("stop_sequences")?.unwrap_or_default();
    if values.len() > MAX_STOP_SEQUENCES {
        return Err(sampling::too_many(&path, MAX_STOP_SEQUENCES, values.len()));
    }
    (values.into_iter().enumerate())
        .map(|(i, value)| match value {
            Value::String(text) if text.is_empty() => Err(ApiError::field(
                ErrorCode::EmptyString,
                format!("{path}[{i}]"),
                format!("'{path}[{i}]' must not be empty."),
            )),
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&format!("{path}[{i}]"), "a string", &other)),
        })
        .collect()
}

fn thinking(fields: &mut Fields) -> Result<Plan, ApiError> {
    let Some(mut thinking) = fields.object("thinking")? else {
        return Ok(Plan {
            shown: Thinking::Hidden,
            effort: ReasoningEffort::Medium,
            budget: None,
        });
    };
    let kind = thinking
        .word(
            "type",
            &["enabled", "adaptive", "disabled"],
            &["between_tools"],
        )?
        .ok_or_else(|| thinking.missing("type"))?;
    if kind == "disabled" {
        thinking.finish(&[])?;
        return Ok(Plan {
            shown: Thinking::Hidden,
            effort: ReasoningEffort::Low,
            budget: None,
        });
    }
    let shown = match thinking
        .word("display", &["summarized", "omitted"], &[])?
        .as_deref()
    {
        Some("omitted") => Thinking::Omitted,
        _ => Thinking::Shown,
    };
    let (effort, budget) = if kind == "enabled" {
        let budget = (thinking.integer("budget_tokens", LEAST_BUDGET..=i64::MAX)?)
            .ok_or_else(|| thinking.missing("budget_tokens"))?;
        let effort = match budget {
            ..SOME => ReasoningEffort::Low,
            SOME..MUCH => ReasoningEffort::Medium,
            _ => ReasoningEffort::High,
        };
        (effort, Some(budget as usize))
    } else {
        (ReasoningEffort::Medium, None)
    };
    thinking.finish(&[])?;
    Ok(Plan {
        shown,
        effort,
        budget,
    })
}

/// What `output_config` says.
#[derive(Default)]
struct OutputConfig {
    effort: Option<ReasoningEffort>,
    /// What the answer is held to.
    answer: Option<Held>,
    /// What the model is told of that.
    shown: Option<ResponseFormat>,
}

/// How the model is told of a form that has no name.
const FORMAT_NAME: &str = "output";

/// Takes `output_config`.
fn output_config(fields: &mut Fields) -> Result<OutputConfig, ApiError> {
    let Some(mut output) = fields.object("output_config")? else {
        return Ok(OutputConfig::default());
    };
    let effort = output.word("effort", &["low", "medium", "high", "xhigh", "max"], &[])?;
    let effort = effort.map(|word| match word.as_str() {
        "low" => ReasoningEffort::Low,
        "medium" => ReasoningEffort::Medium,
        // The API calls it a signal and not a bound, so more than the most is the most.
        _ => ReasoningEffort::High,
    });
    let schema = match output.object("format")? {
        None => None,
        Some(mut format) => {
            (format.word("type", &["json_schema"], &[])?).ok_or_else(|| format.missing("type"))?;
            let param = format.path_of("schema");
            let schema = match format.take("schema") {
                Some(schema @ Value::Object(_)) => schema,
                Some(other) => return Err(wrong_type(&param, "an object", &other)),
                None => return Err(format.missing("schema")),
            };
            format.finish(&[])?;
            Some((schema, param))
        }
    };
    output.finish(&["task_budget"])?;
    let shown = schema.as_ref().map(|(schema, _)| ResponseFormat {
        name: FORMAT_NAME.to_owned(),
        description: None,
        schema: schema.clone(),
    });
    let answer = schema.map(|(schema, param)| Held {
        source: GrammarSource::JsonSchema(schema),
        param,
    });
    Ok(OutputConfig {
        effort,
        answer,
        shown,
    })
}

/// Takes `cache_control`, which has no effect: whatever prefix is in the cache is used.
fn cache_control(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut control) = fields.object("cache_control")? else {
        return Ok(());
    };
    (control.word("type", &["ephemeral"], &[])?).ok_or_else(|| control.missing("type"))?;
    control.word("ttl", &["5m", "1h"], &[])?;
    control.finish(&[])
}

/// Takes `context_management`. Coding agents send an edit that keeps all thinking; what the model does not need of it, the
/// format leaves out by itself.
fn context_management(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut management) = fields.object("context_management")? else {
        return Ok(());
    };
    let path = management.path_of("edits");
    let edits = management.array("edits")?.unwrap_or_default();
    management.finish(&[])?;
    for (i, edit) in edits.into_iter().enumerate() {
        let mut edit = Fields::new(edit, format!("{path}[{i}]"))?;
        edit.word(
            "type",
            &["clear_thinking_20251015"],
            &["clear_tool_uses_20250919", "compact_20260112"],
        )?
        .ok_or_else(|| edit.missing("type"))?;
        let all = match edit.take("keep") {
            Some(Value::String(word)) => word == "all",
            Some(Value::Object(keep)) => keep.get("type").and_then(Value::as_str) == Some("all"),
            _ => false,
        };
        if !all {
            return Err(edit.unsupported_value("keep", "other than 'all'"));
        }
        edit.finish(&[])?;
    }
    Ok(())
}

/// The error for a kind of block that is not read here.
fn other_block(block: &Fields, kind: &str, implemented: &[&str]) -> ApiError {
    let path = block.path_of("type");
    if blocks::KINDS.contains(&kind) {
        return super::fields::unsupported_value(&path, &quote(kind));
    }
    let words: Vec<String> = implemented.iter().map(|word| format!("'{word}'")).collect();
    invalid(
        &path,
        format!("must be {}, not {}", words.join(" or "), quote(kind)),
    )
}
