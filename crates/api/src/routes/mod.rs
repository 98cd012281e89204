//! The routes: thin. Read, validate, submit, answer.
//!
//! Every path answers every method: 405 with `Allow` where there is nothing to do, and paths that do not exist answer
//! 404, both with OpenAI's error object. A `GET` route answers `HEAD` too.

pub mod chat_completions;
pub mod completions;
pub mod docs;
pub mod models;
pub mod operations;
pub mod simple;
pub mod tokens;

use actix_web::http::Method;
use actix_web::http::header;
use actix_web::web::{self, Bytes, ServiceConfig};
use actix_web::{Handler, HttpRequest, Resource, Responder};
use futures_util::StreamExt;

use crate::error::{ApiError, ErrorCode};
use crate::state::{ApiConfig, AppState};

/// Patterns of all routes: the labels of the request metrics.
pub(crate) const PATTERNS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/chat/completions/render",
    "/v1/completions",
    "/v1/models",
    "/v1/models/{model}",
    "/tokenize",
    "/detokenize",
    "/generate",
    "/chat",
    "/stream",
    "/health",
    "/ready",
    "/metrics",
    "/info",
    "/openapi.json",
    "/docs",
    "/docs/{file}",
];

/// Registers every route.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config
        .service(post("/v1/chat/completions", chat_completions::create))
        .service(post("/v1/chat/completions/render", tokens::render))
        .service(post("/v1/completions", completions::create))
        .service(get("/v1/models", models::list))
        // A model's id may contain slashes.
        .service(get("/v1/models/{model:.+}", models::retrieve))
        .service(get("/health", operations::health))
        .service(get("/ready", operations::ready))
        .service(get("/metrics", operations::metrics))
        .service(get("/info", operations::info))
        .service(post("/tokenize", tokens::tokenize))
        .service(post("/detokenize", tokens::detokenize))
        .service(post("/generate", simple::generate))
        .service(post("/chat", simple::chat))
        .service(post("/stream", simple::stream))
        .service(get("/openapi.json", docs::document))
        .service(get("/docs", docs::with_slash))
        // The page itself is the file without a name.
        .service(get("/docs/{file:[^/]*}", docs::file))
        .default_service(web::to(unknown_url));
}

/// The label of a request that matched `pattern`.
pub(crate) fn label(pattern: Option<&str>) -> &'static str {
    let Some(pattern) = pattern else {
        return "other";
    };
    let pattern = pattern.replace(":.+}", "}").replace(":[^/]*}", "}");
    PATTERNS
        .iter()
        .copied()
        .find(|known| *known == pattern)
        .unwrap_or("other")
}

fn get<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(|request: HttpRequest| {
            method_not_allowed(request, "GET, HEAD")
        }))
}

fn post<F, Args>(path: &'static str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(|request: HttpRequest| {
            method_not_allowed(request, "POST")
        }))
}

async fn method_not_allowed(
    request: HttpRequest,
    allowed: &'static str,
) -> Result<&'static str, ApiError> {
    let message = format!(
        "{} is not allowed here; {allowed} is.",
        shown(request.method())
    );
    Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow(allowed))
}

async fn unknown_url(request: HttpRequest) -> Result<&'static str, ApiError> {
    let path: String = request.path().chars().take(128).collect();
    let message = format!("Unknown request URL: {} {path}", shown(request.method()));
    Err(ApiError::new(ErrorCode::UnknownUrl, message))
}

fn shown(method: &Method) -> String {
    method.as_str().chars().take(32).collect()
}

/// Reads a JSON body: size before content.
pub(crate) async fn read_body(
    request: &HttpRequest,
    mut payload: web::Payload,
    config: &ApiConfig,
) -> Result<Bytes, ApiError> {
    check_content_type(request)?;
    let too_large = || {
        let limit = config.body_limit;
        ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("The body is larger than {limit} bytes."),
        )
    };
    let declared = (request.headers().get(header::CONTENT_LENGTH))
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > config.body_limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = web::BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| {
                ApiError::new(ErrorCode::InvalidJson, "The body could not be read.")
                    .with_internal(error.to_string())
            })?;
            if body.len() + chunk.len() > config.body_limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    match tokio::time::timeout(config.body_timeout, read).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::new(
            ErrorCode::RequestTimeout,
            "The body did not arrive in time.",
        )),
    }
}

/// Only `application/json`. Not declaring anything is not enough: a browser lets any page send such a request, and asks
/// the server first (CORS) only for types like this one.
fn check_content_type(request: &HttpRequest) -> Result<(), ApiError> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let essence =
        text(header::CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or("").trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            "The body must be sent with 'Content-Type: application/json'.",
        ));
    }
    match text(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(_) => Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            "Compressed bodies are not supported.",
        )),
    }
}

/// Runs validation and rendering of a body: here if it is small, on a thread of the blocking pool if it is not, so that a
/// long prompt does not hold up the streams of this worker.
pub(crate) async fn prepare<T: Send + 'static>(
    state: &AppState,
    body: Bytes,
    read: fn(serde_json::Value, &AppState) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    /// Bytes. English text of this size takes half a millisecond to tokenize, a single run of one letter 14 ms (measured,
    /// one core of an AMD EPYC); a megabyte of the latter takes seconds.
    const SMALL: usize = 8 * 1024;
    let small = body.len() <= SMALL;
    let state = state.clone();
    let work = move || {
        let value = crate::json::parse(&body).map_err(|error| {
            ApiError::new(
                ErrorCode::InvalidJson,
                format!("The body is not valid JSON: {error}."),
            )
        })?;
        read(value, &state)
    };
    if small {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::internal().with_internal(error.to_string())),
    }
}
