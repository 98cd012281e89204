//! `POST /v1/completions`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{prepare, read_body};
use crate::error::ApiError;
use crate::generation::{Generation, Job, RawAssembler};
use crate::openapi::errors::GenerationErrors;
use crate::reply::completions::{CompletionChunks, WholeCompletion};
use crate::reply::{Head, collect};
use crate::request_id::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::validate::completions;
use crate::wire;

/// Continues a text, or several, as they stand: no template, no reasoning, no tool calls.
///
/// With `stream`, the answer is `text/event-stream`: events `data: {Completion}` and at last `data: [DONE]`. If the request
/// fails after the first byte, the last event is `data: {"error": ...}`, without `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    tag = "OpenAI",
    request_body = wire::completions::CompletionRequest,
    responses(
        (status = 200, description = "The texts; with `stream`, as server-sent events.", content(
            (wire::completions::Completion = "application/json"),
            (wire::completions::Completion = "text/event-stream"),
        )),
        GenerationErrors,
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state.config).await?;
    let job = prepare(&state, body, read).await?;

    let stream = job.generate.stream;
    let logprobs = job.generate.sampling.logprobs.is_some();
    let generation = Generation::submit(job, &state, context, |generate| {
        Box::new(RawAssembler::new(&generate.stop_strings))
    })?;
    let head = Head::new("cmpl-", &state.config);
    let num_choices = generation.num_choices();
    if let Some(stream) = stream {
        let chunks = CompletionChunks::new(head, num_choices, logprobs, stream.include_usage);
        let metrics = state.metrics.api.clone();
        return Ok(sse::respond(
            generation,
            chunks,
            state.config.heartbeat,
            metrics,
        ));
    }
    let mut answer = WholeCompletion::new(num_choices, logprobs);
    let usage = collect(generation, &mut answer).await?;
    Ok(HttpResponse::Ok().json(answer.finish(head, usage)))
}

fn read(body: Value, state: &AppState) -> Result<Job, ApiError> {
    let request = completions::validate(body, &state.config)?;
    Job::new(request.prompts, request.generate, "prompt", state)
}
