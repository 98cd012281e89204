//! `POST /generate`, `/chat` and `/stream`: chat completions in a few fields.
//!
//! Bodies are translated to those of `/v1/chat/completions` (`validate/simple.rs`); answers are made from its answers.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::chat_completions::Prepared;
use super::{prepare, read_body};
use crate::error::ApiError;
use crate::openapi::errors::GenerationErrors;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::validate::simple;
use crate::wire::chat::{ChatChoice, ChatCompletion, ChatCompletionChunk};
use crate::wire::simple::{ChatResponse, GenerateResponse, SimpleRequest};

/// Answers a prompt or a conversation with a text.
///
/// `/v1/chat/completions` in short: one answer, its text and its reasoning.
#[utoipa::path(
    post,
    path = "/generate",
    operation_id = "generate",
    tag = "simple",
    request_body = SimpleRequest,
    responses((status = 200, description = "The answer.", body = GenerateResponse), GenerationErrors),
)]
pub(crate) async fn generate(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (answer, choice) = answer("gen-", request, payload, &state).await?;
    Ok(HttpResponse::Ok().json(GenerateResponse {
        id: answer.id,
        created: answer.created,
        model: answer.model,
        usage: answer.usage,
        text: choice.message.content.unwrap_or_default(),
        reasoning: choice.message.reasoning,
        finish_reason: choice.finish_reason,
    }))
}

/// Answers a prompt or a conversation with a message.
///
/// `/v1/chat/completions` in short: one answer, as a message to append to the conversation.
#[utoipa::path(
    post,
    path = "/chat",
    operation_id = "chat",
    tag = "simple",
    request_body = SimpleRequest,
    responses((status = 200, description = "The answer.", body = ChatResponse), GenerationErrors),
)]
pub(crate) async fn chat(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let (answer, choice) = answer("chat-", request, payload, &state).await?;
    Ok(HttpResponse::Ok().json(ChatResponse {
        id: answer.id,
        created: answer.created,
        model: answer.model,
        usage: answer.usage,
        message: choice.message,
        finish_reason: choice.finish_reason,
    }))
}

/// Answers a prompt or a conversation, piece by piece.
///
/// The stream of `/v1/chat/completions` with `stream` and `include_usage`: events `data: {ChatCompletionChunk}`, the last
/// of them with `usage`, then `data: [DONE]`. If the request fails after the first byte, the last event is
/// `data: {"error": ...}`, without `[DONE]`.
#[utoipa::path(
    post,
    path = "/stream",
    operation_id = "stream",
    tag = "simple",
    request_body = SimpleRequest,
    responses(
        (status = 200, description = "Server-sent events.", body = ChatCompletionChunk, content_type = "text/event-stream"),
        GenerationErrors,
    ),
)]
pub(crate) async fn stream(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state).await?;
    let prepared = prepare(&state, body, |body, state| read(body, true, state)).await?;
    prepared.streamed("stream-", &state, context).await
}

async fn answer(
    id_prefix: &str,
    request: HttpRequest,
    payload: Payload,
    state: &AppState,
) -> Result<(ChatCompletion, ChatChoice), ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, state).await?;
    let prepared = prepare(state, body, |body, state| read(body, false, state)).await?;
    let mut answer = prepared.whole(id_prefix, state, context).await?;
    match answer.choices.pop() {
        Some(choice) => Ok((answer, choice)),
        None => Err(ApiError::internal().with_internal("an answer without a choice")),
    }
}

/// Reads a body up to what is left to run.
pub(crate) fn read(body: Value, stream: bool, state: &AppState) -> Result<Prepared, ApiError> {
    let (request, prompt_param) = simple::validate(body, stream, &state.config)?;
    Prepared::new(request, prompt_param, state)
}
