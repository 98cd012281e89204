//! Every error answer: one table from [`ErrorCode`] to status and `type`, one body shape.
//!
//! Owns what a client sees. What only the operator may see travels in `internal`, which is logged and never sent.
//! Invariant: each response with a status of 400 or more has the body `{"error":{message,type,param,code}}`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use gossamer_scheduler::{RequestError, SubmitError};

use crate::wire::error::{ErrorBody, ErrorObject};

macro_rules! error_table {
    ($($(#[doc = $doc:literal])* $variant:ident => $status:ident, $kind:literal, $code:literal;)*) => {
        /// What went wrong, as OpenAI's `code`; decides status and `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[doc = $doc])* $variant,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// When it happens, in a sentence.
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*).trim_ascii_start(),)* }
            }

            /// OpenAI's `type`.
            pub fn kind(self) -> &'static str {
                match self { $(Self::$variant => $kind,)* }
            }

            /// OpenAI's `code`, also the label of the error metric.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

// Codes are OpenAI's where its API or its documentation names one for the case; the others are ours.
error_table! {
    /// The body is not JSON, repeats a key, or is nested too deeply.
    InvalidJson => BAD_REQUEST, "invalid_request_error", "invalid_json";
    /// A required field is absent.
    MissingParameter => BAD_REQUEST, "invalid_request_error", "missing_required_parameter";
    /// A field that no version of the API has.
    UnknownParameter => BAD_REQUEST, "invalid_request_error", "unknown_parameter";
    /// A field of the API that is not implemented here (yet).
    UnsupportedParameter => BAD_REQUEST, "invalid_request_error", "unsupported_parameter";
    /// An implemented field with a value that is not implemented here (yet).
    UnsupportedValue => BAD_REQUEST, "invalid_request_error", "unsupported_value";
    /// A field has the wrong JSON type.
    InvalidType => BAD_REQUEST, "invalid_request_error", "invalid_type";
    /// A field has the right type and an impossible value, or contradicts another one.
    InvalidValue => BAD_REQUEST, "invalid_request_error", "invalid_value";
    /// An integer is below its range.
    IntegerBelowMin => BAD_REQUEST, "invalid_request_error", "integer_below_min_value";
    /// An integer is above its range.
    IntegerAboveMax => BAD_REQUEST, "invalid_request_error", "integer_above_max_value";
    /// A number is below its range.
    DecimalBelowMin => BAD_REQUEST, "invalid_request_error", "decimal_below_min_value";
    /// A number is above its range.
    DecimalAboveMax => BAD_REQUEST, "invalid_request_error", "decimal_above_max_value";
    /// An array that needs an element has none.
    EmptyArray => BAD_REQUEST, "invalid_request_error", "empty_array";
    /// An array has too many elements.
    ArrayAboveMaxLength => BAD_REQUEST, "invalid_request_error", "array_above_max_length";
    /// A string is too long.
    StringAboveMaxLength => BAD_REQUEST, "invalid_request_error", "string_above_max_length";
    /// An object has too many fields.
    ObjectAboveMaxProperties => BAD_REQUEST, "invalid_request_error", "object_above_max_properties";
    /// A string that needs a character has none.
    EmptyString => BAD_REQUEST, "invalid_request_error", "empty_string";
    /// Prompt, or prompt and requested output, exceed what a sequence can hold.
    ContextLengthExceeded => BAD_REQUEST, "invalid_request_error", "context_length_exceeded";
    /// No credential, or one that is not accepted; `WWW-Authenticate` says which.
    InvalidApiKey => UNAUTHORIZED, "invalid_request_error", "invalid_api_key";
    /// The credential is accepted, but not for this.
    MissingScope => FORBIDDEN, "invalid_request_error", "missing_scope";
    /// No such model.
    ModelNotFound => NOT_FOUND, "invalid_request_error", "model_not_found";
    /// No such response, or not one of this key's.
    ResponseNotFound => NOT_FOUND, "invalid_request_error", "response_not_found";
    /// The response that is to be continued, or one before it, is not there (any more).
    PreviousResponseNotFound => BAD_REQUEST, "invalid_request_error", "previous_response_not_found";
    /// The head or the framing of a request is not HTTP/1.1.
    MalformedRequest => BAD_REQUEST, "invalid_request_error", "malformed_request";
    /// The request line and headers are larger or more than the server reads.
    HeadersTooLarge => REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid_request_error", "request_headers_too_large";
    /// No such path.
    UnknownUrl => NOT_FOUND, "invalid_request_error", "unknown_url";
    /// The path exists, the method does not; `Allow` says which do.
    MethodNotAllowed => METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed";
    /// The head or the body was not received in time.
    RequestTimeout => REQUEST_TIMEOUT, "invalid_request_error", "request_timeout";
    /// The body is larger than the configured limit.
    PayloadTooLarge => PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large";
    /// The body is not declared as `application/json`.
    UnsupportedMediaType => UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_content_type";
    /// The key has used up its requests per minute.
    RateLimitRequests => TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded";
    /// The key has used up its tokens per minute.
    RateLimitTokens => TOO_MANY_REQUESTS, "tokens", "rate_limit_exceeded";
    /// As many requests of the key run as may.
    RateLimitConcurrency => TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded";
    /// The waiting queue is at its bound.
    QueueFull => TOO_MANY_REQUESTS, "rate_limit_error", "engine_overloaded";
    /// The request waited in the queue for longer than the configured bound.
    QueueTimeout => SERVICE_UNAVAILABLE, "server_error", "queue_timeout";
    /// The bodies that are being read at this moment take all the memory that is meant for them.
    Overloaded => SERVICE_UNAVAILABLE, "server_error", "server_overloaded";
    /// The server is stopping.
    ShuttingDown => SERVICE_UNAVAILABLE, "server_error", "shutting_down";
    /// No token was produced yet, or none can be any more.
    NotReady => SERVICE_UNAVAILABLE, "server_error", "not_ready";
    /// The engine failed the request's step.
    EngineError => INTERNAL_SERVER_ERROR, "server_error", "engine_error";
    /// A bug of ours.
    Internal => INTERNAL_SERVER_ERROR, "server_error", "internal_error";
}

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: Cow<'static, str>,
    param: Option<Box<str>>,
    /// Tokens of a prompt, tokens asked for besides, the most that a sequence can hold.
    overflow: Option<Box<(usize, Option<usize>, usize)>>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    challenge: Option<Box<str>>,
    never_retry: bool,
    internal: Option<Box<str>>,
}

impl ApiError {
    /// An error without `param`. `message` is for the client: a sentence.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            overflow: None,
            retry_after: None,
            allow: None,
            challenge: None,
            never_retry: false,
            internal: None,
        }
    }

    /// An error about one field, named as a path: `messages[0].content`.
    pub fn field(
        code: ErrorCode,
        param: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            param: Some(param.into().into_boxed_str()),
            ..Self::new(code, message)
        }
    }

    /// Names the field.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into().into_boxed_str());
        self
    }

    /// Names the field as the client did, if `own` knows its name; the path stands in the message too.
    #[must_use]
    pub(crate) fn renamed(mut self, own: impl Fn(&str) -> Option<String>) -> Self {
        if let Some(path) = self.param.take() {
            let new = own(&path).unwrap_or_else(|| path.to_string());
            self.message = self.message.replace(&*path, &new).into();
            self.param = Some(new.into());
        }
        self
    }

    /// Sets `Retry-After`, rounded up to whole seconds, at least one.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Tells SDKs that sending the same again is no use; they would otherwise, for this status.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.never_retry = true;
        self
    }

    /// Sets `WWW-Authenticate`.
    #[must_use]
    pub fn with_challenge(mut self, challenge: String) -> Self {
        self.challenge = Some(challenge.into_boxed_str());
        self
    }

    /// Sets `Allow`.
    #[must_use]
    pub fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// What the log says and the client does not see.
    #[must_use]
    pub fn with_internal(mut self, detail: impl Into<String>) -> Self {
        self.internal = Some(detail.into().into_boxed_str());
        self
    }

    /// A prompt of `prompt_len` tokens, alone or with the `asked` ones that it is to be answered with, that is longer than
    /// `limit`. The first words are OpenAI's: clients know this error by them (LiteLLM by nothing else), and fall back to a
    /// model with more room.
    pub fn context_length(
        prompt_param: &'static str,
        prompt_len: usize,
        asked: Option<usize>,
        limit: usize,
    ) -> Self {
        let however = match (asked, limit.saturating_sub(prompt_len)) {
            (Some(asked), room @ 1..) => format!(
                "the prompt has {prompt_len} and {asked} more are requested. Shorten the prompt or ask for at most {room}."
            ),
            _ => format!("the prompt alone has {prompt_len}. Shorten it."),
        };
        let message =
            format!("This model's maximum context length is {limit} tokens. However, {however}");
        Self {
            overflow: Some(Box::new((prompt_len, asked, limit))),
            ..Self::field(ErrorCode::ContextLengthExceeded, prompt_param, message)
        }
    }

    /// The error for a request that the scheduler did not accept. `prompt_param` is the field that holds the prompt.
    pub fn from_submit(
        error: SubmitError,
        prompt_param: &'static str,
        retry_after: Duration,
    ) -> Self {
        match error {
            SubmitError::NeverFits { prompt_len, limit } => {
                Self::context_length(prompt_param, prompt_len, None, limit)
            }
            SubmitError::OutputNeverFits {
                prompt_len,
                max_tokens,
                limit,
            } => Self::context_length(prompt_param, prompt_len, Some(max_tokens), limit),
            SubmitError::QueueFull { limit } => Self::new(
                ErrorCode::QueueFull,
                format!("All {limit} places in the queue are taken. Try again later."),
            )
            .with_retry_after(retry_after),
            SubmitError::ShuttingDown => Self::shutting_down().with_retry_after(retry_after),
            // Validation lets nothing through that the scheduler would call contradictory.
            SubmitError::Invalid { field, message } => {
                Self::internal().with_internal(format!("the scheduler refused {field}: {message}"))
            }
        }
    }

    /// The error for an accepted request that could not be completed.
    pub fn from_request(error: RequestError, retry_after: Duration) -> Self {
        match error {
            RequestError::Engine(detail) => Self::new(
                ErrorCode::EngineError,
                "The engine failed while it worked on this request.",
            )
            .with_internal(detail),
            RequestError::QueueTimeout { limit_ms } => Self::new(
                ErrorCode::QueueTimeout,
                format!("The request waited in the queue for longer than {limit_ms} ms."),
            )
            .with_retry_after(retry_after),
            RequestError::ShuttingDown => Self::shutting_down().with_retry_after(retry_after),
        }
    }

    /// A bug of ours; say what happened with [`ApiError::with_internal`].
    pub fn internal() -> Self {
        Self::new(
            ErrorCode::Internal,
            "The server made an error. The request id in the x-request-id header finds it in the log.",
        )
    }

    fn shutting_down() -> Self {
        Self::new(ErrorCode::ShuttingDown, "The server is shutting down.")
    }

    /// Which error.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What is wrong, for the client: a sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Of `context_length_exceeded`: tokens of the prompt, tokens asked for besides, the limit.
    pub fn overflow(&self) -> Option<(usize, Option<usize>, usize)> {
        self.overflow.as_deref().copied()
    }

    /// The field it is about.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// What `WWW-Authenticate` says.
    pub fn challenge(&self) -> Option<&str> {
        self.challenge.as_deref()
    }

    /// What only the log says.
    pub fn internal_detail(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    /// The body, also used for error events inside a stream.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message.to_string(),
                kind: self.code.kind().to_owned(),
                param: self.param().map(str::to_owned),
                code: Some(self.code.as_str().to_owned()),
            },
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
            // OpenAI's SDKs read this one first: it is exact.
            let ms = after.as_millis().max(1);
            response.insert_header(("retry-after-ms", ms.to_string()));
        }
        if self.never_retry {
            response.insert_header(("x-should-retry", "false"));
        }
        if let Some(challenge) = &self.challenge {
            response.insert_header((header::WWW_AUTHENTICATE, &**challenge));
        }
        if let Some(methods) = self.allow {
            response.insert_header((header::ALLOW, methods));
        }
        let mut response = response.json(self.body());
        // Read by the access log, which also counts it.
        response.extensions_mut().insert(self.clone());
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_statuses_are_errors() {
        // OpenAI has one code for all rate limits; the type says which.
        let names: HashSet<_> = (ErrorCode::ALL.iter())
            .map(|code| (code.as_str(), code.kind()))
            .collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let status = code.status();
            assert!(status.is_client_error() || status.is_server_error());
            assert_eq!(status.is_server_error(), code.kind() == "server_error");
        }
    }

    #[test]
    fn what_only_the_operator_may_see_is_not_in_the_body() {
        let error = ApiError::from_request(
            RequestError::Engine("tensor /secret/path".into()),
            Duration::ZERO,
        );
        let body = serde_json::to_string(&error.body()).expect("an error body is JSON");
        assert!(!body.contains("secret"));
        assert_eq!(error.internal_detail(), Some("tensor /secret/path"));
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        for (after, expected) in [(0, "1"), (1000, "1"), (1001, "2")] {
            let response = ApiError::new(ErrorCode::QueueFull, "full")
                .with_retry_after(Duration::from_millis(after))
                .error_response();
            let header = response.headers().get(header::RETRY_AFTER);
            assert_eq!(header.and_then(|value| value.to_str().ok()), Some(expected));
        }
    }
}
