//! A response in the making: updates of a generation to output items, and to the events of a stream.
//!
//! ```text
//! created [queued] in_progress ( item.added part.added delta* done part.done item.done )* completed | incomplete | failed
//! ```
//! Calls have no parts. One item is open at a time; items stand in `output` in the order in which the model wrote them, so
//! that, sent back, they are rendered as the tokens that they were made of.
//! Invariants: sequence numbers have no gap; the texts of the deltas are the text of the item; there is one terminal event,
//! and nothing after it. A stream that nobody reads makes the same response.

use crate::error::ApiError;
use crate::generation::{Piece, Speech, Update};
use crate::request_id::random_id;
use crate::state::unix_seconds;
use crate::validate::response_tools::Namespaces;
use crate::wire::chat::{FinishReason, TokenLogprob};
use crate::wire::responses::answer::{
    IncompleteDetails, ItemStatus, OutputItem, OutputPart, Phase, ReasoningPart, Response,
    ResponseError, ResponseStatus,
};
use crate::wire::responses::event::{
    ArgumentsDelta, ArgumentsDone, EventPart, LogprobDelta, LogprobDone, OfItem, OfPart,
    OfResponse, ResponseEvent, ResponseStreamEvent, TextDelta, TextDone,
};
use crate::wire::usage::Usage;

/// See the file's header.
pub(crate) struct ResponseWriter {
    response: Response,
    /// Functions that the client knows by two names.
    namespaces: Namespaces,
    open: Option<Open>,
    next_sequence: u64,
    events: Vec<ResponseStreamEvent>,
}

/// The item that grows.
struct Open {
    id: String,
    kind: Kind,
    text: String,
    logprobs: Vec<TokenLogprob>,
}

enum Kind {
    Reasoning,
    Message(Phase),
    Call {
        index: usize,
        call_id: String,
        namespace: Option<String>,
        name: String,
    },
}

/// How a response ends.
pub(crate) enum End {
    /// The model, or its bound, ended it.
    Finished(FinishReason, Usage),
    /// The server could not go on.
    Failed(ApiError),
    /// Somebody asked for it.
    Cancelled(Usage),
}

impl ResponseWriter {
    /// Begins with the events that say so. A response that is queued is started by [`ResponseWriter::start`].
    pub fn new(response: Response, namespaces: Namespaces) -> Self {
        let queued = response.status == ResponseStatus::Queued;
        let mut writer = Self {
            response,
            namespaces,
            open: None,
            next_sequence: 0,
            events: Vec::new(),
        };
        writer.tell(ResponseEvent::Created);
        if queued {
            writer.tell(ResponseEvent::Queued);
        } else {
            writer.tell(ResponseEvent::InProgress);
        }
        writer
    }

    /// The model works on it.
    pub fn start(&mut self) {
        if self.response.status == ResponseStatus::Queued {
            self.response.status = ResponseStatus::InProgress;
            self.tell(ResponseEvent::InProgress);
        }
    }

    /// Takes what is new.
    pub fn update(&mut self, update: Update) {
        let mut logprobs = update.logprobs;
        for piece in update.pieces {
            match piece {
                Piece::Begin(speech) => self.begin(Kind::of(speech)),
                Piece::ToolCall { index, id, name } => {
                    let (namespace, name) = match self.namespaces.get(&name) {
                        Some((namespace, name)) => (Some(namespace.clone()), name.clone()),
                        None => (None, name),
                    };
                    self.begin(Kind::Call {
                        index,
                        call_id: id,
                        namespace,
                        name,
                    });
                }
                Piece::Reasoning(text) => self.grow(text, Vec::new()),
                Piece::Arguments { index, text } => {
                    // More of a call that something else has interrupted: its item has ended, and no other fits better.
                    if !self.is_open(|kind| {
                        matches!(kind, Kind::Call { index: i, .. } if *i == index)
                            || matches!(kind, Kind::Message(_))
                    }) {
                        self.begin(Kind::Message(Phase::FinalAnswer));
                    }
                    self.grow(text, Vec::new());
                }
                // All log-probabilities of an update are of the text that comes with it, in one piece.
                Piece::Content(text) => self.grow(text, std::mem::take(&mut logprobs)),
            }
        }
        // Tokens at the very end whose text never came out.
        if let Some(open) = &mut self.open {
            open.logprobs.append(&mut logprobs);
        }
    }

    /// Ends its last item and settles what became of it; [`ResponseWriter::conclude`] tells it.
    pub fn end(&mut self, end: End) {
        let (status, usage) = match end {
            End::Finished(FinishReason::Length, usage) => {
                self.response.incomplete_details = Some(IncompleteDetails {
                    reason: "max_output_tokens",
                });
                (ResponseStatus::Incomplete, Some(usage))
            }
            End::Finished(_, usage) => {
                self.response.completed_at = Some(unix_seconds());
                (ResponseStatus::Completed, Some(usage))
            }
            End::Failed(error) => {
                self.response.error = Some(ResponseError {
                    code: "server_error",
                    message: error.body().error.message,
                });
                (ResponseStatus::Failed, None)
            }
            End::Cancelled(usage) => (ResponseStatus::Cancelled, Some(usage)),
        };
        self.close(if status == ResponseStatus::Completed {
            ItemStatus::Completed
        } else {
            ItemStatus::Incomplete
        });
        self.response.status = status;
        self.response.usage = usage.map(Into::into);
    }

    /// It could not be kept, though that was promised: takes the terminal event back, which nobody has seen, and tells of
    /// the failure instead.
    pub fn lose(&mut self, error: ApiError) {
        self.next_sequence -= u64::from(self.events.pop().is_some());
        self.response.completed_at = None;
        self.response.incomplete_details = None;
        self.end(End::Failed(error));
        self.conclude();
    }

    /// Tells the end.
    pub fn conclude(&mut self) {
        match self.response.status {
            ResponseStatus::Completed => self.tell(ResponseEvent::Completed),
            ResponseStatus::Failed => self.tell(ResponseEvent::Failed),
            _ => self.tell(ResponseEvent::Incomplete),
        }
    }

    /// The response as it is now.
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// The events that were not taken yet.
    pub fn events(&self) -> &[ResponseStreamEvent] {
        &self.events
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<ResponseStreamEvent> {
        std::mem::take(&mut self.events)
    }

    fn is_open(&self, is: impl Fn(&Kind) -> bool) -> bool {
        self.open.as_ref().is_some_and(|open| is(&open.kind))
    }

    fn begin(&mut self, kind: Kind) {
        self.close(ItemStatus::Completed);
        let open = Open {
            id: random_id(kind.prefix()),
            kind,
            text: String::new(),
            logprobs: Vec::new(),
        };
        let mut item = open.item(ItemStatus::InProgress);
        // Parts are added by events of their own.
        match &mut item {
            OutputItem::Reasoning { content, .. } => content.clear(),
            OutputItem::Message { content, .. } => content.clear(),
            OutputItem::FunctionCall { .. } => {}
        }
        self.push(ResponseEvent::ItemAdded(OfItem {
            output_index: self.response.output.len(),
            item,
        }));
        if let Some(part) = open.part() {
            self.push(ResponseEvent::PartAdded(self.of_part(&open, part)));
        }
        self.open = Some(open);
    }

    fn grow(&mut self, delta: String, logprobs: Vec<TokenLogprob>) {
        let output_index = self.response.output.len();
        // Every text comes behind the piece that announces its item.
        let Some(open) = &mut self.open else { return };
        open.text.push_str(&delta);
        open.logprobs.extend_from_slice(&logprobs);
        let (item_id, content_index) = (open.id.clone(), 0);
        let event = match open.kind {
            Kind::Reasoning => ResponseEvent::ReasoningDelta(TextDelta {
                item_id,
                output_index,
                content_index,
                delta,
            }),
            Kind::Message(_) => ResponseEvent::TextDelta(LogprobDelta {
                item_id,
                output_index,
                content_index,
                delta,
                logprobs,
            }),
            Kind::Call { .. } => ResponseEvent::ArgumentsDelta(ArgumentsDelta {
                item_id,
                output_index,
                delta,
            }),
        };
        self.push(event);
    }

    fn close(&mut self, status: ItemStatus) {
        let Some(open) = self.open.take() else { return };
        let output_index = self.response.output.len();
        let (item_id, content_index) = (open.id.clone(), 0);
        let text = open.text.clone();
        self.push(match &open.kind {
            Kind::Reasoning => ResponseEvent::ReasoningDone(TextDone {
                item_id,
                output_index,
                content_index,
                text,
            }),
            Kind::Message(_) => ResponseEvent::TextDone(LogprobDone {
                item_id,
                output_index,
                content_index,
                text,
                logprobs: open.logprobs.clone(),
            }),
            Kind::Call { name, .. } => ResponseEvent::ArgumentsDone(ArgumentsDone {
                item_id,
                output_index,
                name: name.clone(),
                arguments: text,
            }),
        });
        if let Some(part) = open.part() {
            self.push(ResponseEvent::PartDone(self.of_part(&open, part)));
        }
        let item = open.item(status);
        self.push(ResponseEvent::ItemDone(OfItem {
            output_index,
            item: item.clone(),
        }));
        self.response.output.push(item);
    }

    fn of_part(&self, open: &Open, part: EventPart) -> OfPart {
        OfPart {
            item_id: open.id.clone(),
            output_index: self.response.output.len(),
            content_index: 0,
            part,
        }
    }

    fn tell(&mut self, event: fn(OfResponse) -> ResponseEvent) {
        let response = Box::new(self.response.clone());
        self.push(event(OfResponse { response }));
    }

    fn push(&mut self, event: ResponseEvent) {
        let sequence_number = self.next_sequence;
        self.next_sequence += 1;
        self.events.push(ResponseStreamEvent {
            sequence_number,
            event,
        });
    }
}

impl Kind {
    fn of(speech: Speech) -> Self {
        match speech {
            Speech::Reasoning => Self::Reasoning,
            Speech::Preamble => Self::Message(Phase::Commentary),
            Speech::Answer => Self::Message(Phase::FinalAnswer),
        }
    }

    fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning => "rs_",
            Self::Message(_) => "msg_",
            Self::Call { .. } => "fc_",
        }
    }
}

impl Open {
    fn item(&self, status: ItemStatus) -> OutputItem {
        let id = self.id.clone();
        match &self.kind {
            Kind::Reasoning => OutputItem::Reasoning {
                id,
                status,
                summary: Vec::new(),
                content: vec![self.reasoning_part()],
            },
            Kind::Message(phase) => OutputItem::Message {
                id,
                status,
                role: "assistant",
                phase: *phase,
                content: vec![self.output_part()],
            },
            Kind::Call {
                call_id,
                namespace,
                name,
                ..
            } => OutputItem::FunctionCall {
                id,
                status,
                call_id: call_id.clone(),
                name: name.clone(),
                namespace: namespace.clone(),
                arguments: self.text.clone(),
            },
        }
    }

    fn part(&self) -> Option<EventPart> {
        match self.kind {
            Kind::Reasoning => Some(EventPart::Reasoning(self.reasoning_part())),
            Kind::Message(_) => Some(EventPart::Output(self.output_part())),
            Kind::Call { .. } => None,
        }
    }

    fn reasoning_part(&self) -> ReasoningPart {
        ReasoningPart::ReasoningText {
            text: self.text.clone(),
        }
    }

    fn output_part(&self) -> OutputPart {
        OutputPart::OutputText {
            text: self.text.clone(),
            annotations: Vec::new(),
            logprobs: self.logprobs.clone(),
        }
    }
}
