//! A response that is being generated: from the scheduler's events to items, and into the store.
//!
//! Whole, streamed and in the background are the same run, read in three ways.
//! Invariants: the terminal event is given out when the response is kept, and not before; dropping a run cancels it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use futures_util::future::{Either, pending, select};

use super::live::Live;
use crate::error::ApiError;
use crate::generation::{Event, Generation};
use crate::reply::responses::{End, ResponseWriter};
use crate::sse::{self, Frames};
use crate::state::AppState;
use crate::store::Record;
use crate::validate::response_tools::Namespaces;
use crate::wire::chat::FinishReason;
use crate::wire::responses::answer::Response;
use crate::wire::responses::event::ResponseStreamEvent;

/// What to keep of a response, besides itself.
#[derive(Clone)]
pub(super) struct Keep {
    /// Whose it is.
    pub owner: Arc<str>,
    /// Its own input items, a JSON array.
    pub input: String,
}

/// See the file's header.
pub(super) struct Run {
    /// `None` after a cancellation.
    generation: Option<Generation>,
    writer: ResponseWriter,
    reason: FinishReason,
    keep: Option<Keep>,
    /// In the background: who else looks at it.
    live: Option<Arc<Live>>,
    failure: Option<ApiError>,
    /// The client waits for the whole: a failure is its answer, and nothing of it is kept.
    whole: bool,
    ended: bool,
    state: AppState,
}

/// What a run has to say.
pub(super) enum Said {
    /// Events, at least one.
    Events(Vec<ResponseStreamEvent>),
    /// Nothing for as long as was asked.
    Nothing,
    /// That was all.
    End,
}

enum Heard {
    Event(Option<Event>),
    Cancelled,
    Nothing,
}

impl Run {
    /// A run that has just been submitted.
    pub fn new(
        generation: Generation,
        response: Response,
        namespaces: Namespaces,
        keep: Option<Keep>,
        state: &AppState,
    ) -> Self {
        Self {
            generation: Some(generation),
            writer: ResponseWriter::new(response, namespaces),
            reason: FinishReason::Stop,
            keep,
            live: None,
            failure: None,
            whole: false,
            ended: false,
            state: state.clone(),
        }
    }

    /// Lets others see it and cancel it.
    pub fn set_live(&mut self, live: Arc<Live>) {
        self.live = Some(live);
    }

    /// The response as it is now.
    pub fn response(&self) -> &Response {
        self.writer.response()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It failed; nothing of it is kept.
    pub async fn whole(mut self) -> Result<Response, ApiError> {
        self.whole = true;
        while !matches!(self.next(None).await, Said::End) {}
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(self.writer.response().clone()),
        }
    }

    /// Runs it, event by event.
    pub fn streamed(self, heartbeat: Option<Duration>) -> HttpResponse {
        sse::stream_of(self, async move |run: &mut Self| {
            match run.next(heartbeat).await {
                Said::Events(events) => Some(frames(&events)),
                Said::Nothing => Some(sse::HEARTBEAT),
                Said::End => None,
            }
        })
    }

    /// What is new. Dropping the future before it is ready loses nothing, unless the run was about to end.
    pub async fn next(&mut self, silence: Option<Duration>) -> Said {
        loop {
            let events = self.writer.take_events();
            if !events.is_empty() {
                return Said::Events(events);
            }
            if self.ended {
                return Said::End;
            }
            match self.hear(silence).await {
                Heard::Nothing => return Said::Nothing,
                Heard::Cancelled => {
                    let generation = self.generation.take();
                    let usage = generation.map(|generation| generation.total_usage());
                    self.end(End::Cancelled(usage.unwrap_or_default())).await;
                }
                Heard::Event(event) => self.digest(event).await,
            }
        }
    }

    async fn digest(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Prompt { .. }) => {}
            Some(Event::Update { update, .. }) => {
                self.writer.start();
                self.writer.update(update);
            }
            Some(Event::ChoiceFinished { update, reason, .. }) => {
                self.writer.start();
                self.writer.update(update);
                self.reason = reason;
            }
            Some(Event::Finished(usage)) => self.end(End::Finished(self.reason, usage)).await,
            Some(Event::Failed(error)) => self.fail(error).await,
            None => {
                let error = ApiError::internal();
                self.fail(error.with_internal("a generation ended without a terminal event"))
                    .await;
            }
        }
    }

    async fn fail(&mut self, error: ApiError) {
        self.note(&error);
        self.failure = Some(error.clone());
        if self.whole {
            self.keep = None;
        }
        self.end(End::Failed(error)).await;
    }

    async fn end(&mut self, end: End) {
        self.ended = true;
        self.writer.end(end);
        self.writer.conclude();
        let Some(record) = self.record() else { return };
        if let Err(error) = self.state.responses.store.save(record).await {
            let error = ApiError::from(error);
            self.note(&error);
            self.failure = Some(error.clone());
            self.writer.lose(error);
        }
    }

    /// What to keep of it as it is now.
    pub fn record(&self) -> Option<Record> {
        let keep = self.keep.clone()?;
        let response = self.writer.response();
        let events = (self.live.as_ref()).and_then(|live| live.events_with(self.writer.events()));
        Some(Record {
            id: response.id.clone(),
            owner: keep.owner.to_string(),
            previous: response.previous_response_id.clone(),
            status: response.status.as_str(),
            response: json(response),
            input: keep.input,
            events,
        })
    }

    async fn hear(&mut self, silence: Option<Duration>) -> Heard {
        let Some(generation) = &mut self.generation else {
            return Heard::Event(None);
        };
        let live = self.live.as_deref();
        let cancelled = async {
            match live {
                Some(live) => live.cancelled().await,
                None => pending().await,
            }
        };
        let (event, cancelled) = (pin!(generation.next()), pin!(cancelled));
        let heard = select(event, cancelled);
        let heard = match silence {
            None => heard.await,
            Some(silence) => match tokio::time::timeout(silence, heard).await {
                Ok(heard) => heard,
                Err(_) => return Heard::Nothing,
            },
        };
        match heard {
            Either::Left((event, _)) => Heard::Event(event),
            Either::Right(_) => Heard::Cancelled,
        }
    }

    /// For the operator: where the answer's status says nothing of it.
    fn note(&self, error: &ApiError) {
        if self.whole {
            return;
        }
        self.state.metrics.api.error(error.code().as_str());
        tracing::error!(
            response_id = %self.writer.response().id,
            error = error.code().as_str(),
            detail = error.internal_detail(),
            "response failed"
        );
    }
}

/// Events as they are sent.
pub(super) fn frames(events: &[ResponseStreamEvent]) -> Bytes {
    let mut frames = Frames::default();
    for event in events {
        frames.event(event.event.name(), event);
    }
    frames.into_bytes()
}

/// Our wire types have string keys and finite numbers: this cannot fail. If it does, nothing can be read of it later.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
