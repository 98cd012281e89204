//! A request's body: how much, of which type, how fast; then JSON, off the thread of the streams if it is long.
//!
//! Order: type and declared length before the first byte, length again while it comes, then content.
//! Knows no fields. Invariant: all bodies that are held at one moment, over all connections, stay under one bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::HttpRequest;
use actix_web::http::header;
use actix_web::web::{self, Bytes, BytesMut};
use futures_util::StreamExt;

use crate::connection::Activity;
use crate::error::{ApiError, ErrorCode};
use crate::json;
use crate::request_id::RequestContext;
use crate::state::{ApiConfig, AppState};

/// A body that was read, and its share of the memory for bodies.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Bytes,
    /// Given back when the body is.
    _share: Share,
}

impl Body {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What [`off_thread`] is to think of validating it: its bytes, but more than any if there may be a grammar to compile.
    pub fn effort(&self) -> usize {
        match may_hold_a_grammar(&self.bytes) {
            true => usize::MAX,
            false => self.len(),
        }
    }

    /// Reads it as JSON.
    pub fn json(&self) -> Result<serde_json::Value, ApiError> {
        json::read(&self.bytes)
    }
}

/// Bytes that are held by bodies, over all connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyMemory(Arc<AtomicUsize>);

#[derive(Debug)]
struct Share {
    memory: BodyMemory,
    bytes: usize,
}

impl BodyMemory {
    fn share(&self) -> Share {
        Share {
            memory: self.clone(),
            bytes: 0,
        }
    }
}

impl Share {
    /// Whether there is room for so many more under `limit`; they are taken if so.
    fn grow(&mut self, more: usize, limit: usize) -> bool {
        let held = &self.memory.0;
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(more).filter(|held| *held <= limit)
        });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body that must be JSON by its declared type.
///
/// # Errors
/// 415 for another type or encoding, 413 over the limit, 408 if it takes too long, 503 if all bodies together are too much,
/// 400 if it ends early or its chunks are malformed.
pub(crate) async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    state: &AppState,
) -> Result<Body, ApiError> {
    let config = &state.config;
    check_content_type(request)?;
    let declared = (request.headers().get(header::CONTENT_LENGTH))
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    if declared.is_some_and(|len| len > config.body_limit as u64) {
        return Err(too_large(config));
    }
    if let Some(activity) = Activity::of(request) {
        activity.want_body();
    }
    // Without either the body is empty; the dispatcher disagrees when the client asks for an upgrade.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let len = declared.or((!chunked).then_some(0));
    let read = collect(payload, len, state);
    let body = tokio::time::timeout(config.body_timeout, read)
        .await
        .map_err(|_| {
            let limit = config.body_timeout.as_millis();
            ApiError::new(
                ErrorCode::RequestTimeout,
                format!("The body did not arrive within {limit} ms."),
            )
        })??;
    RequestContext::of(request).note_body_read();
    Ok(body)
}

async fn collect(
    mut payload: web::Payload,
    len: Option<u64>,
    state: &AppState,
) -> Result<Body, ApiError> {
    let config = &state.config;
    let mut share = state.bodies.share();
    let mut bytes = BytesMut::new();
    while len.is_none_or(|len| (bytes.len() as u64) < len) {
        let Some(chunk) = payload.next().await else {
            break;
        };
        let chunk = chunk.map_err(|error| {
            ApiError::new(
                ErrorCode::MalformedRequest,
                "The body ended before its declared end, or its chunks are malformed.",
            )
            .with_internal(error.to_string())
        })?;
        if bytes.len() + chunk.len() > config.body_limit {
            return Err(too_large(config));
        }
        if !share.grow(chunk.len(), config.body_memory) {
            return Err(ApiError::new(
                ErrorCode::Overloaded,
                "Too many large requests are being read at the same time. Try again later.",
            )
            .with_retry_after(config.retry_after));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body {
        bytes: bytes.freeze(),
        _share: share,
    })
}

fn too_large(config: &ApiConfig) -> ApiError {
    let limit = config.body_limit;
    ApiError::new(
        ErrorCode::PayloadTooLarge,
        format!("The body is larger than {limit} bytes."),
    )
}

/// Only `application/json`, in UTF-8. Not declaring anything is not enough: a browser lets any page send such a request, and
/// asks the server first (CORS) only for types like this one.
fn check_content_type(request: &HttpRequest) -> Result<(), ApiError> {
    let refuse = |message: &'static str| {
        let error = ApiError::new(ErrorCode::UnsupportedMediaType, message);
        Err(error)
    };
    let headers = request.headers();
    let mut types = headers.get_all(header::CONTENT_TYPE);
    let text = match (types.next(), types.next()) {
        (Some(value), None) => value.to_str().unwrap_or(""),
        _ => "",
    };
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or("");
    if !essence.eq_ignore_ascii_case("application/json") {
        return refuse("The body must be sent with 'Content-Type: application/json'.");
    }
    let utf8 = |charset: &str| charset.trim_matches('"').eq_ignore_ascii_case("utf-8");
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        if name.eq_ignore_ascii_case("charset") && !utf8(value) {
            return refuse("The body must be sent in UTF-8, without another charset.");
        }
    }
    let plain = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).all(plain) {
        return refuse("Compressed bodies are not supported.");
    }
    Ok(())
}

/// Runs validation and rendering of a body: here if it is small, on a thread of the blocking pool if it is not, so that a
/// long prompt does not hold up the streams of this worker.
pub(crate) async fn prepare<T: Send + 'static>(
    state: &AppState,
    body: Body,
    read: impl FnOnce(serde_json::Value, &AppState) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (effort, state) = (body.effort(), state.clone());
    // The body, and its share of the memory, live until this is done.
    off_thread(effort, move || read(body.json()?, &state)).await
}

/// Runs what takes long if there are many bytes: then on a thread of the blocking pool.
pub(crate) async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    /// Bytes. English text of this size takes half a millisecond to tokenize, a single run of one letter 14 ms (measured,
    /// one core of an AMD EPYC); a megabyte of the latter takes seconds.
    const SMALL: usize = 8 * 1024;
    if bytes <= SMALL {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal().with_internal(error.to_string())),
    }
}

/// Whether there may be a grammar to compile, which takes milliseconds. A word that says so elsewhere costs a change of
/// threads, nothing else.
fn may_hold_a_grammar(body: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [
        b"schema",
        b"json_object",
        b"guided_",
        b"structured_outputs",
        b"tool_choice",
        b"strict",
    ];
    WORDS
        .iter()
        .any(|word| body.windows(word.len()).any(|window| window == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_under_the_limit_and_are_given_back() {
        let memory = BodyMemory::default();
        let (mut a, mut b) = (memory.share(), memory.share());
        assert!(a.grow(60, 100) && b.grow(40, 100));
        assert!(!b.grow(1, 100));
        assert!(!b.grow(usize::MAX, 100));
        drop(a);
        assert!(b.grow(60, 100));
        drop(b);
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }
}
