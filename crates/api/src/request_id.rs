//! One request from its first byte to its last: id, duration, access log, request metrics.
//!
//! A [`RequestLog`] travels with the request: first in the handler's future, then in the answer's body. Whoever drops it
//! (the body at its end, actix when the client goes away) ends the request, so exactly one line is logged for each.
//! Labels are route patterns, never paths as received.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use futures_util::FutureExt;
use gossamer_metrics::ApiMetrics;

use crate::auth::{Lease, OverLimit, Standing};
use crate::connection::{Activity, OpenRequest};
use crate::dialect::Dialect;
use crate::error::{ApiError, ErrorCode};
use crate::routes;
use crate::state::AppState;
use crate::wire::usage::Usage;

/// In requests, taken over if sane; in every answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// nginx's status for a client that went away before its answer began. Never sent, only logged and counted.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What handlers may know about the request they work on.
#[derive(Debug)]
pub(crate) struct RequestContext {
    /// The id, in the log and in the answer's header.
    pub id: String,
    /// When the request's head was read.
    pub arrived: Instant,
    usage: Cell<Option<Usage>>,
    body_read: Cell<bool>,
    /// Who asks; set by the guard.
    principal: OnceCell<Arc<str>>,
    /// The request's place under the limits of its key. Given back when the log ends, with the last byte of the answer,
    /// unless the work goes on without the client.
    lease: RefCell<Option<Lease>>,
    outlives_answer: Cell<bool>,
}

impl RequestContext {
    /// The context that [`track`] made.
    pub fn of(request: &HttpRequest) -> Rc<Self> {
        // A handler outside of `track` has no log to write to; a fresh context keeps it working.
        (request.extensions().get::<Rc<Self>>().cloned())
            .unwrap_or_else(|| Rc::new(Self::new(random_id("req_"))))
    }

    /// For the access log: what the request cost.
    pub fn note_usage(&self, usage: Usage) {
        self.usage.set(Some(usage));
    }

    /// The body was read to its end, so the connection can go on.
    pub fn note_body_read(&self) {
        self.body_read.set(true);
    }

    /// The guard has let the request in.
    pub fn admitted(&self, principal: Arc<str>, lease: Option<Lease>) {
        let _ = self.principal.set(principal);
        self.lease.replace(lease);
    }

    /// Who asks: the name of an account.
    pub fn principal(&self) -> Arc<str> {
        let nobody = || Arc::from("anonymous");
        self.principal.get().cloned().unwrap_or_else(nobody)
    }

    /// The request is worked on after its answer was sent, until nobody holds the context any more.
    pub fn outlive_answer(&self) {
        self.outlives_answer.set(true);
    }

    /// Takes the tokens of the prompt from what the key may use.
    ///
    /// # Errors
    /// It may not use that many now; none was taken.
    pub fn charge_prompt(&self, tokens: usize) -> Result<(), OverLimit> {
        match &*self.lease.borrow() {
            Some(lease) => lease.charge_prompt(tokens as u64),
            None => Ok(()),
        }
    }

    /// Gives the tokens of a prompt back that was not accepted.
    pub fn refund_prompt(&self, tokens: usize) {
        if let Some(lease) = &*self.lease.borrow() {
            lease.refund(tokens as u64);
        }
    }

    /// Takes generated tokens from what the key may use.
    pub fn charge_generated(&self, tokens: usize) {
        if let Some(lease) = &*self.lease.borrow() {
            lease.charge(tokens as u64);
        }
    }

    /// Where the key stands; `None` if it has no limits.
    pub fn standing(&self) -> Option<Standing> {
        self.lease.borrow().as_ref().map(Lease::standing)
    }

    fn new(id: String) -> Self {
        Self {
            id,
            arrived: Instant::now(),
            usage: Cell::new(None),
            body_read: Cell::new(false),
            principal: OnceCell::new(),
            lease: RefCell::new(None),
            outlives_answer: Cell::new(false),
        }
    }
}

/// The outermost middleware. What it wraps answers with a response, also to refuse: an `Err` would leave without the id.
pub(crate) async fn track(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Tracked>, Error> {
    let given = request.headers().get(REQUEST_ID);
    let id = (given.and_then(sane)).unwrap_or_else(|| random_id("req_"));
    let context = Rc::new(RequestContext::new(id));
    request.extensions_mut().insert(Rc::clone(&context));
    let mut log = RequestLog::new(request.request(), Rc::clone(&context));

    // As the router reads it, so that no other spelling of a path has another form of errors.
    let dialect = Dialect::of(request.match_info().as_str());
    let framing = Framing::of(request.request(), &context);
    // A panic would end the connection's task, and with it the connection, without an answer.
    let response = match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(response) => response?.map_into_boxed_body(),
        Err(panic) => return Err(log.panicked(&*panic, dialect)),
    };
    let mut response = dialect.settle(response, &context.id);
    framing.settle(response.response_mut());
    // The id was made or checked to be a header value; an empty answer is still an answer.
    if let Ok(value) = HeaderValue::from_str(&context.id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    log.answered(&response);
    Ok(response.map_body(|_, body| Tracked { body, log }))
}

/// What decides where an answer ends and what may follow it, where the dispatcher (actix-http 3.20) gets that wrong.
struct Framing {
    activity: Option<Rc<Activity>>,
    context: Rc<RequestContext>,
    /// HTTP/1.0 has no chunks: the end of the connection is the end of a stream.
    old: bool,
    /// The dispatcher takes everything that follows for the body, and announces chunks that it does not write.
    upgrade: bool,
    /// There is a body. One that nobody wants ends the connection: the dispatcher would read chunks to their end, however
    /// far that is.
    body: bool,
}

impl Framing {
    fn of(request: &HttpRequest, context: &Rc<RequestContext>) -> Self {
        let headers = request.headers();
        Self {
            activity: Activity::of(request).cloned(),
            context: Rc::clone(context),
            old: request.version() < Version::HTTP_11,
            upgrade: headers.contains_key(header::UPGRADE) || request.method() == Method::CONNECT,
            body: headers.contains_key(header::TRANSFER_ENCODING)
                || (headers.get(header::CONTENT_LENGTH)).is_some_and(|length| length != "0"),
        }
    }

    /// The body's length, if the head says it.
    fn body_len(request: &HttpRequest) -> Option<u64> {
        let headers = request.headers();
        let unknown = [header::TRANSFER_ENCODING, header::UPGRADE]
            .iter()
            .any(|name| headers.contains_key(name));
        if unknown || request.method() == Method::CONNECT {
            return None;
        }
        match headers.get(header::CONTENT_LENGTH) {
            None => Some(0),
            Some(length) => length.to_str().ok()?.trim().parse().ok(),
        }
    }

    fn settle(&self, response: &mut HttpResponse) {
        let streamed = response.body().size() == BodySize::Stream;
        let head = response.head_mut();
        if streamed && (self.old || self.upgrade) {
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        }
        if self.upgrade || (self.body && !self.context.body_read.get()) {
            head.set_connection_type(ConnectionType::Close);
            if let Some(activity) = &self.activity {
                activity.close();
            }
        }
    }
}

/// `prefix` and 24 random letters and digits (142 bits): unique, not secret.
pub(crate) fn random_id(prefix: &str) -> String {
    let mut id = prefix.to_owned();
    id.extend((0..24).map(|_| fastrand::alphanumeric()));
    id
}

/// A client's id, if it can stand in a log line and in a header.
fn sane(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let ordinary = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=@#".contains(c);
    ((1..=128).contains(&text.len()) && text.chars().all(ordinary)).then(|| text.to_owned())
}

/// Logs and counts an answer to something that never became a request.
pub(crate) fn log_refusal(id: &str, error: &ApiError, metrics: &ApiMetrics) {
    let (status, code) = (error.code().status().as_u16(), error.code().as_str());
    metrics.request_started();
    metrics.request_ended(routes::label(None), status, Duration::ZERO);
    metrics.error(code);
    tracing::info!(request_id = %id, status, error = code, detail = error.internal_detail(), "no request");
}

/// Ends the request when dropped.
struct RequestLog {
    context: Rc<RequestContext>,
    metrics: Option<ApiMetrics>,
    route: &'static str,
    method: Method,
    path: String,
    status: Option<StatusCode>,
    error: Option<ApiError>,
    sent_bytes: u64,
    complete: bool,
    _open: Option<OpenRequest>,
}

impl RequestLog {
    fn new(request: &HttpRequest, context: Rc<RequestContext>) -> Self {
        let metrics = request
            .app_data::<actix_web::web::Data<AppState>>()
            .map(|state| state.metrics.api.clone());
        if let Some(metrics) = &metrics {
            metrics.request_started();
        }
        let expects = request.head().expect();
        let body_len = Framing::body_len(request);
        Self {
            _open: Activity::of(request).map(|activity| activity.begin(body_len, expects)),
            context,
            metrics,
            route: routes::label(request.match_pattern().as_deref()),
            method: request.method().clone(),
            path: request.path().chars().take(256).collect(),
            status: None,
            error: None,
            sent_bytes: 0,
            complete: false,
        }
    }

    fn answered(&mut self, response: &ServiceResponse<BoxBody>) {
        self.status = Some(response.status());
        self.error = response.response().extensions().get::<ApiError>().cloned();
        // actix does not ask for the bytes of these.
        self.complete = self.method == Method::HEAD
            || matches!(
                response.response().body().size(),
                BodySize::None | BodySize::Sized(0)
            );
    }

    /// Ends a request whose handler panicked, with what is left to answer.
    fn panicked(mut self, panic: &(dyn Any + Send), dialect: Dialect) -> Error {
        let message = (panic.downcast_ref::<&str>().copied())
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let error = ApiError::internal()
            .with_internal(format!("panic: {}", message.unwrap_or("no message")));
        let mut answer = dialect.panicked(&error, &self.context.id, error.error_response());
        if let Ok(value) = HeaderValue::from_str(&self.context.id) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        self.status = Some(answer.status());
        self.complete = true;
        self.error = Some(error);
        InternalError::from_response("a handler panicked", answer).into()
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        if !self.context.outlives_answer.get() {
            self.context.lease.take();
        }
        let took = self.context.arrived.elapsed();
        let status = self
            .status
            .map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
        let code = self.error.as_ref().map(|error| error.code());
        if let Some(metrics) = &self.metrics {
            metrics.request_ended(self.route, status, took);
            if let Some(code) = code {
                metrics.error(code.as_str());
            }
        }
        let usage = self.context.usage.get();
        tracing::info!(
            request_id = %self.context.id,
            method = %self.method,
            path = %self.path,
            principal = self.context.principal.get().map(|principal| &**principal),
            status,
            duration_ms = took.as_secs_f64() * 1e3,
            bytes = self.sent_bytes,
            complete = self.complete,
            error = code.map(ErrorCode::as_str),
            param = self.error.as_ref().and_then(ApiError::param),
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            cached_tokens = usage.map(|usage| usage.prompt_tokens_details.cached_tokens),
            completion_tokens = usage.map(|usage| usage.completion_tokens),
            "request"
        );
        if let Some(error) = &self.error
            && let Some(detail) = error.internal_detail()
        {
            let request_id = &self.context.id;
            // A client's mistake is no error of ours, whatever its detail.
            if error.code().status().is_server_error() {
                tracing::error!(%request_id, detail, "request failed");
            } else {
                tracing::debug!(%request_id, detail, "request refused");
            }
        }
    }
}

/// An answer's body with the log of its request.
pub(crate) struct Tracked {
    body: BoxBody,
    log: RequestLog,
}

impl MessageBody for Tracked {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.body).poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(bytes))) => this.log.sent_bytes += bytes.len() as u64,
            Poll::Ready(None) => this.log.complete = true,
            _ => {}
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_fit_a_log_line_are_taken_over() {
        let check = |text: &[u8]| HeaderValue::from_bytes(text).ok().and_then(|v| sane(&v));
        assert_eq!(check(b"abc-123_x.y:z").as_deref(), Some("abc-123_x.y:z"));
        for bad in [&b""[..], b"a b", b"a\tb", b"a\"b", b"\xff", &[b'a'; 129]] {
            assert_eq!(check(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_panic_is_an_answer_with_an_id() {
        use actix_web::{App, middleware::from_fn, rt::System, test, web};

        async fn panics() -> &'static str {
            panic!("a bug")
        }
        System::new().block_on(async {
            let app = App::new().route("/", web::get().to(panics));
            let service = test::init_service(app.wrap(from_fn(track))).await;
            let request = test::TestRequest::get().insert_header((REQUEST_ID, "my-id"));
            let error = test::try_call_service(&service, request.to_request()).await;
            let answer = error.expect_err("an error").error_response();
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let id = answer.headers().get(REQUEST_ID);
            assert_eq!(id.and_then(|id| id.to_str().ok()), Some("my-id"));
            let body = actix_web::body::to_bytes(answer.into_body()).await;
            let body = String::from_utf8(body.unwrap_or_default().to_vec()).expect("text");
            assert!(
                body.contains("internal_error") && !body.contains("a bug"),
                "{body}"
            );
        });
    }

    #[test]
    fn random_ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| random_id("x")).collect();
        assert_eq!(ids.len(), 1000);
    }
}
