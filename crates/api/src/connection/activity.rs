//! What a connection and the requests on it tell each other.
//!
//! The dispatcher between them keeps its state to itself: the connection below it sees bytes, the middleware above it sees
//! requests. Single-threaded like both. Invariant: `open` is the number of [`OpenRequest`]s alive.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;

use actix_web::HttpRequest;

/// Shared by a connection and its requests.
#[derive(Default)]
pub(crate) struct Activity {
    /// Requests whose answer is not complete.
    open: Cell<usize>,
    /// Requests so far, modulo 2^64.
    started: Cell<u64>,
    /// Bytes of the latest request's body that have not come by; `None` if its end is not known from its head.
    body_left: Cell<Option<u64>>,
    expectation: Cell<Expectation>,
    closing: Cell<bool>,
    /// Woken when a request is done.
    waiting: Cell<Option<Waker>>,
}

/// Where an `Expect: 100-continue` stands.
///
/// The dispatcher says `100 Continue` before it asks anybody. It has to wait until a handler wants the body: one that
/// refuses the request by its head should answer before the client sends megabytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Nothing to do.
    #[default]
    None,
    /// A request came with it; the dispatcher's line has not come by yet.
    Asked,
    /// The line was taken out.
    Held,
    /// The body is wanted, before the line came by: it may pass.
    Granted,
    /// The body is wanted, and the line was taken out: it has to be said now.
    Due,
}

impl Activity {
    /// Of the connection that a request came on; `None` for a request made by hand.
    pub fn of(request: &HttpRequest) -> Option<&Rc<Self>> {
        request.conn_data::<Rc<Self>>()
    }

    /// A request's head was read. `body_len` is the length of its body, if the head says it.
    pub fn begin(self: &Rc<Self>, body_len: Option<u64>, expects_continue: bool) -> OpenRequest {
        self.body_left.set(body_len);
        self.open.set(self.open.get() + 1);
        self.started.set(self.started.get().wrapping_add(1));
        if expects_continue {
            self.expectation.set(Expectation::Asked);
        }
        OpenRequest(Rc::clone(self))
    }

    /// The handler wants the body.
    pub fn want_body(&self) {
        self.expectation.set(match self.expectation.get() {
            Expectation::Asked => Expectation::Granted,
            Expectation::Held => Expectation::Due,
            other => other,
        });
    }

    /// The connection's last answer was made: what comes in now is thrown away, and nothing is said to it.
    pub fn close(&self) {
        self.closing.set(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(super) fn has_open_requests(&self) -> bool {
        self.open.get() > 0
    }

    pub(super) fn body_left(&self) -> Option<u64> {
        self.body_left.get()
    }

    /// So many bytes were passed on; those of a head change nothing.
    pub(super) fn body_passed(&self, count: u64) {
        if self.has_open_requests() {
            let left = self.body_left.get();
            self.body_left
                .set(left.map(|left| left.saturating_sub(count)));
        }
    }

    /// Wakes a task when the next request is done.
    pub(super) fn wake_when_done(&self, waker: &Waker) {
        self.waiting.set(Some(waker.clone()));
    }

    pub(super) fn started(&self) -> u64 {
        self.started.get()
    }

    pub(super) fn expectation(&self) -> Expectation {
        self.expectation.get()
    }

    pub(super) fn set_expectation(&self, expectation: Expectation) {
        self.expectation.set(expectation);
    }
}

/// A request whose answer is not complete; dropped when it is, or when nobody waits for it any more.
pub(crate) struct OpenRequest(Rc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.open.set(activity.open.get().saturating_sub(1));
        if activity.expectation.get() == Expectation::Held {
            activity.expectation.set(Expectation::None);
        }
        if let Some(waker) = activity.waiting.take() {
            waker.wake();
        }
    }
}
