//! The events of a streamed response.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{OutputItem, OutputPart, ReasoningPart, Response};
use crate::wire::chat::TokenLogprob;

/// One event. `type` is also the event's name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseStreamEvent {
    /// From 0, without a gap.
    pub sequence_number: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: ResponseEvent,
}

// `$name` is a `tt`: a literal that has been matched as one is hidden from the derive macro of the schema.
macro_rules! events {
    ($($(#[doc = $doc:literal])* $variant:ident($fields:ty) = $name:tt;)*) => {
        /// What happened.
        #[derive(Clone, Debug, Serialize, ToSchema)]
        #[serde(tag = "type")]
        pub enum ResponseEvent { $($(#[doc = $doc])* #[serde(rename = $name)] $variant($fields),)* }

        impl ResponseEvent {
            /// Its `type`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Whether the response has changed with it.
            pub fn has_response(&self) -> bool {
                matches!(self, Self::Queued(_) | Self::InProgress(_) | Self::Completed(_) | Self::Incomplete(_) | Self::Failed(_))
            }
        }
    };
}

events! {
    /// The request was accepted.
    Created(OfResponse) = "response.created";
    /// It waits to be started; background only.
    Queued(OfResponse) = "response.queued";
    /// The model works on it.
    InProgress(OfResponse) = "response.in_progress";
    /// An item begins.
    ItemAdded(OfItem) = "response.output_item.added";
    /// A part of an item begins.
    PartAdded(OfPart) = "response.content_part.added";
    /// More of a thought.
    ReasoningDelta(TextDelta) = "response.reasoning_text.delta";
    /// A thought is whole.
    ReasoningDone(TextDone) = "response.reasoning_text.done";
    /// More of a message.
    TextDelta(LogprobDelta) = "response.output_text.delta";
    /// A message's text is whole.
    TextDone(LogprobDone) = "response.output_text.done";
    /// More of a call's arguments.
    ArgumentsDelta(ArgumentsDelta) = "response.function_call_arguments.delta";
    /// A call's arguments are whole.
    ArgumentsDone(ArgumentsDone) = "response.function_call_arguments.done";
    /// A part of an item is whole.
    PartDone(OfPart) = "response.content_part.done";
    /// An item is whole, or was cut.
    ItemDone(OfItem) = "response.output_item.done";
    /// The end: the model was done.
    Completed(OfResponse) = "response.completed";
    /// The end: there was no room for more, or the response was cancelled, as its `status` says.
    Incomplete(OfResponse) = "response.incomplete";
    /// The end: the server could not go on.
    Failed(OfResponse) = "response.failed";
}

/// The response as it is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OfResponse {
    /// The response.
    pub response: Box<Response>,
}

/// An item as it is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OfItem {
    /// Its place in `output`.
    pub output_index: usize,
    /// The item.
    pub item: OutputItem,
}

/// A part of an item as it is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OfPart {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The part's place in the item.
    pub content_index: usize,
    /// The part.
    pub part: EventPart,
}

/// A part of a message or of a thought.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EventPart {
    /// Of a message.
    Output(OutputPart),
    /// Of a thought.
    Reasoning(ReasoningPart),
}

/// Text to append.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TextDelta {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The part's place in the item.
    pub content_index: usize,
    /// The text.
    pub delta: String,
}

/// A whole text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TextDone {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The part's place in the item.
    pub content_index: usize,
    /// The text.
    pub text: String,
}

/// Text to append, and how likely it was.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogprobDelta {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The part's place in the item.
    pub content_index: usize,
    /// The text.
    pub delta: String,
    /// When asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A whole text, and how likely it was.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogprobDone {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The part's place in the item.
    pub content_index: usize,
    /// The text.
    pub text: String,
    /// When asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Arguments to append.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ArgumentsDelta {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The text.
    pub delta: String,
}

/// Whole arguments.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ArgumentsDone {
    /// The item.
    pub item_id: String,
    /// The item's place in `output`.
    pub output_index: usize,
    /// The function.
    pub name: String,
    /// The text.
    pub arguments: String,
}
