//! Cross-origin requests from browsers: who may ask, what they may send, what they may read (fetch.spec.whatwg.org, CORS).
//!
//! A preflight comes without credentials, so it is answered here, before authentication; and errors carry the headers too,
//! or a page could not read them. An origin that is not allowed gets no header, which is how a browser is told.
//! No `Access-Control-Allow-Credentials`: the API's credentials are a header that the page sets itself, never a cookie.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};

use crate::state::{ApiConfig, AppState};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
/// What every client may send. `Authorization` is never covered by a wildcard and has to be named.
const REQUEST_HEADERS: [&str; 4] = ["authorization", "content-type", "x-api-key", "x-request-id"];
/// What a page may read, besides the few headers that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, allow, www-authenticate, \
     x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
);
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const VARY_PREFLIGHT: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);
/// Most further header names that a preflight may ask for; SDKs send about ten.
const MOST_REQUESTED: usize = 64;

/// The middleware; goes around authentication.
pub(crate) async fn apply(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let allowed = (request.app_data::<Data<AppState>>())
        .and_then(|state| allowed_origin(request.headers(), &state.config));
    let Some(allowed) = allowed else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let mut response = if is_preflight(&request) {
        let answer = preflight(request.headers());
        request.into_response(answer)
    } else {
        let mut response = next.call(request).await?.map_into_boxed_body();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if allowed != "*" {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    Ok(response)
}

/// What to say to the request's origin: itself, `*`, or nothing.
fn allowed_origin(headers: &HeaderMap, config: &ApiConfig) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if config.cors_origins.iter().any(|allowed| allowed == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let listed = |allowed: &String| {
        let allowed = allowed.trim_end_matches('/').as_bytes();
        allowed.eq_ignore_ascii_case(origin.as_bytes())
    };
    let found = config.cors_origins.iter().any(listed);
    found.then(|| origin.clone())
}

fn is_preflight(request: &ServiceRequest) -> bool {
    request.method() == Method::OPTIONS
        && (request.headers()).contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(asked: &HeaderMap) -> HttpResponse {
    let mut answer = HttpResponse::new(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(asked));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers.insert(header::VARY, VARY_PREFLIGHT);
    answer
}

/// Ours, and those that are asked for: SDKs send many of their own, which nobody reads and which harm nobody.
fn allowed_headers(asked: &HeaderMap) -> HeaderValue {
    let asked = (asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS))
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // A name, in lower case, or nothing. Quotes and the like are legal in names, and nobody's.
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| {
            name.as_str()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
        .filter(|name| !REQUEST_HEADERS.contains(&name.as_str()))
        .take(MOST_REQUESTED);
    let mut names = REQUEST_HEADERS.join(", ");
    for name in asked {
        names.push_str(", ");
        names.push_str(name.as_str());
    }
    // Names of headers, commas and spaces are a header's value.
    HeaderValue::try_from(names).unwrap_or(HeaderValue::from_static(REQUEST_HEADERS[0]))
}
