//! The routes: thin. Read, validate, submit, answer.
//!
//! Every path answers every method: 405 with `Allow` where there is nothing to do, and paths that do not exist answer
//! 404, both with an error object. A `GET` route answers `HEAD` too, and every route says to `OPTIONS` what it allows.

mod body;
pub mod chat_completions;
pub mod completions;
pub mod docs;
pub mod messages;
pub mod models;
pub mod operations;
pub mod responses;
pub mod simple;
pub mod tokens;

use actix_web::http::Method;
use actix_web::http::header;
use actix_web::web::{self, ServiceConfig};
use actix_web::{Handler, HttpRequest, HttpResponse, Resource, Responder};

pub(crate) use body::{BodyMemory, off_thread, prepare, read_body};

use crate::auth::{Access, Scope};
use crate::error::{ApiError, ErrorCode};

/// Every route: its pattern, which is also its label in the metrics, and who may use it. A route that is registered and not
/// in this table is closed to everybody.
#[rustfmt::skip] // One route a line: this is a table.
pub(crate) const ROUTES: &[(&str, Access)] = &[
    ("/v1/chat/completions", Access::Scope(Scope::Inference)),
    ("/v1/chat/completions/render", Access::Scope(Scope::Inference)),
    ("/v1/completions", Access::Scope(Scope::Inference)),
    ("/v1/responses", Access::Scope(Scope::Inference)),
    ("/v1/responses/{response}", Access::Unmetered(Scope::Inference)),
    ("/v1/responses/{response}/input_items", Access::Unmetered(Scope::Inference)),
    ("/v1/responses/{response}/cancel", Access::Unmetered(Scope::Inference)),
    ("/v1/messages", Access::Scope(Scope::Inference)),
    ("/v1/messages/count_tokens", Access::Scope(Scope::Inference)),
    ("/v1/models", Access::Scope(Scope::Models)),
    ("/v1/models/{model}", Access::Scope(Scope::Models)),
    ("/tokenize", Access::Scope(Scope::Inference)),
    ("/detokenize", Access::Scope(Scope::Inference)),
    ("/generate", Access::Scope(Scope::Inference)),
    ("/chat", Access::Scope(Scope::Inference)),
    ("/stream", Access::Scope(Scope::Inference)),
    ("/health", Access::Open),
    ("/ready", Access::Scope(Scope::Status)),
    ("/info", Access::Scope(Scope::Status)),
    ("/metrics", Access::Scope(Scope::Metrics)),
    ("/openapi.json", Access::Scope(Scope::Docs)),
    ("/docs", Access::Scope(Scope::Docs)),
    ("/docs/{file}", Access::Scope(Scope::Docs)),
];

/// Registers every route.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config
        .service(post("/v1/chat/completions", chat_completions::create))
        .service(post("/v1/chat/completions/render", tokens::render))
        .service(post("/v1/completions", completions::create))
        .service(post("/v1/responses", responses::create))
        .service(responses::stored::resource("/v1/responses/{response}"))
        .service(get(
            "/v1/responses/{response}/input_items",
            responses::stored::input_items,
        ))
        .service(post(
            "/v1/responses/{response}/cancel",
            responses::stored::cancel,
        ))
        .service(post("/v1/messages", messages::create))
        .service(post("/v1/messages/count_tokens", messages::count_tokens))
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
    pattern.and_then(row).map_or("other", |(label, _)| label)
}

/// Who may use what a request matched; `None` is nobody. Where nothing is, only who has a credential is told so.
pub(crate) fn access(pattern: Option<&str>) -> Option<Access> {
    match pattern {
        None => Some(Access::Credential),
        Some(pattern) => row(pattern).map(|(_, access)| access),
    }
}

fn row(pattern: &str) -> Option<(&'static str, Access)> {
    let pattern = pattern.replace(":.+}", "}").replace(":[^/]*}", "}");
    ROUTES.iter().copied().find(|(known, _)| *known == pattern)
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
            another_method(request, "GET, HEAD, OPTIONS")
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
            another_method(request, "POST, OPTIONS")
        }))
}

/// `OPTIONS`, or a method that the route does not have.
pub(super) async fn another_method(
    request: HttpRequest,
    allowed: &'static str,
) -> Result<HttpResponse, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(options(allowed));
    }
    let message = format!(
        "{} is not allowed here; {allowed} is.",
        shown(request.method())
    );
    Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow(allowed))
}

fn options(allowed: &'static str) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ALLOW, allowed))
        .finish()
}

async fn unknown_url(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    // `OPTIONS *` asks the server, not a route.
    if request.method() == Method::OPTIONS && request.path() == "*" {
        return Ok(options("GET, HEAD, POST, OPTIONS"));
    }
    let path: String = request.path().chars().take(128).collect();
    let message = format!("Unknown request URL: {} {path}", shown(request.method()));
    Err(ApiError::new(ErrorCode::UnknownUrl, message))
}

fn shown(method: &Method) -> String {
    method.as_str().chars().take(32).collect()
}
