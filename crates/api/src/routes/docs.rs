//! `GET /docs`: Swagger UI over `GET /openapi.json`, served from the binary.
//!
//! Neither holds a secret, but both are routes like any other for authentication; whether they are open is configured.
//! Invariant: the page loads nothing from another host, and its policy does not let it.

use std::sync::{Arc, LazyLock};

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Path;
use utoipa_swagger_ui::Config;

use crate::error::{ApiError, ErrorCode};
use crate::openapi::errors::ServerErrors;

/// What the page consists of. Swagger UI's distribution has more: other builds of the same script.
const FILES: &[&str] = &[
    "index.html",
    "index.css",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
];

/// Scripts and styles from here only; the icons in the style sheet are `data:` images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // Our own types with string keys: this cannot fail. If it does, an empty document is seen at once.
    crate::openapi().to_json().unwrap_or_default()
});

/// Addresses are relative, so that the page works behind a proxy that puts a prefix before every path.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    Arc::new(
        Config::new(["../openapi.json"])
            // Otherwise the page asks validator.swagger.io to judge the document.
            .validator_url("none")
            // The bar of the other layout asks for the address of some other document, and its logo has a style of its own,
            // which the policy forbids.
            .use_base_layout()
            .display_request_duration(true)
            .display_operation_id(true)
            .default_models_expand_depth(0),
    )
});

/// The OpenAPI document.
///
/// What is in `openapi/openapi.json` of the repository, and what `/docs` shows.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operations",
    responses(
        (status = 200, description = "This document.", body = Object),
        ServerErrors,
    ),
)]
pub(crate) async fn document() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(header::ContentType::json())
        .body(DOCUMENT.as_str())
}

/// The page's links are relative, so it needs its slash. So is this one: a prefix that a proxy adds stays.
pub(crate) async fn with_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "docs/"))
        .finish()
}

/// A file of Swagger UI.
pub(crate) async fn file(name: Path<String>) -> Result<HttpResponse, ApiError> {
    let name = match name.as_str() {
        "" => "index.html",
        name => name,
    };
    let unknown = || {
        let shown: String = name.chars().take(64).collect();
        ApiError::new(
            ErrorCode::UnknownUrl,
            format!("There is no file '{shown}' in /docs."),
        )
    };
    if !FILES.contains(&name) {
        return Err(unknown());
    }
    let file = utoipa_swagger_ui::serve(name, Arc::clone(&CONFIG))
        .map_err(|error| ApiError::internal().with_internal(error.to_string()))?
        .ok_or_else(unknown)?;
    let mut response = HttpResponse::Ok();
    response
        .content_type(file.content_type)
        // A new version of the server has new files under the same names.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY));
    if file.gzpipped {
        // They lie compressed in the binary. A client that says nothing about encodings takes any (RFC 9110, 12.5.3), and
        // every browser takes this one.
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(file.bytes))
}
