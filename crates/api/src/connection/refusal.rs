//! Answers to what never became a request: a head that cannot be read, is too large, or does not arrive.
//!
//! The dispatcher answers those itself, with a bare status and nothing else, and no middleware sees them. [`find`] spots
//! such an answer in the bytes that go out; [`Refusal`] is what goes out instead, logged and counted like any other.
//! Invariant: every answer of the routes has a request id, so none of them is ever mistaken for a bare one.

use std::time::Duration;

use actix_web::http::StatusCode;
use gossamer_metrics::ApiMetrics;

use crate::error::{ApiError, ErrorCode};
use crate::request_id::{REQUEST_ID, log_refusal, random_id};

/// Longest bare answer: status line, length, connection, date.
const LONGEST: usize = 192;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A bare error answer at the end of the outgoing bytes: where it begins, and its status.
pub(super) fn find(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    if !bytes.ends_with(END_OF_HEAD) {
        return None;
    }
    let from = bytes.len().saturating_sub(LONGEST);
    let tail = &bytes[from..];
    let start = (tail.windows(7)).rposition(|window| window == b"HTTP/1.")?;
    let head = std::str::from_utf8(&tail[start..]).ok()?;
    let mut lines = head.trim_end().split("\r\n");
    let status = (lines.next()?.split(' ').nth(1)?.parse::<u16>().ok())
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| status.as_u16() >= 400)?;
    let mut empty = false;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        match name {
            "content-length" => empty = value == "0",
            "connection" | "date" => {}
            _ => return None,
        }
    }
    empty.then_some((from + start, status))
}

/// An answer that no route made.
pub(super) struct Refusal {
    error: ApiError,
}

impl Refusal {
    /// In place of a bare answer with this status.
    pub fn of(status: StatusCode) -> Self {
        Self {
            error: match status {
                StatusCode::BAD_REQUEST => ApiError::new(
                    ErrorCode::MalformedRequest,
                    "This is not a well-formed HTTP/1.1 request: its request line, a header, its framing, or a missing Host.",
                ),
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ApiError::new(
                    ErrorCode::HeadersTooLarge,
                    "The request line and headers are larger than 128 KiB, or there are more than 96 headers.",
                ),
                status => ApiError::internal()
                    .with_internal(format!("the dispatcher answered {status} by itself")),
            },
        }
    }

    /// The head of a request began and did not end.
    pub fn late(limit: Duration) -> Self {
        let limit = limit.as_millis();
        Self {
            error: ApiError::new(
                ErrorCode::RequestTimeout,
                format!("The head of the request did not arrive within {limit} ms."),
            ),
        }
    }

    /// The answer's bytes. Writes the line of the access log.
    pub fn send(&self, metrics: &ApiMetrics) -> Vec<u8> {
        let id = random_id("req_");
        log_refusal(&id, &self.error, metrics);
        let status = self.error.code().status();
        // Strings only: this cannot fail.
        let body = serde_json::to_string(&self.error.body()).unwrap_or_default();
        let reason = status.canonical_reason().unwrap_or("Error");
        let date = httpdate();
        format!(
            "HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             {REQUEST_ID}: {id}\r\ndate: {date}\r\n\r\n{body}",
            status.as_u16(),
            body.len(),
        )
        .into_bytes()
    }
}

/// Now, as HTTP writes it (RFC 9110, section 5.6.7).
fn httpdate() -> String {
    actix_web::http::header::HttpDate::from(std::time::SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: Sun, 22 Nov 2026 23:00:00 GMT\r\n\r\n";

    #[test]
    fn a_bare_answer_is_found_alone_and_behind_another() {
        assert_eq!(find(BARE.as_bytes()), Some((0, StatusCode::BAD_REQUEST)));
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: a\r\n\r\n{}";
        let both = format!("{before}{BARE}");
        assert_eq!(
            find(both.as_bytes()),
            Some((before.len(), StatusCode::BAD_REQUEST))
        );
    }

    #[test]
    fn nothing_else_is() {
        for other in [
            "",
            "\r\n\r\n",
            "0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nx-request-id: a\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 4xx Odd\r\ncontent-length: 0\r\n\r\n",
            "data: \"HTTP/1.1 400 Bad Request\"\n\n",
        ] {
            assert_eq!(find(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(find(&BARE.as_bytes()[..BARE.len() - 1]), None);
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let metrics = gossamer_metrics::Metrics::new();
        let bytes = Refusal::of(StatusCode::BAD_REQUEST).send(&metrics.api);
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert!(
            head.contains("x-request-id: req_") && head.contains("date: "),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], "malformed_request");
        assert!(metrics.render().contains("route=\"other\",status=\"400\""));
    }
}
