//! The OpenAPI document, from the annotations of routes and wire types.
//!
//! `openapi/openapi.json` in the repository is this document, and `/openapi.json` serves it; a test compares them.
//! What no annotation can say comes from one table each: errors (`errors.rs`), examples (`examples.rs`), and who must show a
//! credential (`security.rs`).

pub(crate) mod errors;
mod examples;
mod security;

use utoipa::openapi::path::Operation;
use utoipa::openapi::{Header, HeaderBuilder, ObjectBuilder, RefOr, Type};
use utoipa::{Modify, OpenApi};

use crate::routes;
use examples::Examples;
use security::Credentials;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gossamer",
        license(name = "MIT OR Apache-2.0"),
        description = "An OpenAI-compatible gateway for GPT-OSS.\n\n\
                       `null` in a request means the same as leaving the field out. A field that is not listed here is refused \
                       with status 400. Every error has the body `{\"error\": {message, type, param, code}}`, but on the routes of \
                       Anthropic's API, which answer as it does.\n\n\
                       Streams are `text/event-stream`: events `data: {json}`, each followed by an empty line, and at last \
                       `data: [DONE]`. A stream that fails after its first byte ends with `data: {\"error\": ...}` and \
                       without `[DONE]`. (Anthropic's events, and those of `/v1/responses`, have names, and no `[DONE]`.) \
                       Lines that begin with a colon are comments; they keep the connection open while a \
                       request waits.",
    ),
    // Error answers are made from a table, not from annotations, so their schema is named here.
    components(schemas(crate::wire::error::ErrorBody, crate::wire::messages::MessagesErrorBody)),
    servers((url = "/", description = "This server.")),
    paths(
        routes::chat_completions::create,
        routes::completions::create,
        routes::responses::create,
        routes::responses::stored::retrieve,
        routes::responses::stored::delete,
        routes::responses::stored::input_items,
        routes::responses::stored::cancel,
        routes::messages::create,
        routes::messages::count_tokens,
        routes::models::list,
        routes::models::retrieve,
        routes::tokens::tokenize,
        routes::tokens::detokenize,
        routes::tokens::render,
        routes::simple::generate,
        routes::simple::chat,
        routes::simple::stream,
        routes::operations::health,
        routes::operations::ready,
        routes::operations::metrics,
        routes::operations::info,
        routes::docs::document,
    ),
    tags(
        (name = "OpenAI", description = "As in OpenAI's API."),
        (name = "responses", description = "OpenAI's Responses API: answers as items, kept by the server if the client wants."),
        (name = "Anthropic", description = "As in Anthropic's API; errors too."),
        (name = "tokens", description = "What the model reads, without running it. `/tokenize` and `/detokenize` are as in vLLM."),
        (name = "simple", description = "Chat completions in a few fields, for programs that do not speak OpenAI's API."),
        (name = "operations", description = "For those who run the server."),
    ),
    modifiers(&Credentials, &Examples, &RequestId),
)]
struct ApiDoc;

/// The document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    ApiDoc::openapi()
}

/// Every operation of a document.
fn operations(document: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    document
        .paths
        .paths
        .values_mut()
        .flat_map(|item| [item.get.as_mut(), item.post.as_mut(), item.delete.as_mut()])
        .flatten()
}

/// The header of every answer.
struct RequestId;

impl Modify for RequestId {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for operation in operations(document) {
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    let header = header(
                        Type::String,
                        "Finds the request in the log: the client's own, if it sent a usable one.",
                    );
                    response
                        .headers
                        .insert("x-request-id".into(), RefOr::T(header));
                }
            }
        }
    }
}

fn header(kind: Type, description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .description(Some(description))
        .build()
}
