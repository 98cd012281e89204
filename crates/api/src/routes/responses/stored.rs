//! `/v1/responses/{response}`: fetch, read again, list the input, cancel, delete.
//!
//! A response is live (`live`) or kept (`store`), and belongs to whoever made it: to everybody else it does not exist.

use actix_web::web::{self, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse, Resource};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::another_method;
use crate::error::{ApiError, ErrorCode};
use crate::openapi::errors::{ResponseQueryErrors, UnknownResponse};
use crate::request_id::RequestContext;
use crate::sse::{self, Frames};
use crate::state::AppState;
use crate::store::{Chain, Stored};
use crate::validate::fields::{Fields, invalid, quote};
use crate::wire::responses::answer::{DeletedResponse, InputItemList, Response};
use crate::wire::responses::event::ResponseStreamEvent;

/// The resource of one response.
pub(crate) fn resource(path: &'static str) -> Resource {
    web::resource(path)
        .route(web::get().to(retrieve))
        .route(web::head().to(retrieve))
        .route(web::delete().to(delete))
        .default_service(web::to(|request: HttpRequest| {
            another_method(request, "GET, HEAD, DELETE, OPTIONS")
        }))
}

/// A response as it is now.
///
/// With `stream`, the stream of a response that was made with `background` and `stream`, from its beginning or behind the
/// event `starting_after`, and on to its end.
#[utoipa::path(
    get,
    path = "/v1/responses/{response}",
    operation_id = "retrieveResponse",
    tag = "responses",
    params(
        ("response" = String, Path, description = "Id of a response."),
        ("stream" = Option<bool>, Query, description = "Read its stream."),
        ("starting_after" = Option<u64>, Query, description = "With `stream`: the number of the last event that is known."),
    ),
    responses(
        (status = 200, description = "The response; with `stream`, as server-sent events.", content(
            (Response = "application/json"),
            (ResponseStreamEvent = "text/event-stream"),
        )),
        ResponseQueryErrors,
    ),
)]
pub(crate) async fn retrieve(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let stream = query.boolean("stream")?.unwrap_or(false);
    let after = query.integer("starting_after", 0..=i64::MAX)?;
    if after.is_some() && !stream {
        return Err(query.invalid("starting_after", "may only be given with 'stream'=true"));
    }
    query.only_boolean("include_obfuscation", false)?;
    include(&mut query);
    query.finish(&[])?;
    let from = after.map_or(0, |after| after as usize + 1);
    let no_stream = || {
        let complaint =
            "may only be true for a response that was made with 'background' and 'stream'";
        Err(invalid("stream", complaint))
    };
    let owner = RequestContext::of(&request).principal();
    if let Some(live) = state.responses.live(&owner, &id) {
        return match stream {
            false => Ok(json_answer(live.response())),
            true if live.is_streamed() => Ok(live.stream(from, state.config.heartbeat)),
            true => no_stream(),
        };
    }
    let Stored { response, events } = find(&state, &owner, &id).await?;
    match (stream, events) {
        (false, _) => Ok(json_answer(response)),
        (true, Some(events)) => replay(&events, from),
        (true, None) => no_stream(),
    }
}

/// The items that the model was given for a response, those of the conversation that it continues included.
#[utoipa::path(
    get,
    path = "/v1/responses/{response}/input_items",
    operation_id = "listInputItems",
    tag = "responses",
    params(
        ("response" = String, Path, description = "Id of a response."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "Most items of the answer. Default 20."),
        ("order" = Option<String>, Query, description = "`asc`: oldest first. Default `desc`."),
        ("after" = Option<String>, Query, description = "Id of the last item that is known."),
    ),
    responses(
        (status = 200, description = "A page of items.", body = InputItemList),
        ResponseQueryErrors,
    ),
)]
pub(crate) async fn input_items(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let mut query = query(&request)?;
    let limit = query.integer("limit", 1..=100)?.unwrap_or(20) as usize;
    let order = query.word("order", &["asc", "desc"], &[])?;
    let after = query.string("after")?;
    include(&mut query);
    query.finish(&[])?;
    let owner = RequestContext::of(&request).principal();
    if !state.responses.store.is_on() {
        return Err(unknown(&id));
    }
    let chain = state.responses.store.chain(&owner, &id, usize::MAX).await?;
    let Chain::Found(links) = chain else {
        return Err(unknown(&id));
    };
    let mut data = Vec::new();
    let num_links = links.len();
    for (i, link) in links.into_iter().enumerate() {
        let (input, output) = link.items()?;
        data.extend(input);
        if i + 1 < num_links {
            data.extend(output);
        }
    }
    if order.as_deref() != Some("asc") {
        data.reverse();
    }
    let id_of = |item: &Value| item["id"].as_str().unwrap_or_default().to_owned();
    if let Some(after) = after {
        let Some(at) = data.iter().position(|item| id_of(item) == after) else {
            let complaint = format!("is {}, which is no item of this response", quote(&after));
            return Err(invalid("after", complaint));
        };
        data.drain(..=at);
    }
    let has_more = data.len() > limit;
    data.truncate(limit);
    Ok(HttpResponse::Ok().json(InputItemList {
        object: "list",
        first_id: data.first().map(id_of).unwrap_or_default(),
        last_id: data.last().map(id_of).unwrap_or_default(),
        has_more,
        data,
    }))
}

/// Ends a response that is generated in the background. One that has ended already stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{response}/cancel",
    operation_id = "cancelResponse",
    tag = "responses",
    params(("response" = String, Path, description = "Id of a response that was made with `background`.")),
    responses(
        (status = 200, description = "The response, ended.", body = Response),
        ResponseQueryErrors,
    ),
)]
pub(crate) async fn cancel(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let owner = RequestContext::of(&request).principal();
    if let Some(live) = state.responses.live(&owner, &id) {
        live.cancel();
        live.ended().await;
        return Ok(json_answer(live.response()));
    }
    let stored = find(&state, &owner, &id).await?;
    let response: Value = serde_json::from_str(&stored.response).unwrap_or_default();
    if response["background"] != true {
        return Err(invalid(
            "response",
            "is not a background response; a response that somebody waits for ends with the connection",
        ));
    }
    Ok(json_answer(stored.response))
}

/// Forgets a response, and cancels it if it is still generated. Responses that continue it cannot be continued any more.
#[utoipa::path(
    delete,
    path = "/v1/responses/{response}",
    operation_id = "deleteResponse",
    tag = "responses",
    params(("response" = String, Path, description = "Id of a response.")),
    responses(
        (status = 200, description = "It is deleted.", body = DeletedResponse),
        UnknownResponse,
    ),
)]
pub(crate) async fn delete(
    request: HttpRequest,
    id: Path<String>,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let owner = RequestContext::of(&request).principal();
    if let Some(live) = state.responses.live(&owner, &id) {
        live.cancel();
        // It is kept at its end: only then can it be deleted for good.
        live.ended().await;
    }
    let store = &state.responses.store;
    if !store.is_on() || !store.delete(&owner, &id).await? {
        return Err(unknown(&id));
    }
    Ok(HttpResponse::Ok().json(DeletedResponse {
        id: id.into_inner(),
        object: "response",
        deleted: true,
    }))
}

async fn find(state: &AppState, owner: &str, id: &str) -> Result<Stored, ApiError> {
    let store = &state.responses.store;
    if !store.is_on() {
        return Err(unknown(id));
    }
    store.get(owner, id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> ApiError {
    ApiError::field(
        ErrorCode::ResponseNotFound,
        "response",
        format!("Response with id {} not found.", quote(id)),
    )
}

fn json_answer(body: String) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(body)
}

/// A kept stream, one event a line.
fn replay(lines: &str, from: usize) -> Result<HttpResponse, ApiError> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(rename = "type")]
        name: &'a str,
    }
    let mut frames = Frames::default();
    for line in lines.lines().skip(from) {
        let named: Named<'_> = serde_json::from_str(line).map_err(|error| {
            ApiError::internal().with_internal(format!("a kept event is not JSON: {error}"))
        })?;
        frames.event_text(named.name, line);
    }
    let bytes = Some(frames.into_bytes()).filter(|bytes| !bytes.is_empty());
    Ok(sse::stream_of(bytes, async |bytes: &mut Option<_>| {
        bytes.take()
    }))
}

/// The query as fields: digits are numbers, `true` and `false` are booleans. Of what is given twice, the last counts.
fn query(request: &HttpRequest) -> Result<Fields, ApiError> {
    let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map(Query::into_inner)
        .unwrap_or_default();
    let mut map = Map::new();
    for (name, text) in pairs {
        let value = match text.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            digits => (digits.parse::<i64>()).map_or_else(|_| Value::String(text), Value::from),
        };
        let name = name.strip_suffix("[]").unwrap_or(&name);
        map.insert(name.to_owned(), value);
    }
    Fields::new(Value::Object(map), "")
}

/// What more to report: everything that there is is always reported.
fn include(query: &mut Fields) {
    let _ = query.take("include");
}
