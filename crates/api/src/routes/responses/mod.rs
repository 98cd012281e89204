//! `POST /v1/responses`; what can be done with a response afterwards is in `stored`.
//!
//! A translation: the body becomes the request that a chat completion is too ([`Prepared`]), and goes the same way. What is
//! different stands around it: the conversation that it continues, what is kept of it, and that it may go on by itself.

mod live;
mod run;
pub mod stored;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use gossamer_harmony::{Conversation, render};
use serde_json::Value;

pub(crate) use live::Responses;

use super::chat_completions::Prepared;
use super::{off_thread, read_body};
use crate::error::{ApiError, ErrorCode};
use crate::generation::Messages;
use crate::kept::Keeper;
use crate::openapi::errors::ResponseErrors;
use crate::request_id::RequestContext;
use crate::state::AppState;
use crate::store::{Chain, Link, StoreError};
use crate::validate::fields::{invalid, quote};
use crate::validate::response_tools::Namespaces;
use crate::validate::responses::{self, ResponseRequest};
use crate::wire::responses::answer::Response;
use crate::wire::responses::event::ResponseStreamEvent;
use crate::wire::responses::{CreateResponse, Truncation};
use run::{Keep, Run};

/// Name of the field, for errors about it.
const PREVIOUS: &str = "previous_response_id";

/// Answers a conversation with items: what the model thought, said and called.
///
/// With `stream`, the answer is `text/event-stream`: events with a name and `data: {ResponseStreamEvent}`, numbered from 0.
/// The last one is `response.completed`, `response.incomplete` or `response.failed`; there is no `[DONE]`.
///
/// A response with `store` is kept when its last event is sent. With `background`, the answer comes at once, and the
/// response goes on without the client: fetch it by its id, or, if it has `stream` too, read its stream again.
#[utoipa::path(
    post,
    path = "/v1/responses",
    operation_id = "createResponse",
    tag = "responses",
    request_body = CreateResponse,
    responses(
        (status = 200, description = "The response; with `stream`, as server-sent events.", content(
            (Response = "application/json"),
            (ResponseStreamEvent = "text/event-stream"),
        )),
        ResponseErrors,
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let owner = context.principal();
    let body = read_body(&request, payload, &state).await?;
    let (len, effort) = (body.len(), body.effort());
    let (value, body) = off_thread(len, move || Ok((body.json()?, body))).await?;
    let history = match value.get(PREVIOUS) {
        Some(Value::String(id)) => history(&state, &owner, id).await?,
        // The validation says what is wrong with others.
        _ => Vec::new(),
    };
    let bytes = effort.saturating_add(history.iter().map(Link::len).sum());
    let app = AppState::clone(&state);
    let keeper = state.keeper(context.principal());
    let Ready {
        prepared,
        response,
        input,
        streamed,
        namespaces,
    } = off_thread(bytes, move || {
        let ready = Ready::new(value, history, &keeper, &app);
        // The body's share of the memory is held until here.
        drop(body);
        ready
    })
    .await?;

    let keep = response.store.then(|| Keep {
        owner: context.principal(),
        input: run::json(&input),
    });
    let background = response.background;
    if background {
        context.outlive_answer();
    }
    let prepared = prepared.with_messages(Messages::Apart);
    let generation = prepared.run(&state, context).await?;
    let run = Run::new(generation, response, namespaces, keep, &state);
    if background {
        return live::start(run, owner, streamed, &state).await;
    }
    if streamed {
        return Ok(run.streamed(state.config.heartbeat));
    }
    Ok(HttpResponse::Ok().json(run.whole().await?))
}

/// A valid request, rendered and known to fit.
pub(crate) struct Ready {
    prepared: Prepared,
    response: Response,
    input: Vec<Value>,
    streamed: bool,
    namespaces: Namespaces,
}

impl Ready {
    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prepared.prompt_len()
    }

    /// Reads a body, behind the conversation that it continues.
    pub fn new(
        body: Value,
        history: Vec<Link>,
        keeper: &Keeper,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let items = items(history)?;
        let can_store = state.responses.store.is_on();
        let ResponseRequest {
            chat,
            response,
            input,
            streamed,
            namespaces,
        } = responses::validate(body, items, can_store, &state.config)?;
        let mut chat = chat.restore(keeper);
        if response.truncation == Truncation::Auto {
            let answer = chat.generate.max_tokens.unwrap_or(1);
            let limit = state.engine.tokens("truncation")?.max_sequence_len();
            shorten(&mut chat.conversation, limit.saturating_sub(answer));
        }
        Ok(Self {
            prepared: Prepared::new(chat, "input", state)?,
            response,
            input,
            streamed,
            namespaces,
        })
    }
}

/// The conversation that `id` ends.
async fn history(state: &AppState, owner: &str, id: &str) -> Result<Vec<Link>, ApiError> {
    let missing = |id: &str| {
        let message = format!("Previous response with id {} not found.", quote(id));
        Err(ApiError::field(
            ErrorCode::PreviousResponseNotFound,
            PREVIOUS,
            message,
        ))
    };
    let unfinished = |status: &str| {
        let complaint = format!(
            "is a response that is '{status}'; only one that the model has ended can be continued"
        );
        Err(invalid(PREVIOUS, complaint))
    };
    let responses = &state.responses;
    if responses.live(owner, id).is_some() {
        return unfinished("in_progress");
    }
    if !responses.store.is_on() {
        return missing(id);
    }
    // What could not be sent in one body cannot be put together from several either.
    let limit = state.config.body_limit;
    let chain = responses.store.chain(owner, id, limit).await?;
    match chain {
        Chain::Missing(id) => missing(&id),
        Chain::TooLong => Err(invalid(
            PREVIOUS,
            format!(
                "is the end of a conversation of more than {limit} bytes, the most that a request may have"
            ),
        )),
        Chain::Found(links) => match links.last() {
            Some(last) if !["completed", "incomplete"].contains(&last.status.as_str()) => {
                unfinished(&last.status)
            }
            _ => Ok(links),
        },
    }
}

/// The items of a conversation, oldest first.
fn items(links: Vec<Link>) -> Result<Vec<Value>, ApiError> {
    let mut items = Vec::new();
    for link in links {
        let (input, output) = link.items()?;
        items.extend(input);
        // A call that was cut was never made: nobody can answer it.
        let cut = |item: &Value| item["type"] == "function_call" && item["status"] == "incomplete";
        items.extend(output.into_iter().filter(|item| !cut(item)));
    }
    Ok(items)
}

impl Link {
    /// Bytes.
    fn len(&self) -> usize {
        self.input.len() + self.response.len()
    }

    /// Input and output items.
    fn items(&self) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
        let broken = |error: serde_json::Error| {
            ApiError::internal().with_internal(format!("a kept response is not JSON: {error}"))
        };
        let input = serde_json::from_str(&self.input).map_err(broken)?;
        let mut response: Value = serde_json::from_str(&self.response).map_err(broken)?;
        match response["output"].take() {
            Value::Array(output) => Ok((input, output)),
            _ => Ok((input, Vec::new())),
        }
    }
}

/// Drops the oldest turns of a conversation until its prompt has at most `limit` tokens, or one turn is left.
fn shorten(conversation: &mut Conversation, limit: usize) {
    let num_turns = conversation.turns.len();
    let all = std::mem::take(&mut conversation.turns);
    let mut fits = |dropped: usize| {
        conversation.turns = all[dropped..].to_vec();
        render(conversation).len() <= limit
    };
    if fits(0) {
        return;
    }
    // The fewest turns to drop. A prompt never becomes longer by dropping one but for reasoning that comes back when the
    // answer behind it is dropped, and that is dropped before.
    let (mut too_few, mut enough) = (0, num_turns.saturating_sub(1));
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if fits(middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    conversation.turns = all[enough..].to_vec();
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(
            ErrorCode::Internal,
            "The store of responses does not work at the moment.",
        )
        .with_internal(error.to_string())
    }
}
