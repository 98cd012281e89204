//! The error answers of a route, from the table of error codes.
//!
//! A route names a set of codes; status, description and example of each answer follow from [`ErrorCode`].
//! Invariant: each code is in at least one set, or is here said to belong to no documented route.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Type};

use super::header;
use crate::dialect::{self, Dialect};
use crate::error::ErrorCode;

/// A body that is refused before or while its fields are read.
const BODY: &[ErrorCode] = &[
    ErrorCode::InvalidJson,
    ErrorCode::MissingParameter,
    ErrorCode::UnknownParameter,
    ErrorCode::UnsupportedParameter,
    ErrorCode::UnsupportedValue,
    ErrorCode::InvalidType,
    ErrorCode::InvalidValue,
    ErrorCode::IntegerBelowMin,
    ErrorCode::IntegerAboveMax,
    ErrorCode::DecimalBelowMin,
    ErrorCode::DecimalAboveMax,
    ErrorCode::EmptyArray,
    ErrorCode::ArrayAboveMaxLength,
    ErrorCode::StringAboveMaxLength,
    ErrorCode::ObjectAboveMaxProperties,
    ErrorCode::EmptyString,
    ErrorCode::ModelNotFound,
    ErrorCode::RequestTimeout,
    ErrorCode::PayloadTooLarge,
    ErrorCode::UnsupportedMediaType,
    ErrorCode::Overloaded,
];

/// A key that has reached its limits. They hold for all routes of the scope `inference`, which are those that read a body.
const LIMITS: &[ErrorCode] = &[
    ErrorCode::RateLimitRequests,
    ErrorCode::RateLimitTokens,
    ErrorCode::RateLimitConcurrency,
];

/// A valid request that cannot be answered.
const GENERATION: &[ErrorCode] = &[
    ErrorCode::ContextLengthExceeded,
    ErrorCode::QueueFull,
    ErrorCode::EngineError,
    ErrorCode::QueueTimeout,
    ErrorCode::ShuttingDown,
];

/// A query that is refused.
const QUERY: &[ErrorCode] = &[
    ErrorCode::UnknownParameter,
    ErrorCode::UnsupportedValue,
    ErrorCode::InvalidType,
    ErrorCode::InvalidValue,
    ErrorCode::IntegerBelowMin,
    ErrorCode::IntegerAboveMax,
];

/// Of responses.
const RESPONSES: &[ErrorCode] = &[
    ErrorCode::ResponseNotFound,
    ErrorCode::PreviousResponseNotFound,
];

/// What any route may answer.
const ANY: &[ErrorCode] = &[
    ErrorCode::MalformedRequest,
    ErrorCode::MethodNotAllowed,
    ErrorCode::HeadersTooLarge,
    ErrorCode::Internal,
];

/// Of every route that needs a credential; added to it by `security.rs`.
pub(super) const CREDENTIAL: &[ErrorCode] = &[ErrorCode::InvalidApiKey, ErrorCode::MissingScope];

/// Of routes that generate.
pub(crate) struct GenerationErrors;

impl IntoResponses for GenerationErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[BODY, LIMITS, GENERATION, ANY])
    }
}

/// Of routes that read a body and do not generate.
pub(crate) struct BodyErrors;

impl IntoResponses for BodyErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[BODY, LIMITS, ANY])
    }
}

/// Of routes that read nothing.
pub(crate) struct ServerErrors;

impl IntoResponses for ServerErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[ANY])
    }
}

/// Of a route that names a model in its path.
pub(crate) struct UnknownModel;

impl IntoResponses for UnknownModel {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[&[ErrorCode::ModelNotFound], ANY])
    }
}

/// Of a route that names a response in its path.
pub(crate) struct UnknownResponse;

impl IntoResponses for UnknownResponse {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[&RESPONSES[..1], ANY])
    }
}

/// Of a route that names a response in its path and reads its query.
pub(crate) struct ResponseQueryErrors;

impl IntoResponses for ResponseQueryErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[QUERY, &RESPONSES[..1], ANY])
    }
}

/// Of the route that makes responses.
pub(crate) struct ResponseErrors;

impl IntoResponses for ResponseErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[BODY, &RESPONSES[1..], LIMITS, GENERATION, ANY])
    }
}

/// Of `/ready`.
pub(crate) struct NotReady;

impl IntoResponses for NotReady {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status(&[&[ErrorCode::NotReady], ANY])
    }
}

/// Of Anthropic's route that generates.
pub(crate) struct MessagesErrors;

impl IntoResponses for MessagesErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status_in(Dialect::Anthropic, &[BODY, GENERATION, ANY])
    }
}

/// Of Anthropic's route that reads a body and does not generate.
pub(crate) struct MessagesBodyErrors;

impl IntoResponses for MessagesBodyErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        by_status_in(Dialect::Anthropic, &[BODY, ANY])
    }
}

fn by_status(sets: &[&[ErrorCode]]) -> BTreeMap<String, RefOr<Response>> {
    by_status_in(Dialect::OpenAi, sets)
}

/// One response per status, with all codes that have it.
pub(super) fn by_status_in(
    dialect: Dialect,
    sets: &[&[ErrorCode]],
) -> BTreeMap<String, RefOr<Response>> {
    let mut groups: BTreeMap<String, Vec<ErrorCode>> = BTreeMap::new();
    for code in sets.iter().copied().flatten() {
        let status = match dialect {
            Dialect::OpenAi => code.status(),
            Dialect::Anthropic => dialect::status(*code),
        };
        let group = groups.entry(status.as_str().to_owned()).or_default();
        if !group.contains(code) {
            group.push(*code);
        }
    }
    groups
        .into_iter()
        .map(|(status, codes)| (status, RefOr::T(response(dialect, &codes))))
        .collect()
}

fn response(dialect: Dialect, codes: &[ErrorCode]) -> Response {
    let mut lines: Vec<String> = codes
        .iter()
        .map(|code| match dialect {
            Dialect::OpenAi => format!("`{}`: {}", code.as_str(), code.description()),
            Dialect::Anthropic => {
                format!("`{}`: {}", dialect::kind(*code), code.description())
            }
        })
        .collect();
    lines.dedup();
    let description = match lines.as_slice() {
        [line] => line.clone(),
        lines => format!("One of:\n\n- {}", lines.join("\n- ")),
    };
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(match dialect {
            Dialect::OpenAi => "ErrorBody",
            Dialect::Anthropic => "MessagesErrorBody",
        })))
        .example(codes.first().map(|code| example(dialect, *code)))
        .build();
    let mut response = ResponseBuilder::new()
        .description(description)
        .content("application/json", content);
    if codes.iter().any(|code| retries(*code)) {
        let seconds = header(Type::Integer, "Seconds after which to try again.");
        response = response.header("retry-after", seconds);
    }
    if codes.contains(&ErrorCode::InvalidApiKey) {
        let challenge = header(
            Type::String,
            "`Bearer`, and why the credential was not accepted.",
        );
        response = response.header("www-authenticate", challenge);
    }
    if codes.contains(&ErrorCode::MethodNotAllowed) {
        let methods = header(Type::String, "The methods that the path has.");
        response = response.header("allow", methods);
    }
    response.build()
}

/// Whether the answer has `Retry-After`.
fn retries(code: ErrorCode) -> bool {
    matches!(code.status().as_u16(), 429 | 503)
}

fn example(dialect: Dialect, code: ErrorCode) -> serde_json::Value {
    if dialect == Dialect::Anthropic {
        return json!({
            "type": "error",
            "error": {"type": dialect::kind(code), "message": code.description()},
            "request_id": "req_W1cV9kQm3xYb7nRtZ5sLhJdf",
        });
    }
    json!({"error": {
        "message": code.description(),
        "type": code.kind(),
        "param": null,
        "code": code.as_str(),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        // Paths that do not exist are not in the document.
        let undocumented = [ErrorCode::UnknownUrl];
        let sets = [
            BODY,
            LIMITS,
            GENERATION,
            CREDENTIAL,
            RESPONSES,
            ANY,
            &[ErrorCode::NotReady],
        ]
        .concat();
        for code in ErrorCode::ALL {
            assert_eq!(
                sets.contains(code),
                !undocumented.contains(code),
                "{code:?} must be in a set of openapi/errors.rs"
            );
        }
    }
}
