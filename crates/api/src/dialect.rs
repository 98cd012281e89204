//! The form of error answers: OpenAI's everywhere, Anthropic's on the routes of its API.
//!
//! Handlers know one [`ApiError`]; the outermost middleware writes it anew where a route speaks Anthropic's API, so that
//! what the guard, the router and the reader of bodies refuse has that form too. Types and statuses are those of
//! Anthropic's documentation ("Errors") and of its SDKs' `ErrorObject`.
//! Invariant: on those routes each response with a status of 400 or more has the body
//! `{"type":"error","error":{type,message},"request_id"}`, and every answer has the header `request-id`.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};

use crate::error::{ApiError, ErrorCode};
use crate::wire::messages::{MessagesError, MessagesErrorBody};

/// Anthropic's name for the header with the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// The path that Anthropic's routes begin with.
const MESSAGES: &str = "/v1/messages";
/// Anthropic's status for a server that has too much to do; RFC 9110 has no name for it.
const OVERLOADED: u16 = 529;

/// Whose form a route's errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// The dialect of a path, as the router reads it; it need not exist.
    pub fn of(path: &str) -> Self {
        match path.strip_prefix(MESSAGES) {
            Some("") => Self::Anthropic,
            Some(rest) if rest.starts_with('/') => Self::Anthropic,
            _ => Self::OpenAi,
        }
    }

    /// Gives an answer this form; `id` is the request's.
    pub fn settle(self, response: ServiceResponse<BoxBody>, id: &str) -> ServiceResponse<BoxBody> {
        if self == Self::OpenAi {
            return response;
        }
        let error = response.response().extensions().get::<ApiError>().cloned();
        let mut response = match error {
            None => response,
            Some(error) => response.map_body(|head, _| {
                head.status = status(error.code());
                head.headers.insert(header::CONTENT_TYPE, JSON);
                BoxBody::new(body_text(&error, id))
            }),
        };
        name(response.headers_mut(), id);
        response
    }

    /// The answer to a request whose handler panicked.
    pub fn panicked(self, error: &ApiError, id: &str, answer: HttpResponse) -> HttpResponse {
        if self == Self::OpenAi {
            return answer;
        }
        let mut answer = HttpResponseBuilder::new(status(error.code()))
            .insert_header((header::CONTENT_TYPE, JSON))
            .body(body_text(error, id));
        name(answer.headers_mut(), id);
        answer
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn name(headers: &mut header::HeaderMap, id: &str) {
    // The id was made or checked to be a header value.
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Anthropic's status for an error.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::QueueFull | ErrorCode::QueueTimeout | ErrorCode::Overloaded => {
            StatusCode::from_u16(OVERLOADED).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
        }
        code => code.status(),
    }
}

/// Anthropic's `type` for an error.
pub(crate) fn kind(code: ErrorCode) -> &'static str {
    match status(code).as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        OVERLOADED => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// The body of an error answer, which is also the last event of a stream that fails.
pub(crate) fn body(error: &ApiError, id: &str) -> MessagesErrorBody {
    MessagesErrorBody {
        kind: "error",
        error: MessagesError {
            kind: kind(error.code()),
            message: message(error),
        },
        request_id: id.to_owned(),
    }
}

/// What clients of Anthropic's API know an overflow of the context by: Claude Code reads the numbers and asks for less.
fn message(error: &ApiError) -> String {
    match error.overflow() {
        None => error.message().to_owned(),
        Some((prompt, None, limit)) => {
            format!("prompt is too long: {prompt} tokens > {limit} maximum")
        }
        Some((prompt, Some(asked), limit)) => format!(
            "input length and `max_tokens` exceed context limit: {prompt} + {asked} > {limit}, \
             decrease input length or `max_tokens` and try again"
        ),
    }
}

fn body_text(error: &ApiError, id: &str) -> impl MessageBody + 'static {
    // Strings only: this cannot fail.
    serde_json::to_string(&body(error, id)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_messages_api_and_no_others() {
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/"] {
            assert_eq!(Dialect::of(path), Dialect::Anthropic, "{path}");
        }
        for path in ["/v1/messagesx", "/v1/models", "/", "", "/x/v1/messages"] {
            assert_eq!(Dialect::of(path), Dialect::OpenAi, "{path}");
        }
    }

    #[test]
    fn every_code_has_a_type_that_fits_its_status() {
        for &code in ErrorCode::ALL {
            let (status, kind) = (status(code).as_u16(), kind(code));
            let expected = match kind {
                "authentication_error" => status == 401,
                "permission_error" => status == 403,
                "not_found_error" => status == 404,
                "request_too_large" => status == 413,
                "rate_limit_error" => status == 429,
                "overloaded_error" => status == 529,
                "api_error" => (500..529).contains(&status),
                "invalid_request_error" => (400..500).contains(&status),
                _ => false,
            };
            assert!(expected, "{code:?}: {status} {kind}");
        }
    }
}
