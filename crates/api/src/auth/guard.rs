//! The middleware in front of every route: lets a request in or answers it, and tells where the key stands.
//!
//! Knows HTTP, not credentials. It asks for the path as the router will read it (decoded), so that no other spelling of a path
//! finds another row of the table.
//! Invariant: nothing behind it runs for a request that it refused, and it reads no byte of a body.

use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, ResponseError};

use super::limits::{Gauge, Limited, OverLimit, Retry, Standing};
use super::{Access, Refusal};
use crate::error::{ApiError, ErrorCode};
use crate::request_id::RequestContext;
use crate::routes;
use crate::state::AppState;

/// The middleware.
pub(crate) async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let context = RequestContext::of(request.request());
    let (error, standing) = match check(&request, &context) {
        Ok(()) => {
            let mut response = next.call(request).await?.map_into_boxed_body();
            if let Some(standing) = context.standing() {
                tell(response.headers_mut(), standing);
            }
            return Ok(response);
        }
        Err(Refusal::Limit(over, standing)) => (ApiError::from(over), Some(standing)),
        Err(refusal) => (refusal.into(), None),
    };
    let mut response = request.into_response(error.error_response());
    if let Some(standing) = standing {
        tell(response.headers_mut(), standing);
    }
    Ok(response)
}

fn check(request: &ServiceRequest, context: &RequestContext) -> Result<(), Refusal> {
    let path = request.match_info().as_str();
    let pattern = request.resource_map().match_pattern(path);
    let access = routes::access(pattern.as_deref()).ok_or(Refusal::Unlisted)?;
    if access == Access::Open {
        return Ok(());
    }
    // Whoever serves without a state has nothing to guard; not to know that is no reason to let somebody in.
    let state = request
        .app_data::<Data<AppState>>()
        .ok_or(Refusal::Missing)?;
    let (principal, lease) = state.auth.admit(request.headers(), access)?;
    context.admitted(principal.id, lease);
    Ok(())
}

/// OpenAI's headers.
fn tell(headers: &mut HeaderMap, standing: Standing) {
    const REQUESTS: [&str; 3] = [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ];
    const TOKENS: [&str; 3] = [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ];
    let mut set = |names: [&'static str; 3], gauge: Option<Gauge>| {
        let Some(gauge) = gauge else { return };
        let values = [
            gauge.limit.to_string(),
            gauge.remaining.to_string(),
            duration(gauge.reset),
        ];
        for (name, value) in names.into_iter().zip(values) {
            // Digits and letters are a header value.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    };
    set(REQUESTS, standing.requests);
    set(TOKENS, standing.tokens);
}

/// As in OpenAI's headers, which have the form of Go's durations: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m30s`.
fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    if ms > 0 && ms < 1000 {
        return format!("{ms}ms");
    }
    let (seconds, fraction) = (ms / 1000 % 60, ms % 1000);
    let (minutes, hours) = (ms / 60_000 % 60, ms / 3_600_000);
    let mut seconds = seconds.to_string();
    if fraction > 0 {
        seconds.push_str(format!(".{fraction:03}").trim_end_matches('0'));
    }
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

impl From<OverLimit> for ApiError {
    fn from(over: OverLimit) -> Self {
        let OverLimit {
            by,
            limit,
            requested,
            retry,
        } = over;
        let (code, what) = match by {
            Limited::Requests => (ErrorCode::RateLimitRequests, "requests per minute"),
            Limited::Tokens => (ErrorCode::RateLimitTokens, "tokens per minute"),
            Limited::Concurrency => (ErrorCode::RateLimitConcurrency, "requests at a time"),
        };
        match retry {
            Retry::After(after) => Self::new(
                code,
                format!(
                    "Rate limit reached: {limit} {what}. Try again in {}.",
                    duration(after)
                ),
            )
            .with_retry_after(after),
            // Nobody knows when a request will end; a second is a civil time to ask again.
            Retry::Unknown => Self::new(
                code,
                format!(
                    "Rate limit reached: {limit} {what}. Try again when one of them has ended."
                ),
            )
            .with_retry_after(Duration::from_secs(1)),
            Retry::Never => Self::new(
                code,
                format!(
                    "Request too large: the limit is {limit} {what}, and the prompt alone has {requested} tokens. Shorten it."
                ),
            )
            .without_retry(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (20_010, "20.01s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (3_630_000, "1h0m30s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
