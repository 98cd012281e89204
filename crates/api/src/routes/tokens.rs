//! `POST /tokenize`, `POST /detokenize` and `POST /v1/chat/completions/render`: what the model reads, without running it.
//!
//! Nothing here reaches the scheduler; it is only asked how long a sequence may be.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use gossamer_harmony::{Tokenizer, render as render_conversation};
use serde::Serialize;
use serde_json::Value;

use super::{prepare, read_body};
use crate::error::ApiError;
use crate::kept::Keeper;
use crate::openapi::errors::BodyErrors;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::validate::tokens::Source;
use crate::validate::{chat, tokens};
use crate::wire::chat_request::ChatCompletionRequest;
use crate::wire::tokens::{
    DetokenizeRequest, DetokenizeResponse, RenderedPrompt, TokenizeRequest, TokenizeResponse,
};

/// Tokens of a text or of a conversation.
///
/// `prompt` is read as `/v1/completions` reads it, `messages` as `/v1/chat/completions` does: the count is what a request
/// with them would cost.
#[utoipa::path(
    post,
    path = "/tokenize",
    operation_id = "tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens.", body = TokenizeResponse), BodyErrors),
)]
pub(crate) async fn tokenize(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    answer(&request, payload, &state, read_tokenize).await
}

/// Reads a body to the answer.
pub(crate) fn read_tokenize(body: Value, state: &AppState) -> Result<TokenizeResponse, ApiError> {
    let limit = state.engine.tokens("prompt")?.max_sequence_len();
    let request = tokens::tokenize(body, &state.config)?;
    let tokens = match request.source {
        Source::Text(text) => Tokenizer::get().encode(&text),
        Source::Conversation(conversation) => render_conversation(&conversation),
    };
    Ok(TokenizeResponse {
        count: tokens.len(),
        max_model_len: limit,
        token_strs: (request.with_strings)
            .then(|| tokens.iter().map(|&token| text(&[token])).collect()),
        tokens,
    })
}

/// Text of tokens.
///
/// The other way round: what `/tokenize` makes of a text comes back as that text.
#[utoipa::path(
    post,
    path = "/detokenize",
    operation_id = "detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "The text.", body = DetokenizeResponse), BodyErrors),
)]
pub(crate) async fn detokenize(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    answer(&request, payload, &state, read_detokenize).await
}

/// Reads a body to the answer.
pub(crate) fn read_detokenize(
    body: Value,
    state: &AppState,
) -> Result<DetokenizeResponse, ApiError> {
    state.engine.tokens("tokens")?;
    let tokens = tokens::detokenize(body, &state.config)?;
    Ok(DetokenizeResponse {
        prompt: text(&tokens),
    })
}

/// The prompt of a chat completion, as text and as tokens.
///
/// Takes the body of `/v1/chat/completions`, checks it in the same way, and shows what the model would read. Nothing is
/// generated.
#[utoipa::path(
    post,
    path = "/v1/chat/completions/render",
    operation_id = "renderChatCompletion",
    tag = "tokens",
    request_body = ChatCompletionRequest,
    responses((status = 200, description = "The prompt.", body = RenderedPrompt), BodyErrors),
)]
pub(crate) async fn render(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let keeper = state.keeper(RequestContext::of(&request).principal());
    answer(&request, payload, &state, move |body, state| {
        read_render(body, &keeper, state)
    })
    .await
}

/// Reads a body to the answer.
pub(crate) fn read_render(
    body: Value,
    keeper: &Keeper,
    state: &AppState,
) -> Result<RenderedPrompt, ApiError> {
    let limit = state.engine.tokens("messages")?.max_sequence_len();
    let request = chat::validate(body, &state.config)?.restore(keeper);
    let token_ids = render_conversation(&request.conversation);
    Ok(RenderedPrompt {
        object: "chat.completion.prompt",
        model: state.config.model.clone(),
        prompt: text(&token_ids),
        count: token_ids.len(),
        token_ids,
        max_model_len: limit,
    })
}

/// Reads the body and answers with what `made_of` it.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    request: &HttpRequest,
    payload: Payload,
    state: &AppState,
    made_of: impl FnOnce(Value, &AppState) -> Result<T, ApiError> + Send + 'static,
) -> Result<HttpResponse, ApiError> {
    let body = read_body(request, payload, state).await?;
    let answer = prepare(state, body, made_of).await?;
    Ok(HttpResponse::Ok().json(answer))
}

fn text(tokens: &[u32]) -> String {
    String::from_utf8_lossy(&Tokenizer::get().decode(tokens)).into_owned()
}
