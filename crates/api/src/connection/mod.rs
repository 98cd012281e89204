//! A TCP connection as actix's HTTP/1 dispatcher sees it, with what the dispatcher (actix-http 3.20) leaves open:
//!
//! - its time-out for heads covers a connection's first request only; here every head has one, and so has a client that
//!   does not read its answer;
//! - it answers malformed heads with a bare status; here with the error object, an id and a line in the log;
//! - it closes with unread bytes in the socket, and the reset that follows destroys the answer on its way; here the rest
//!   is read first;
//! - it says `100 Continue` before anybody has looked at the request; here when a handler wants the body;
//! - it takes the end of the input for the end of the client also when that is a malformed second request; here only a
//!   client that is gone cancels what runs. The price is the same: one that closes its sending half looks like one that is
//!   gone, and gets an answer only if that is ready by then;
//! - it reads ahead, and what it has read changes answers that are not written yet; here one request at a time passes.
//!
//! Knows bytes, not requests; what it must know of them is in [`Activity`]. Invariant: bytes pass unchanged, but for the
//! dispatcher's own answers.

mod activity;
mod intake;
mod refusal;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use gossamer_metrics::{ApiMetrics, OpenConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep};

use activity::Expectation;
pub(crate) use activity::{Activity, OpenRequest};
use intake::{Intake, Step};
use refusal::Refusal;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Most that is read, and thrown away, from a client whose request was refused while it was still sending.
const MOST_DISCARDED: usize = 1 << 20;

/// Bounds on a connection's patience.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From a head's first byte, or from the connection's begin, to the head's end.
    pub head: Duration,
    /// How long a write may wait for the client to read.
    pub write: Duration,
    /// How long a refused client is listened to after the answer.
    pub linger: Duration,
}

/// See the file's header.
pub(crate) struct Connection {
    /// `None` only while it is dropped.
    io: Option<TcpStream>,
    activity: Rc<Activity>,
    patience: Patience,
    metrics: ApiMetrics,
    head: Option<HeadTimer>,
    write: Option<Pin<Box<Sleep>>>,
    /// Our own bytes, to go out before anything else.
    outgoing: Vec<u8>,
    intake: Intake,
    /// An answer of ours is the last one.
    refused: bool,
    /// Nothing was read yet, nor waited for.
    first: bool,
    _open: OpenConnection,
}

struct HeadTimer {
    sleep: Pin<Box<Sleep>>,
    /// [`Activity::started`] when the timer was set: a request since then has met it.
    started: u64,
    /// Something of the head is there.
    begun: bool,
}

impl Connection {
    /// Over an accepted socket.
    pub fn new(io: TcpStream, patience: Patience, metrics: ApiMetrics) -> Self {
        // Events are small and must not wait for each other. A socket that refuses is about to fail anyway.
        let _ = io.set_nodelay(true);
        Self {
            io: Some(io),
            activity: Rc::default(),
            patience,
            _open: metrics.connection_opened(),
            metrics,
            head: None,
            write: None,
            outgoing: Vec::new(),
            intake: Intake::default(),
            refused: false,
            first: true,
        }
    }

    /// What its requests share with it.
    pub fn activity(&self) -> Rc<Activity> {
        Rc::clone(&self.activity)
    }

    fn io(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let io = self.io.as_mut().map(Pin::new);
        io.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Starts the timer of a head, if none runs.
    fn expect_head(&mut self, begun: bool) {
        let started = self.activity.started();
        let head = self.patience.head;
        let timer = self.head.get_or_insert_with(|| HeadTimer {
            sleep: Box::pin(sleep(head)),
            started,
            begun: false,
        });
        timer.begun |= begun;
    }

    /// Whether the head that is being waited for is late. Registers for its deadline otherwise.
    fn head_is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let arrived = |timer: &HeadTimer| timer.started != self.activity.started();
        if self.activity.has_open_requests() || self.head.as_ref().is_some_and(arrived) {
            self.head = None;
        }
        let Some(timer) = &mut self.head else {
            return false;
        };
        timer.sleep.as_mut().poll(cx).is_ready()
    }

    /// Says why, if there is somebody to say it to, and ends the input, which makes the dispatcher close.
    fn give_up_on_head(&mut self) {
        let begun = self.head.take().is_some_and(|timer| timer.begun);
        self.intake.end();
        if begun && !self.activity.is_closing() {
            let answer = Refusal::late(self.patience.head).send(&self.metrics);
            self.outgoing.extend(answer);
            self.refused = true;
        }
    }

    /// Sends what is ours to send.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.expectation() == Expectation::Due {
            self.activity.set_expectation(Expectation::None);
            self.outgoing.extend_from_slice(CONTINUE);
        }
        while !self.outgoing.is_empty() {
            let bytes = std::mem::take(&mut self.outgoing);
            let written = self.poll_timed_write(cx, &bytes);
            self.outgoing = bytes;
            let written = ready!(written)?;
            self.outgoing.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// A write that fails when the client does not read for too long.
    fn poll_timed_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.io()?.poll_write(cx, bytes) {
            Poll::Ready(result) => {
                self.write = None;
                match result {
                    Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    result => Poll::Ready(result),
                }
            }
            Poll::Pending => {
                let limit = self.patience.write;
                let timer = self.write.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(timer.as_mut().poll(cx));
                tracing::debug!("a client did not read its answer in time");
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Whether the dispatcher's `100 Continue` is among these bytes and has to wait.
    fn hold_continue(&self, bytes: &[u8]) -> Held {
        match self.activity.expectation() {
            Expectation::Asked => {}
            Expectation::Granted => {
                self.activity.set_expectation(Expectation::None);
                return Held::No;
            }
            _ => return Held::No,
        }
        let found = (bytes.windows(CONTINUE.len())).position(|window| window == CONTINUE);
        match found {
            Some(0) => {
                self.activity
                    .set_expectation(if self.activity.has_open_requests() {
                        Expectation::Held
                    } else {
                        Expectation::None
                    });
                Held::Skip
            }
            Some(before) => Held::Before(before),
            None => Held::No,
        }
    }
}

enum Held {
    /// Everything may go out.
    No,
    /// The first bytes are `100 Continue`: skip them.
    Skip,
    /// `100 Continue` comes after so many bytes.
    Before(usize),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.first) {
            this.expect_head(false);
        }
        if this.head_is_late(cx) {
            this.give_up_on_head();
            return Poll::Ready(Ok(()));
        }
        let io = this.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        this.intake.fill(io, cx)?;
        match this.intake.step(&this.activity, buf.remaining()) {
            Step::Pass(count) => {
                this.intake.pass(count, buf, &this.activity);
                if !this.activity.has_open_requests() {
                    // The timer is polled when there is nothing more to read.
                    this.expect_head(true);
                }
                Poll::Ready(Ok(()))
            }
            Step::Yield => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Hold => {
                this.activity.wake_when_done(cx.waker());
                Poll::Pending
            }
            Step::Empty if this.intake.has_ended() => Poll::Ready(Ok(())),
            Step::Empty => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        let bytes = match this.hold_continue(bytes) {
            Held::No => bytes,
            Held::Skip => return Poll::Ready(Ok(CONTINUE.len())),
            Held::Before(end) => &bytes[..end],
        };
        if let Some((start, status)) = refusal::find(bytes) {
            this.refused = true;
            this.outgoing.extend_from_slice(&bytes[..start]);
            let answer = Refusal::of(status).send(&this.metrics);
            this.outgoing.extend(answer);
            // Taken over; the flush that follows sends it.
            return Poll::Ready(Ok(bytes.len()));
        }
        this.poll_timed_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        let gone = this.intake.is_over(&this.activity) && !this.refused;
        if gone && this.activity.has_open_requests() {
            // The client has gone, and somebody still works for it. Failing here is what makes the dispatcher drop that.
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        this.io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(cx))?;
        this.io()?.poll_shutdown(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(io) = self.io.take().filter(|_| self.refused) else {
            return;
        };
        // The runtime is gone when the server was stopped the hard way; so is everybody else then.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let rest = std::mem::take(&mut self.outgoing);
            let limit = self.patience.linger;
            runtime.spawn(async move {
                // However it ends, the socket is closed.
                let _ = tokio::time::timeout(limit, finish(io, rest)).await;
            });
        }
    }
}

/// Says the last word and listens until the client has heard it. Closing with bytes unread would reset the connection, and
/// a reset overtakes what was sent.
async fn finish(mut io: TcpStream, rest: Vec<u8>) -> io::Result<()> {
    io.write_all(&rest).await?;
    io.shutdown().await?;
    let mut discarded = 0;
    let mut buffer = [0; 4096];
    while discarded < MOST_DISCARDED {
        match io.read(&mut buffer).await? {
            0 => break,
            count => discarded += count,
        }
    }
    Ok(())
}
