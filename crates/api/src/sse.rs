//! A generation as server-sent events.
//!
//! ```text
//! data: {chunk}\n\n ... data: [DONE]\n\n          completed
//! data: {chunk}\n\n ... data: {"error":{...}}\n\n   failed: no [DONE]
//! : ping\n\n                                        nothing to say for a while (queued, long prompt)
//! ```
//! That is OpenAI's way; an endpoint with named events says in its [`Chunks`] how it begins, fails, ends and stays alive.
//! The status line goes out when the scheduler has accepted the request, before the first token. Comments in the silence
//! keep proxies from giving up and make a dead client noticeable.
//! Invariant: actix drops the body when the client goes away; with it the [`Generation`], which cancels the request.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Bytes;
use futures_util::stream;
use gossamer_metrics::ApiMetrics;
use serde::Serialize;

use crate::error::ApiError;
use crate::generation::{Event, Generation};
use crate::wire::usage::Usage;

/// Writes the chunks of one endpoint.
pub(crate) trait Chunks {
    /// What goes out at once, before anything has happened.
    fn begin(&mut self, frames: &mut Frames) {
        let _ = frames;
    }
    /// What goes out for an event that is no failure. `so_far` counts the tokens of all choices.
    fn write(&mut self, event: Event, so_far: Usage, frames: &mut Frames);
    /// What goes out last, after the event `Finished` was written.
    fn end(&mut self, frames: &mut Frames) {
        frames.done();
    }
    /// What goes out last, if the request failed. `request_id` is the one in the answer's head.
    fn fail(&mut self, error: &ApiError, request_id: &str, frames: &mut Frames) {
        let _ = request_id;
        frames.data(&error.body());
    }
    /// What goes out when there is nothing to say.
    fn heartbeat(&self, frames: &mut Frames) {
        frames.comment("ping");
    }
}

/// Events ready to go out.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds an event with a name.
    pub fn event(&mut self, name: &str, chunk: &impl Serialize) {
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.data(chunk);
    }

    /// Adds an event.
    pub fn data(&mut self, chunk: &impl Serialize) {
        self.bytes.extend_from_slice(b"data: ");
        let start = self.bytes.len();
        // Our wire types have string keys and finite numbers: this cannot fail. If it does, an empty event is harmless.
        if serde_json::to_writer(&mut self.bytes, chunk).is_err() {
            self.bytes.truncate(start);
        }
        self.bytes.extend_from_slice(b"\n\n");
    }

    /// Adds an event with a name, whose data is JSON already.
    pub fn event_text(&mut self, name: &str, json: &str) {
        for part in ["event: ", name, "\ndata: ", json, "\n\n"] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
    }

    /// What is to be sent.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }

    /// Adds a comment, which clients skip.
    pub fn comment(&mut self, text: &str) {
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(b"\n\n");
    }

    fn done(&mut self) {
        self.bytes.extend_from_slice(b"data: [DONE]\n\n");
    }
}

struct Stream<C> {
    generation: Generation,
    chunks: C,
    heartbeat: Option<Duration>,
    metrics: ApiMetrics,
    begun: bool,
    ended: bool,
}

/// The answer: headers at once, events as they come.
pub(crate) fn respond(
    generation: Generation,
    chunks: impl Chunks + 'static,
    heartbeat: Option<Duration>,
    metrics: ApiMetrics,
) -> HttpResponse {
    let events = Stream {
        generation,
        chunks,
        heartbeat,
        metrics,
        begun: false,
        ended: false,
    };
    stream_of(events, async |events: &mut Stream<_>| events.next().await)
}

/// Keeps a silent stream open.
pub(crate) const HEARTBEAT: Bytes = Bytes::from_static(b": ping\n\n");

/// An answer of events: `next` gives some bytes, until there are none.
pub(crate) fn stream_of<S: 'static>(
    source: S,
    next: impl AsyncFn(&mut S) -> Option<Bytes> + 'static,
) -> HttpResponse {
    let body = stream::unfold((source, next), |(mut source, next)| async move {
        let bytes = next(&mut source).await?;
        Some((Ok::<_, actix_web::Error>(bytes), (source, next)))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        // nginx collects answers otherwise.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body)
}

impl<C: Chunks> Stream<C> {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            let mut frames = Frames::default();
            self.chunks.begin(&mut frames);
            if !frames.bytes.is_empty() {
                return Some(frames.bytes.into());
            }
        }
        loop {
            let event = match self.heartbeat {
                None => self.generation.next().await,
                Some(silence) => {
                    match tokio::time::timeout(silence, self.generation.next()).await {
                        Ok(event) => event,
                        Err(_) => {
                            let mut frames = Frames::default();
                            self.chunks.heartbeat(&mut frames);
                            return Some(frames.into_bytes());
                        }
                    }
                }
            };
            let mut frames = Frames::default();
            match event {
                Some(Event::Failed(error)) => {
                    self.ended = true;
                    self.failed(&error);
                    let id = &self.generation.context().id;
                    self.chunks.fail(&error, id, &mut frames);
                }
                Some(event @ Event::Finished(_)) => {
                    self.ended = true;
                    let usage = self.generation.total_usage();
                    self.chunks.write(event, usage, &mut frames);
                    self.chunks.end(&mut frames);
                }
                Some(event) => {
                    let usage = self.generation.total_usage();
                    self.chunks.write(event, usage, &mut frames);
                }
                None => return None,
            }
            if !frames.bytes.is_empty() {
                return Some(frames.into_bytes());
            }
        }
    }

    fn failed(&self, error: &ApiError) {
        self.metrics.error(error.code().as_str());
        tracing::error!(
            request_id = %self.generation.context().id,
            error = error.code().as_str(),
            detail = error.internal_detail(),
            "stream failed"
        );
    }
}
