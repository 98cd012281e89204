//! Answers of Anthropic's Messages API: blocks, streamed or whole.
//!
//! ```text
//! message_start  (content_block_start  content_block_delta*  content_block_stop)*  message_delta  message_stop
//! ```
//! Blocks come one after the other and are numbered from 0. [`Blocks`] makes the events of a stream; a whole answer is put
//! together from the same events, as a client would, so the two cannot differ.
//! Invariant: of what the model said, everything but hidden reasoning is in exactly one block.

use serde_json::{Map, Value};

use super::{Collect, Head};
use crate::dialect;
use crate::error::ApiError;
use crate::generation::{Event, Piece, SEPARATOR, Update};
use crate::request_id::random_id;
use crate::sse::{Chunks, Frames};
use crate::validate::anthropic::Thinking;
use crate::wire::chat::FinishReason;
use crate::wire::messages::{
    BlockDelta, ContentBlock, Message, MessageEnd, MessageEvent, MessageOutputTokensDetails,
    MessageUsage, StopReason,
};
use crate::wire::usage::Usage;

/// The kind of the block that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    /// The call with this number.
    Tool(usize),
}

/// Pieces of an answer to blocks.
struct Blocks {
    thinking: Thinking,
    open: Option<Open>,
    /// Blocks that were begun.
    num_blocks: usize,
    had_thinking: bool,
    had_text: bool,
    /// So many characters of the blank line are still to come that separates texts elsewhere, and here a new block does.
    separator_len: usize,
}

impl Blocks {
    fn new(thinking: Thinking) -> Self {
        Self {
            thinking,
            open: None,
            num_blocks: 0,
            had_thinking: false,
            had_text: false,
            separator_len: 0,
        }
    }

    fn update(&mut self, update: Update, events: &mut Vec<MessageEvent>) {
        for piece in update.pieces {
            match piece {
                Piece::Begin(_) => {}
                Piece::Reasoning(_) if self.thinking == Thinking::Hidden => {}
                Piece::Reasoning(text) => {
                    let text = self.text(Open::Thinking, text, events);
                    if self.thinking == Thinking::Shown {
                        self.grow(BlockDelta::ThinkingDelta { thinking: text }, events);
                    }
                }
                Piece::Content(text) => {
                    let text = self.text(Open::Text, text, events);
                    self.grow(BlockDelta::TextDelta { text }, events);
                }
                Piece::ToolCall { index, id, name } => {
                    let input = Map::new();
                    let block = ContentBlock::ToolUse { id, name, input };
                    self.begin(Open::Tool(index), block, events);
                }
                Piece::Arguments { index, text } if self.open == Some(Open::Tool(index)) => {
                    self.grow(BlockDelta::InputJsonDelta { partial_json: text }, events);
                }
                // More of a call that something else has interrupted: its block has ended, and no other fits better.
                Piece::Arguments { text, .. } => {
                    let text = self.text(Open::Text, text, events);
                    self.grow(BlockDelta::TextDelta { text }, events);
                }
            }
        }
    }

    /// Sees to it that a block of this kind is open. Returns what of the text goes into it.
    fn text(&mut self, kind: Open, text: String, events: &mut Vec<MessageEvent>) -> String {
        if self.open != Some(kind) {
            let (block, had) = match kind {
                Open::Thinking => (
                    ContentBlock::Thinking {
                        thinking: String::new(),
                        signature: String::new(),
                    },
                    &mut self.had_thinking,
                ),
                _ => (
                    ContentBlock::Text {
                        text: String::new(),
                    },
                    &mut self.had_text,
                ),
            };
            let had = std::mem::replace(had, true);
            self.begin(kind, block, events);
            self.separator_len = if had { SEPARATOR.len() } else { 0 };
        }
        let skipped = (text.bytes())
            .take(self.separator_len)
            .take_while(|byte| *byte == b'\n')
            .count();
        self.separator_len -= skipped;
        if skipped < text.len() {
            self.separator_len = 0;
        }
        text[skipped..].to_owned()
    }

    fn begin(&mut self, kind: Open, block: ContentBlock, events: &mut Vec<MessageEvent>) {
        self.end(events);
        self.open = Some(kind);
        events.push(MessageEvent::ContentBlockStart {
            index: self.num_blocks,
            content_block: block,
        });
        self.num_blocks += 1;
    }

    /// Adds to the open block.
    fn grow(&mut self, delta: BlockDelta, events: &mut Vec<MessageEvent>) {
        let empty = match &delta {
            BlockDelta::TextDelta { text } => text.is_empty(),
            BlockDelta::ThinkingDelta { thinking } => thinking.is_empty(),
            BlockDelta::InputJsonDelta { partial_json } => partial_json.is_empty(),
            BlockDelta::SignatureDelta { .. } => false,
        };
        if !empty {
            events.push(MessageEvent::ContentBlockDelta {
                index: self.num_blocks - 1,
                delta,
            });
        }
    }

    /// Ends the open block, if there is one.
    fn end(&mut self, events: &mut Vec<MessageEvent>) {
        let Some(kind) = self.open.take() else { return };
        if kind == Open::Thinking {
            let signature = random_id("sig_");
            self.grow(BlockDelta::SignatureDelta { signature }, events);
        }
        events.push(MessageEvent::ContentBlockStop {
            index: self.num_blocks - 1,
        });
    }
}

/// How the only choice ended.
fn ending(reason: FinishReason, stop_string: Option<String>) -> MessageEnd {
    MessageEnd {
        stop_reason: match (reason, &stop_string) {
            (FinishReason::Length, _) => StopReason::MaxTokens,
            (_, Some(_)) => StopReason::StopSequence,
            (FinishReason::ToolCalls, None) => StopReason::ToolUse,
            (FinishReason::Stop, None) => StopReason::EndTurn,
        },
        stop_sequence: stop_string,
    }
}

/// An answer that has not begun. Tokens of the prompt are all counted as computed until it is known better.
fn empty_message(head: &Head, usage: MessageUsage) -> Message {
    Message {
        id: head.id.clone(),
        kind: "message",
        role: "assistant",
        model: head.model.clone(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage,
    }
}

impl From<Usage> for MessageUsage {
    fn from(usage: Usage) -> Self {
        let cached = usage.prompt_tokens_details.cached_tokens;
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
            output_tokens_details: MessageOutputTokensDetails {
                thinking_tokens: usage.completion_tokens_details.reasoning_tokens,
            },
        }
    }
}

/// A whole answer in the making.
pub(crate) struct WholeMessage {
    blocks: Blocks,
    content: Vec<ContentBlock>,
    /// What the open call's arguments are so far.
    arguments: String,
    end: Option<MessageEnd>,
}

impl WholeMessage {
    /// An empty one.
    pub fn new(thinking: Thinking) -> Self {
        Self {
            blocks: Blocks::new(thinking),
            content: Vec::new(),
            arguments: String::new(),
            end: None,
        }
    }

    /// The answer.
    pub fn finish(self, head: &Head, usage: Usage) -> Message {
        let (stop_reason, stop_sequence) = match self.end {
            Some(end) => (Some(end.stop_reason), end.stop_sequence),
            None => (None, None),
        };
        Message {
            content: self.content,
            stop_reason,
            stop_sequence,
            ..empty_message(head, usage.into())
        }
    }

    fn absorb(&mut self, events: Vec<MessageEvent>) {
        for event in events {
            match event {
                MessageEvent::ContentBlockStart { content_block, .. } => {
                    self.content.push(content_block);
                }
                MessageEvent::ContentBlockDelta { delta, .. } => {
                    match (self.content.last_mut(), delta) {
                        (
                            Some(ContentBlock::Text { text }),
                            BlockDelta::TextDelta { text: more },
                        ) => {
                            text.push_str(&more);
                        }
                        (
                            Some(ContentBlock::Thinking { thinking, .. }),
                            BlockDelta::ThinkingDelta { thinking: more },
                        ) => thinking.push_str(&more),
                        (
                            Some(ContentBlock::Thinking { signature, .. }),
                            BlockDelta::SignatureDelta { signature: whole },
                        ) => *signature = whole,
                        (_, BlockDelta::InputJsonDelta { partial_json }) => {
                            self.arguments.push_str(&partial_json);
                        }
                        // The blocks' own deltas are the only ones that come.
                        _ => {}
                    }
                }
                MessageEvent::ContentBlockStop { .. } => {
                    if let Some(ContentBlock::ToolUse { input, .. }) = self.content.last_mut() {
                        *input = object(std::mem::take(&mut self.arguments));
                    }
                }
                _ => {}
            }
        }
    }
}

/// A call's arguments as an object, whatever the model wrote.
fn object(arguments: String) -> Map<String, Value> {
    if arguments.trim().is_empty() {
        return Map::new();
    }
    match serde_json::from_str(&arguments) {
        Ok(Value::Object(input)) => input,
        _ => Map::from_iter([("raw_arguments".to_owned(), Value::String(arguments))]),
    }
}

impl Collect for WholeMessage {
    fn take(&mut self, event: Event) {
        let mut events = Vec::new();
        match event {
            Event::Update { update, .. } => self.blocks.update(update, &mut events),
            Event::ChoiceFinished {
                update,
                reason,
                stop_string,
                ..
            } => {
                self.blocks.update(update, &mut events);
                self.blocks.end(&mut events);
                self.end = Some(ending(reason, stop_string));
            }
            Event::Prompt { .. } | Event::Finished(_) | Event::Failed(_) => {}
        }
        self.absorb(events);
    }
}

/// A streamed answer.
pub(crate) struct MessageEvents {
    head: Head,
    blocks: Blocks,
    prompt_len: usize,
    end: Option<MessageEnd>,
}

impl MessageEvents {
    /// Of an answer to a prompt of `prompt_len` tokens.
    pub fn new(head: Head, thinking: Thinking, prompt_len: usize) -> Self {
        Self {
            head,
            blocks: Blocks::new(thinking),
            prompt_len,
            end: None,
        }
    }
}

fn send(event: &MessageEvent, frames: &mut Frames) {
    frames.event(event.name(), event);
}

impl Chunks for MessageEvents {
    fn begin(&mut self, frames: &mut Frames) {
        let usage = Usage {
            prompt_tokens: self.prompt_len,
            ..Usage::default()
        };
        let message = empty_message(&self.head, usage.into());
        send(&MessageEvent::MessageStart { message }, frames);
    }

    fn write(&mut self, event: Event, _: Usage, frames: &mut Frames) {
        let mut events = Vec::new();
        match event {
            Event::Update { update, .. } => self.blocks.update(update, &mut events),
            Event::ChoiceFinished {
                update,
                reason,
                stop_string,
                ..
            } => {
                self.blocks.update(update, &mut events);
                self.blocks.end(&mut events);
                self.end = Some(ending(reason, stop_string));
            }
            Event::Finished(usage) => {
                // The only choice has ended before.
                if let Some(delta) = self.end.take() {
                    let usage = usage.into();
                    events.push(MessageEvent::MessageDelta { delta, usage });
                }
            }
            Event::Prompt { .. } | Event::Failed(_) => {}
        }
        for event in &events {
            send(event, frames);
        }
    }

    fn end(&mut self, frames: &mut Frames) {
        send(&MessageEvent::MessageStop {}, frames);
    }

    fn fail(&mut self, error: &ApiError, request_id: &str, frames: &mut Frames) {
        frames.event("error", &dialect::body(error, request_id));
    }

    fn heartbeat(&self, frames: &mut Frames) {
        send(&MessageEvent::Ping {}, frames);
    }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
