//! For those who run the server: `/health`, `/ready`, `/metrics`, `/info`.

use actix_web::HttpResponse;
use actix_web::web::Data;
use gossamer_metrics::Metrics;

use crate::error::{ApiError, ErrorCode};
use crate::openapi::errors::{NotReady, ServerErrors};
use crate::state::AppState;
use crate::wire::models::{Info, Status};

/// Whether the process answers at all.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "operations",
    responses((status = 200, description = "It does.", body = Status), ServerErrors),
)]
pub(crate) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Status { status: "ok" })
}

/// Whether a request can be expected to be answered: the model has produced a token, has not failed since, and the server
/// is not shutting down.
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "ready",
    tag = "operations",
    responses(
        (status = 200, description = "It can.", body = Status),
        NotReady,
    ),
)]
pub(crate) async fn ready(state: Data<AppState>) -> Result<HttpResponse, ApiError> {
    if state.engine.is_ready() {
        return Ok(HttpResponse::Ok().json(Status { status: "ready" }));
    }
    Err(ApiError::new(
        ErrorCode::NotReady,
        "The model has not produced a token yet, or cannot any more.",
    )
    .with_retry_after(state.config.retry_after))
}

/// Prometheus metrics.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operations",
    responses(
        (status = 200, description = "Text format 0.0.4.", body = String, content_type = "text/plain"),
        ServerErrors,
    ),
)]
pub(crate) async fn metrics(state: Data<AppState>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(Metrics::CONTENT_TYPE)
        .body(state.metrics.render())
}

/// What is loaded, and how busy it is.
#[utoipa::path(
    get,
    path = "/info",
    operation_id = "info",
    tag = "operations",
    responses((status = 200, description = "Facts.", body = Info), ServerErrors),
)]
pub(crate) async fn info(state: Data<AppState>) -> HttpResponse {
    let engine = &state.engine;
    let stats = engine.stats();
    HttpResponse::Ok().json(Info {
        server: (*state.info).clone(),
        max_sequence_len: engine.max_sequence_len(),
        kv_cache_tokens: (engine.capacity()).map(|capacity| capacity.longest_sequence(1)),
        ready: engine.is_ready(),
        running: stats.running,
        waiting: stats.waiting,
        uptime_seconds: state.started.elapsed().as_secs(),
    })
}
