//! The body of `POST /v1/chat/completions`.

use gossamer_harmony::{Conversation, ReasoningEffort};
use serde_json::Value;

use super::fields::{Fields, quote};
use super::{Generate, messages, model, sampling, tools};
use crate::error::ApiError;
use crate::state::ApiConfig;

/// Fields of OpenAI's and vLLM's API that are not implemented here.
pub(crate) const UNSUPPORTED: &[&str] = &[
    "allowed_token_ids",
    "audio",
    "bad_words",
    "cache_salt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "echo",
    "function_call",
    "functions",
    "grammar",
    "include_reasoning",
    "include_stop_str_in_output",
    "max_reasoning_tokens",
    "moderation",
    "prediction",
    "priority",
    "prompt_cache_retention",
    "prompt_logprobs",
    "return_token_ids",
    "skip_special_tokens",
    "structured_outputs",
    "web_search_options",
];

/// A valid request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    /// The prompt, still as text.
    pub conversation: Conversation,
    /// What to generate.
    pub generate: Generate,
}

/// Reads the body. Nothing is rendered yet.
pub(crate) fn validate(body: Value, config: &ApiConfig) -> Result<ChatRequest, ApiError> {
    let mut fields = Fields::new(body, "")?;
    model(&mut fields, config)?;
    let dialogue = messages::messages(&mut fields)?;
    let tools = tools::tools(&mut fields)?;
    let max_tokens = max_tokens(&mut fields)?;
    let logprobs = logprobs(&mut fields)?;
    let generate = sampling::generate(&mut fields, config, max_tokens, logprobs)?;
    let effort = fields
        .choice(
            "reasoning_effort",
            &[
                ("low", ReasoningEffort::Low),
                ("medium", ReasoningEffort::Medium),
                ("high", ReasoningEffort::High),
            ],
        )?
        .unwrap_or_default();
    response_format(&mut fields)?;
    modalities(&mut fields)?;
    fields.only_words("verbosity", &["medium"])?;
    fields.only_boolean("store", false)?;
    fields.only_words("service_tier", &["auto", "default"])?;
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        fields.string(name)?;
    }
    fields.object("metadata")?;
    fields.finish(UNSUPPORTED)?;
    Ok(ChatRequest {
        conversation: Conversation {
            effort,
            date: Some(config.date.today()),
            model_identity: None,
            knowledge_cutoff: None,
            instructions: dialogue.instructions,
            tools,
            turns: dialogue.turns,
        },
        generate,
    })
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

fn response_format(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(());
    };
    let kind = format.required_string("type")?;
    match kind.as_str() {
        "text" => format.finish(&[]),
        "json_object" | "json_schema" => {
            Err(fields.unsupported_value("response_format", &quote(&kind)))
        }
        _ => Err(format.invalid("type", format!("must be 'text', not {}", quote(&kind)))),
    }
}

fn modalities(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.array("modalities")? {
        Some(words) if words.iter().any(|word| word != "text") => {
            Err(fields.unsupported_value("modalities", "that is not [\"text\"]"))
        }
        _ => Ok(()),
    }
}
