//! The fields that chat completions and completions share: lengths, sampling, stops, streaming.

use gossamer_harmony::special::VOCAB_SIZE;
use gossamer_scheduler::{SamplingParams, Speculation};
use serde_json::Value;

use super::fields::{self, Fields, wrong_type};
use super::{Generate, StreamOptions};
use crate::error::{ApiError, ErrorCode};
use crate::state::ApiConfig;

/// OpenAI's bound on `top_logprobs`.
const MAX_TOP_LOGPROBS: i64 = 20;
/// OpenAI's bound on `stop`.
const MAX_STOP_STRINGS: usize = 4;
/// Bound on `stop_token_ids`, which are compared with every token.
const MAX_STOP_TOKENS: usize = 64;
/// Below this, dividing logits by the temperature overflows; the result is greedy's anyway.
const SMALLEST_TEMPERATURE: f32 = 1e-4;

/// Takes all shared fields but `max_tokens` and `logprobs`, whose shapes differ.
pub(super) fn generate(
    fields: &mut Fields,
    config: &ApiConfig,
    max_tokens: Option<usize>,
    logprobs: Option<u8>,
) -> Result<Generate, ApiError> {
    let max_n = config.max_choices.min(gossamer_scheduler::MAX_CHOICES);
    let n = fields.integer("n", 1..=i64::from(max_n))?.unwrap_or(1);
    let stream = stream(fields)?;
    let prompt_logprobs = alternatives(fields, "prompt_logprobs")?;
    if prompt_logprobs.is_some() && stream.is_some() {
        return Err(fields.invalid(
            "prompt_logprobs",
            "may not be given with 'stream': true; ask for the whole answer",
        ));
    }
    Ok(Generate {
        sampling: sampling(fields, logprobs)?,
        n: n as u32,
        max_tokens,
        min_tokens: fields.integer("min_tokens", 0..=i64::MAX)?.unwrap_or(0) as usize,
        stop_token_ids: stop_token_ids(fields)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        stop_strings: stop_strings(fields)?,
        stream,
        priority: fields
            .integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?
            .unwrap_or(0) as i32,
        cache_salt: cache_salt(fields)?,
        speculation: speculation(fields)?,
        prompt_logprobs,
        max_reasoning_tokens: None,
    })
}

fn cache_salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let salt = fields.string("cache_salt")?;
    match salt.as_deref() {
        Some("") => Err(ApiError::field(
            ErrorCode::EmptyString,
            fields.path_of("cache_salt"),
            "'cache_salt' must not be empty; leave it out to share the cache with everybody.",
        )),
        _ => Ok(salt),
    }
}

fn speculation(fields: &mut Fields) -> Result<Speculation, ApiError> {
    let word = fields.word("speculation", &["auto", "off"], &[])?;
    Ok(match word.as_deref() {
        Some("off") => Speculation::Off,
        _ => Speculation::Auto,
    })
}

/// Takes a field that holds a number of tokens, at least 1.
pub(super) fn token_count(fields: &mut Fields, name: &str) -> Result<Option<usize>, ApiError> {
    Ok(fields
        .integer(name, 1..=i64::MAX)?
        .map(|count| count as usize))
}

/// Takes a number of alternatives, 0 to 20.
pub(super) fn alternatives(fields: &mut Fields, name: &str) -> Result<Option<u8>, ApiError> {
    Ok(fields
        .integer(name, 0..=MAX_TOP_LOGPROBS)?
        .map(|count| count as u8))
}

fn sampling(fields: &mut Fields, logprobs: Option<u8>) -> Result<SamplingParams, ApiError> {
    let temperature = fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0);
    let mut real = |name, range, default| -> Result<f32, ApiError> {
        Ok(fields.number(name, range)?.unwrap_or(default) as f32)
    };
    Ok(SamplingParams {
        temperature: self::temperature(temperature),
        top_p: real("top_p", 0.0..=1.0, 1.0)?,
        min_p: real("min_p", 0.0..=1.0, 0.0)?,
        repetition_penalty: real("repetition_penalty", 0.01..=10.0, 1.0)?,
        presence_penalty: real("presence_penalty", -2.0..=2.0, 0.0)?,
        frequency_penalty: real("frequency_penalty", -2.0..=2.0, 0.0)?,
        // -1 is vLLM's way to say "all".
        top_k: fields
            .integer("top_k", -1..=i64::from(u32::MAX))?
            .map_or(0, |k| k.max(0) as u32),
        logit_bias: logit_bias(fields)?,
        seed: fields
            .integer("seed", i64::MIN..=i64::MAX)?
            .map_or_else(|| fastrand::u64(..), |seed| seed as u64),
        logprobs,
    })
}

/// The temperature to sample with.
pub(super) fn temperature(asked: f64) -> f32 {
    match asked as f32 {
        ..SMALLEST_TEMPERATURE => 0.0,
        temperature => temperature,
    }
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let path = fields.path_of("logit_bias");
    let entries = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong_type(&path, "an object", &other)),
    };
    entries
        .iter()
        .map(|(key, value)| {
            let token = key
                .parse::<u32>()
                .ok()
                // One spelling per token: "07" would be a second entry for 7.
                .filter(|token| (*token as usize) < VOCAB_SIZE && token.to_string() == *key)
                .ok_or_else(|| {
                    fields::invalid(
                        &path,
                        format!(
                            "has the key {}, which is not a token id below {VOCAB_SIZE}",
                            fields::quote(key)
                        ),
                    )
                })?;
            let bias = fields::number(value, &format!("{path}.{token}"), -100.0..=100.0)?;
            Ok((token, bias as f32))
        })
        .collect()
}

fn stop_token_ids(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    let path = fields.path_of("stop_token_ids");
    let ids = fields.array("stop_token_ids")?.unwrap_or_default();
    if ids.len() > MAX_STOP_TOKENS {
        return Err(too_many(&path, MAX_STOP_TOKENS, ids.len()));
    }
    token_ids(&ids, &path)
}

/// Reads token ids that stand at `path`.
pub(super) fn token_ids(ids: &[Value], path: &str) -> Result<Vec<u32>, ApiError> {
    ids.iter()
        .enumerate()
        .map(|(i, id)| {
            fields::integer(id, &format!("{path}[{i}]"), 0..=VOCAB_SIZE as i64 - 1)
                .map(|id| id as u32)
        })
        .collect()
}

fn stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let path = fields.path_of("stop");
    let values = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => vec![text],
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type(&path, "a string or an array of strings", &other)),
    };
    if values.is_empty() {
        return Err(ApiError::field(
            ErrorCode::EmptyArray,
            path.clone(),
            format!("'{path}' must hold at least one string; leave it out to have none."),
        ));
    }
    if values.len() > MAX_STOP_STRINGS {
        return Err(too_many(&path, MAX_STOP_STRINGS, values.len()));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(i, value)| match value {
            Value::String(text) if text.is_empty() => Err(ApiError::field(
                ErrorCode::EmptyString,
                path.clone(),
                format!("'{path}' must not hold an empty string."),
            )),
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&format!("{path}[{i}]"), "a string", &other)),
        })
        .collect()
}

fn stream(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let streamed = fields.boolean("stream")?.unwrap_or(false);
    let options = match fields.object("stream_options")? {
        None => StreamOptions::default(),
        Some(_) if !streamed => {
            return Err(fields.invalid("stream_options", "may only be given with 'stream': true"));
        }
        Some(mut options) => {
            let include_usage = options.boolean("include_usage")?.unwrap_or(false);
            options.only_boolean("include_obfuscation", false)?;
            let continuous_usage = options.boolean("continuous_usage_stats")?.unwrap_or(false);
            options.finish(&[])?;
            StreamOptions {
                include_usage,
                continuous_usage,
            }
        }
    };
    Ok(streamed.then_some(options))
}

pub(super) fn too_many(path: &str, max: usize, found: usize) -> ApiError {
    ApiError::field(
        ErrorCode::ArrayAboveMaxLength,
        path,
        format!("'{path}' may hold at most {max} elements, not {found}."),
    )
}
