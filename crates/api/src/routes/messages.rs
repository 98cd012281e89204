//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API.
//!
//! Bodies are read into the typed request of a chat completion (`validate/anthropic`) and go its way; only the shape of the
//! answer is another. Headers: `x-api-key` is a credential (`auth`), `anthropic-version` and `anthropic-beta` may be sent
//! and change nothing.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use gossamer_harmony::render;
use serde_json::Value;

use super::chat_completions::Prepared;
use super::{prepare, read_body, tokens};
use crate::error::ApiError;
use crate::kept::Keeper;
use crate::openapi::errors::{MessagesBodyErrors, MessagesErrors};
use crate::reply::messages::{MessageEvents, WholeMessage};
use crate::reply::{Head, collect};
use crate::request_id::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::validate::anthropic;
use crate::wire::messages::{Message, MessageEvent, MessageTokensCount};
use crate::wire::messages_request::{CountMessageTokensRequest, MessagesRequest};

/// Answers a conversation, in the shape of Anthropic's Messages API.
///
/// With `stream`, the answer is `text/event-stream` with named events: `message_start`, then for each block
/// `content_block_start`, `content_block_delta` and `content_block_stop`, then `message_delta` and `message_stop`; `ping` may
/// come anywhere. If the request fails after the first byte, the last event is `error`, with the body of an error answer.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "createMessage",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, as server-sent events.", content(
            (Message = "application/json"),
            (MessageEvent = "text/event-stream"),
        )),
        MessagesErrors,
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state).await?;
    let keeper = state.keeper(context.principal());
    let (prepared, thinking) =
        prepare(&state, body, move |body, state| read(body, &keeper, state)).await?;
    let head = Head::new("msg_", &state.config);
    let streamed = prepared.is_streamed();
    let generation = prepared.run(&state, context).await?;
    let prompt_len = generation.prompt_tokens();
    if streamed {
        let events = MessageEvents::new(head, thinking, prompt_len);
        let metrics = state.metrics.api.clone();
        return Ok(sse::respond(
            generation,
            events,
            state.config.heartbeat,
            metrics,
        ));
    }
    let mut answer = WholeMessage::new(thinking);
    let usage = collect(generation, &mut answer).await?;
    Ok(HttpResponse::Ok().json(answer.finish(&head, usage)))
}

/// Reads a body up to what is left to run, and whether the reasoning is shown.
pub(crate) fn read(
    body: Value,
    keeper: &Keeper,
    state: &AppState,
) -> Result<(Prepared, anthropic::Thinking), ApiError> {
    let request = anthropic::validate(body, &state.config)?;
    let chat = request.chat.restore(keeper);
    let prepared = Prepared::new(chat, "messages", state)?.with_call_prefix("toolu_");
    Ok((prepared, request.thinking))
}

/// Counts the tokens of a prompt.
///
/// What `POST /v1/messages` would read as its prompt, without running it.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    operation_id = "countMessageTokens",
    tag = "Anthropic",
    request_body = CountMessageTokensRequest,
    responses((status = 200, description = "The count.", body = MessageTokensCount), MessagesBodyErrors),
)]
pub(crate) async fn count_tokens(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let keeper = state.keeper(RequestContext::of(&request).principal());
    tokens::answer(&request, payload, &state, move |body, state| {
        read_count(body, &keeper, state)
    })
    .await
}

/// Reads a body to the answer.
pub(crate) fn read_count(
    body: Value,
    keeper: &Keeper,
    state: &AppState,
) -> Result<MessageTokensCount, ApiError> {
    state.engine.tokens("messages")?;
    let (mut conversation, calls) = anthropic::count(body, &state.config)?;
    keeper.restore(&mut conversation.turns, &calls);
    Ok(MessageTokensCount {
        input_tokens: render(&conversation).len(),
    })
}
