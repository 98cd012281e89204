//! The OpenAPI document, from the annotations of routes and wire types.
//!
//! `openapi/openapi.json` in the repository is this document; a test compares them.

use utoipa::OpenApi;

use crate::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gossamer",
        description = "An OpenAI-compatible gateway for GPT-OSS. `null` in a request means the same as leaving the field out; \
                       a field that is not listed here is refused with status 400.",
    ),
    paths(
        routes::chat_completions::create,
        routes::completions::create,
        routes::models::list,
        routes::models::retrieve,
        routes::operations::health,
        routes::operations::ready,
        routes::operations::metrics,
        routes::operations::info,
    ),
    tags(
        (name = "OpenAI", description = "As in OpenAI's API."),
        (name = "operations", description = "For those who run the server."),
    ),
)]
struct ApiDoc;

/// The document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    ApiDoc::openapi()
}
