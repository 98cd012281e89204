//! The body of `POST /v1/chat/completions`.

use gossamer_harmony::{Conversation, ReasoningEffort};
use serde_json::Value;

use super::fields::{Fields, check_length, invalid, quote, wrong_type};
use super::messages::{self, Dialogue};
use super::outputs::{self, Outputs};
use super::{Generate, model, sampling, tools};
use crate::error::{ApiError, ErrorCode};
use crate::kept::Keeper;
use crate::state::ApiConfig;

/// Fields of OpenAI's and vLLM's API that are not implemented here.
pub(crate) const UNSUPPORTED: &[&str] = &[
    "allowed_token_ids",
    "audio",
    "bad_words",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "function_call",
    "functions",
    "grammar",
    "include_stop_str_in_output",
    "length_penalty",
    "logits_processors",
    "mm_processor_kwargs",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "use_beam_search",
    "web_search_options",
];

/// A valid request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    /// The prompt, still as text.
    pub conversation: Conversation,
    /// Which of its turns made calls, with the id of each one's first.
    pub calls: Vec<(usize, String)>,
    /// What to generate.
    pub generate: Generate,
    /// The client wants to see the reasoning.
    pub include_reasoning: bool,
    /// The client has asked for a service tier, so the answer names the one it was served by.
    pub names_tier: bool,
    /// What the answer and calls are held to.
    pub outputs: Outputs,
}

impl ChatRequest {
    /// Puts back what the client has forgotten of the turns that led to its tool calls.
    pub fn restore(mut self, keeper: &Keeper) -> Self {
        keeper.restore(&mut self.conversation.turns, &self.calls);
        self
    }
}

/// OpenAI's bounds on `metadata`.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
/// OpenAI's bound on `safety_identifier`, as its SDK's documentation has it.
const MAX_IDENTIFIER: usize = 128;

/// Reads the body. Nothing is rendered yet.
pub(crate) fn validate(body: Value, config: &ApiConfig) -> Result<ChatRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    model(&mut fields, config)?;
    let dialogue = messages::messages(&mut fields)?;
    with_dialogue(fields, dialogue, config)
}

/// Reads a body whose model and messages were read already.
pub(super) fn with_dialogue(
    mut fields: Fields,
    dialogue: Dialogue,
    config: &ApiConfig,
) -> Result<ChatRequest, ApiError> {
    let (tools, calls) = tools::tools(&mut fields)?;
    let (outputs, response_format) = outputs::outputs(&mut fields, calls, config)?;
    let max_tokens = max_tokens(&mut fields)?;
    let logprobs = logprobs(&mut fields)?;
    let mut generate = sampling::generate(&mut fields, config, max_tokens, logprobs)?;
    generate.max_reasoning_tokens =
        (fields.integer("max_reasoning_tokens", 0..=i64::MAX)?).map(|count| count as usize);
    let include_reasoning = fields.boolean("include_reasoning")?.unwrap_or(true);
    let effort = effort(&mut fields)?;
    modalities(&mut fields)?;
    fields.word("verbosity", &["medium"], &["low", "high"])?;
    fields.only_boolean("store", false)?;
    let tier = fields.word(
        "service_tier",
        &["auto", "default"],
        &["flex", "scale", "priority", "fast"],
    )?;
    fields.word("prompt_cache_retention", &["in_memory"], &["24h"])?;
    for name in ["user", "prompt_cache_key"] {
        fields.string(name)?;
    }
    fields.short_string("safety_identifier", MAX_IDENTIFIER)?;
    metadata(&mut fields)?;
    fields.finish(UNSUPPORTED)?;
    Ok(ChatRequest {
        conversation: Conversation {
            effort,
            date: Some(config.date.today()),
            model_identity: None,
            knowledge_cutoff: None,
            instructions: dialogue.instructions,
            tools,
            response_format,
            turns: dialogue.turns,
        },
        calls: dialogue.calls,
        generate,
        include_reasoning,
        names_tier: tier.is_some(),
        outputs,
    })
}

/// The model knows three levels. The other words of the API are not rounded to one of them: they mean something else.
fn effort(fields: &mut Fields) -> Result<ReasoningEffort, ApiError> {
    let word = fields.word(
        "reasoning_effort",
        &["low", "medium", "high"],
        &["none", "minimal", "xhigh", "max"],
    )?;
    Ok(match word.as_deref() {
        Some("low") => ReasoningEffort::Low,
        Some("high") => ReasoningEffort::High,
        _ => ReasoningEffort::Medium,
    })
}

fn metadata(fields: &mut Fields) -> Result<(), ApiError> {
    let (max_entries, max_key, max_value) = MAX_METADATA;
    let path = fields.path_of("metadata");
    let entries = match fields.take("metadata") {
        None => return Ok(()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong_type(&path, "an object", &other)),
    };
    if entries.len() > max_entries {
        return Err(ApiError::field(
            ErrorCode::ObjectAboveMaxProperties,
            path.clone(),
            format!(
                "'{path}' may have at most {max_entries} entries, not {}.",
                entries.len()
            ),
        ));
    }
    for (key, value) in &entries {
        check_length(key, &path, max_key)?;
        let path = format!("{path}.{key}");
        match value {
            Value::String(text) => check_length(text, &path, max_value)?,
            other => return Err(wrong_type(&path, "a string", other)),
        }
    }
    Ok(())
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = sampling::token_count(fields, "max_tokens")?;
    let new = sampling::token_count(fields, "max_completion_tokens")?;
    if old.is_some() && new.is_some() {
        return Err(fields.invalid(
            "max_tokens",
            "and 'max_completion_tokens' mean the same; give only one of them",
        ));
    }
    Ok(new.or(old))
}

fn logprobs(fields: &mut Fields) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let alternatives = sampling::alternatives(fields, "top_logprobs")?;
    match (wanted, alternatives) {
        (true, alternatives) => Ok(Some(alternatives.unwrap_or(0))),
        (false, None) => Ok(None),
        (false, Some(_)) => {
            Err(fields.invalid("top_logprobs", "may only be given with 'logprobs': true"))
        }
    }
}

fn modalities(fields: &mut Fields) -> Result<(), ApiError> {
    let path = fields.path_of("modalities");
    let words = fields.array("modalities")?.unwrap_or_default();
    for (i, word) in words.iter().enumerate() {
        let path = format!("{path}[{i}]");
        match word {
            Value::String(word) if word == "text" => {}
            Value::String(word) if word == "audio" => {
                return Err(fields.unsupported_value("modalities", "'audio'"));
            }
            Value::String(word) => {
                return Err(invalid(
                    &path,
                    format!("must be 'text' or 'audio', not {}", quote(word)),
                ));
            }
            other => return Err(wrong_type(&path, "a string", other)),
        }
    }
    Ok(())
}
