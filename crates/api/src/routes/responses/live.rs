//! Responses that are generated in the background: who may look at them, cancel them, read their stream.
//!
//! The run belongs to a task on the thread of the worker that took the request; this is what the others share with it.
//! Invariants: a response is here or in the store from the moment at which its client knows its id, without a gap; a
//! reader gets every event once and in order, from wherever it starts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use super::run::{Run, Said, json};
use crate::error::ApiError;
use crate::sse::{self, Frames};
use crate::state::AppState;
use crate::store::ResponseStore;
use crate::wire::responses::event::ResponseStreamEvent;

/// What the server knows of responses beyond single requests.
pub(crate) struct Responses {
    pub store: ResponseStore,
    live: DashMap<String, Arc<Live>>,
    /// How many are live.
    open: watch::Sender<usize>,
}

impl Responses {
    /// Nothing is live yet.
    pub fn new(store: ResponseStore) -> Self {
        Self {
            store,
            live: DashMap::new(),
            open: watch::Sender::new(0),
        }
    }

    /// A response of this owner that is being generated in the background.
    pub fn live(&self, owner: &str, id: &str) -> Option<Arc<Live>> {
        let live = Arc::clone(self.live.get(id)?.value());
        (*live.owner == *owner).then_some(live)
    }

    /// Returns when none is live.
    pub async fn settled(&self) {
        let mut open = self.open.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

/// A response that is being generated in the background.
pub(crate) struct Live {
    owner: Arc<str>,
    cancel: Notify,
    now: Mutex<Now>,
    /// Changes with `now`.
    changed: watch::Sender<()>,
}

struct Now {
    /// As on the wire.
    response: String,
    /// As on the wire, if they may be read again. At most 200 bytes for each generated token, and as many tokens as a
    /// sequence can have.
    events: Option<Vec<Line>>,
    ended: bool,
}

/// An event, ready to be sent.
#[derive(Clone)]
struct Line {
    name: &'static str,
    json: Arc<str>,
}

impl Live {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The response as it is now, JSON.
    pub fn response(&self) -> String {
        self.now().response.clone()
    }

    /// Whether its stream may be read.
    pub fn is_streamed(&self) -> bool {
        self.now().events.is_some()
    }

    /// Asks the run to end.
    pub fn cancel(&self) {
        self.cancel.notify_one();
    }

    /// Returns when the run is to end.
    pub async fn cancelled(&self) {
        self.cancel.notified().await;
    }

    /// Returns when the run has ended and is kept.
    pub async fn ended(&self) {
        let mut changes = self.changed.subscribe();
        while !self.now().ended && changes.changed().await.is_ok() {}
    }

    /// All events so far and these, one a line, if they may be read again.
    pub fn events_with(&self, more: &[ResponseStreamEvent]) -> Option<String> {
        let now = self.now();
        let mut lines = String::new();
        for line in now.events.as_ref()? {
            lines.push_str(&line.json);
            lines.push('\n');
        }
        for event in more {
            lines.push_str(&json(event));
            lines.push('\n');
        }
        Some(lines)
    }

    fn tell(&self, run: &Run, events: &[ResponseStreamEvent]) {
        let mut now = self.now();
        if events.iter().any(|event| event.event.has_response()) {
            now.response = json(run.response());
        }
        if let Some(lines) = &mut now.events {
            lines.extend(events.iter().map(|event| Line {
                name: event.event.name(),
                json: json(event).into(),
            }));
        }
        drop(now);
        self.changed.send_replace(());
    }

    fn end(&self) {
        self.now().ended = true;
        self.changed.send_replace(());
    }

    /// Its stream from event number `from` on, until its end.
    pub fn stream(self: Arc<Self>, from: usize, heartbeat: Option<Duration>) -> HttpResponse {
        let reader = Reader {
            changes: self.changed.subscribe(),
            live: self,
            next: from,
        };
        sse::stream_of(reader, async move |reader: &mut Reader| match heartbeat {
            None => reader.next().await,
            Some(silence) => match tokio::time::timeout(silence, reader.next()).await {
                Ok(bytes) => bytes,
                Err(_) => Some(sse::HEARTBEAT),
            },
        })
    }
}

struct Reader {
    live: Arc<Live>,
    changes: watch::Receiver<()>,
    next: usize,
}

impl Reader {
    /// Cancel-safe: a dropped future loses nothing.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Before looking, so that what comes meanwhile is a change.
            self.changes.mark_unchanged();
            let (new, ended) = {
                let now = self.live.now();
                let events = now.events.as_deref().unwrap_or_default();
                (
                    events.get(self.next..).unwrap_or_default().to_vec(),
                    now.ended,
                )
            };
            if !new.is_empty() {
                self.next += new.len();
                let mut frames = Frames::default();
                for line in new {
                    frames.event_text(line.name, &line.json);
                }
                return Some(frames.into_bytes());
            }
            if ended || self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// Lets a run go on by itself. Answers with the response as it is, or with its stream.
///
/// # Errors
/// It cannot be kept; it is cancelled.
pub(super) async fn start(
    mut run: Run,
    owner: Arc<str>,
    streamed: bool,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    // Who knows the id must find it, also if the server is killed in the next moment.
    if let Some(record) = run.record() {
        state.responses.store.save(record).await?;
    }
    let response = json(run.response());
    let id = run.response().id.clone();
    let live = Arc::new(Live {
        owner,
        cancel: Notify::new(),
        now: Mutex::new(Now {
            response: response.clone(),
            events: streamed.then(Vec::new),
            ended: false,
        }),
        changed: watch::Sender::new(()),
    });
    run.set_live(Arc::clone(&live));
    state.responses.open.send_modify(|open| *open += 1);
    state.responses.live.insert(id.clone(), Arc::clone(&live));
    let leave = Leave {
        id,
        live: Arc::clone(&live),
        state: state.clone(),
    };
    actix_web::rt::spawn(async move {
        // Also if this task is dropped, with its thread.
        let leave = leave;
        loop {
            match run.next(None).await {
                Said::Events(events) => leave.live.tell(&run, &events),
                Said::Nothing => {}
                Said::End => break,
            }
        }
        let response = run.response();
        tracing::info!(
            response_id = %response.id,
            status = response.status.as_str(),
            prompt_tokens = response.usage.map(|usage| usage.input_tokens),
            completion_tokens = response.usage.map(|usage| usage.output_tokens),
            "background response"
        );
    });
    if streamed {
        return Ok(live.stream(0, state.config.heartbeat));
    }
    Ok(HttpResponse::Ok()
        .content_type("application/json")
        .body(response))
}

/// Takes a response out of the list of those that are live.
struct Leave {
    id: String,
    live: Arc<Live>,
    state: AppState,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let responses = &self.state.responses;
        responses.live.remove(&self.id);
        self.live.end();
        responses.open.send_modify(|open| *open -= 1);
    }
}
