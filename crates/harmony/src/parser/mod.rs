//! Generated tokens to deltas: incremental, and total over all token sequences.
//!
//! A small machine: *between* messages, in a *header*, in a *body*. Knows the format only; which
//! functions were declared, where generation stops and what a client sees is the caller's affair.
//!
//! Invariants, held by `tests/integration/properties.rs`:
//! - no call panics or fails, and memory is bounded by [`header::MAX_TOKENS`] tokens;
//! - no control token and no broken UTF-8 comes out; a character cut by a token border waits;
//! - *no text is lost*: the bytes of every token below [`special::FIRST_CONTROL`] come out in
//!   exactly one delta, in order within each kind of delta, unless they are header syntax as
//!   defined in `header.rs`. Bytes that form no character come out as U+FFFD;
//! - a well-formed generation, cut anywhere, gives a prefix of what the whole gives (a character
//!   cut in two as U+FFFD).
//!
//! What is not well-formed is repaired and counted ([`RepairKind`] lists the rules). Two of them
//! decide what a person sees, so they stand here. A message without a usable header is the answer,
//! lest an answer be swallowed. But where `<|channel|>` was followed by no channel and the model
//! itself then broke off with `<|end|>` or `<|start|>` to begin anew, the scrap is reasoning.

mod header;
mod repairs;
mod words;

use self::header::{Close, Header, Opened, Reading};
use self::words::{CHANNELS, Named, ROLES};
use crate::{Token, Tokenizer, Utf8Stream, special};
pub use repairs::{RepairKind, Repairs};

/// A piece of what the model said. Texts are never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Hidden reasoning: channel `analysis`.
    Reasoning(String),
    /// Text for the user beside a tool call: channel `commentary` without recipient.
    Preamble(String),
    /// The answer: channel `final`.
    Content(String),
    /// A tool call was opened. Its [`Delta::Arguments`] follow, maybe none.
    ToolCall {
        /// Number of the call within this generation, from 0.
        index: usize,
        /// Function name, without `functions.`; never empty.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call that was opened with this number.
        index: usize,
        /// Text to append.
        text: String,
    },
}

/// Where the next text token would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Into a header, or between messages: nowhere visible.
    Header,
    /// Into hidden reasoning.
    Reasoning,
    /// Into a preamble.
    Preamble,
    /// Into the answer.
    Content,
    /// Into a tool call's arguments.
    ToolCall,
}

/// Where the text of a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Reasoning,
    Preamble,
    Content,
    Call(usize),
}

#[derive(Debug)]
enum State {
    Between,
    Header {
        header: Header,
        /// The body which the header interrupted: if it turns out to be no header, that goes on.
        interrupted: Option<Sink>,
    },
    Body(Sink),
}

/// Turns the tokens of one generation into [`Delta`]s.
///
/// Starts in the state after a prompt that ended in `<|start|>assistant`. The stop tokens
/// `<|return|>` and `<|call|>` may be pushed or withheld; pushed is better, for an ill-formed last
/// message is read by how it ended.
#[derive(Debug)]
pub struct Parser {
    state: State,
    held: Utf8Stream,
    num_calls: usize,
    has_stopped: bool,
    repairs: Repairs,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the beginning of a generation.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header {
                header: Header::new(Opened::ByPrompt),
                interrupted: None,
            },
            held: Utf8Stream::new(),
            num_calls: 0,
            has_stopped: false,
            repairs: Repairs::default(),
        }
    }

    /// Takes one token; returns what is certain by now. Never fails, whatever the token.
    pub fn push(&mut self, token: Token) -> Vec<Delta> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.has_stopped) {
            self.repairs.count(RepairKind::AfterStop);
        }
        match token {
            special::START => self.start(&mut out),
            special::CHANNEL => self.channel_marker(&mut out),
            special::MESSAGE => self.message(&mut out),
            special::CONSTRAIN => self.constrain(),
            special::END => self.end(Close::End, &mut out),
            special::CALL => {
                self.end(Close::End, &mut out);
                self.has_stopped = true;
            }
            special::RETURN | special::END_OF_TEXT => {
                self.end(Close::Return, &mut out);
                self.has_stopped = true;
            }
            _ => match Tokenizer::get().text_bytes(token) {
                Some(bytes) => self.text(bytes, &mut out),
                None => self.unknown(),
            },
        }
        if matches!(&self.state, State::Header { header, .. } if header.is_full()) {
            self.close_header(Close::Limit, &mut out);
        }
        out
    }

    /// Ends the generation: what was held back comes out. The parser then stands between messages.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        match &self.state {
            State::Header { header, .. } => {
                if header.opened() != Opened::ByPrompt || !header.is_empty() {
                    self.repairs.count(RepairKind::TruncatedHeader);
                }
                self.close_header(Close::Truncated, &mut out);
                self.close_body(&mut out);
            }
            State::Body(_) => self.close_body(&mut out),
            State::Between => {}
        }
        out
    }

    /// What had to be repaired so far.
    #[must_use]
    pub fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// Where the next text token would go.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self.state {
            State::Between | State::Header { .. } => Channel::Header,
            State::Body(Sink::Reasoning) => Channel::Reasoning,
            State::Body(Sink::Preamble) => Channel::Preamble,
            State::Body(Sink::Content) => Channel::Content,
            State::Body(Sink::Call(_)) => Channel::ToolCall,
        }
    }

    fn text(&mut self, bytes: &[u8], out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Body(sink) => {
                let sink = *sink;
                self.emit(sink, bytes, out);
            }
            State::Header { header, .. } => header.push_text(bytes),
            State::Between => self.open_implicitly(None, |header| header.push_text(bytes)),
        }
    }

    fn start(&mut self, out: &mut Vec<Delta>) {
        let mut interrupted = None;
        match &self.state {
            State::Between => {}
            State::Body(sink) => {
                interrupted = Some(*sink);
                self.repairs.count(RepairKind::MissingEnd);
                self.flush(out);
            }
            State::Header { .. } => {
                self.close_header(Close::Restart, out);
                self.close_body(out);
            }
        }
        self.state = State::Header {
            header: Header::new(Opened::ByStart),
            interrupted,
        };
    }

    fn channel_marker(&mut self, out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Header { header, .. } => {
                if header.push_channel() {
                    self.repairs.count(RepairKind::DuplicateHeader);
                }
            }
            State::Between => self.open_implicitly(None, |header| {
                header.push_channel();
            }),
            State::Body(sink) => {
                let sink = *sink;
                self.repairs.count(RepairKind::MissingEnd);
                self.flush(out);
                self.open_implicitly(Some(sink), |header| {
                    header.push_channel();
                });
            }
        }
    }

    fn message(&mut self, out: &mut Vec<Delta>) {
        match &self.state {
            State::Header { .. } => self.close_header(Close::Message, out),
            State::Between => {
                self.open_implicitly(None, |_| {});
                self.close_header(Close::Message, out);
            }
            State::Body(_) => self.repairs.count(RepairKind::ControlInBody),
        }
    }

    fn constrain(&mut self) {
        match &mut self.state {
            State::Header { header, .. } => header.push_constrain(),
            State::Between => self.open_implicitly(None, Header::push_constrain),
            State::Body(_) => self.repairs.count(RepairKind::ControlInBody),
        }
    }

    fn end(&mut self, close: Close, out: &mut Vec<Delta>) {
        match self.state {
            State::Header { .. } => {
                self.close_header(close, out);
                self.close_body(out);
            }
            State::Body(_) => self.close_body(out),
            State::Between => self.repairs.count(RepairKind::StrayEnd),
        }
    }

    fn unknown(&mut self) {
        self.repairs.count(RepairKind::UnknownToken);
        if let State::Header { header, .. } = &mut self.state {
            header.push_unknown();
        }
    }

    /// Opens a header that no `<|start|>` announced and lets `push` put its first token in.
    fn open_implicitly(&mut self, interrupted: Option<Sink>, push: impl FnOnce(&mut Header)) {
        if interrupted.is_none() {
            self.repairs.count(RepairKind::MissingStart);
        }
        let mut header = Header::new(Opened::Implicitly);
        push(&mut header);
        self.state = State::Header {
            header,
            interrupted,
        };
    }

    /// Header to body.
    fn close_header(&mut self, close: Close, out: &mut Vec<Delta>) {
        let State::Header {
            header,
            interrupted,
        } = std::mem::replace(&mut self.state, State::Between)
        else {
            return;
        };
        let mut reading = header.read(close, &mut self.repairs);
        let text = std::mem::take(&mut reading.text);
        // A name that broke off is no call, unless its arguments have begun.
        let may_call = close != Close::Truncated || !text.is_empty();
        let call = self.call_name(&reading).filter(|_| may_call);
        let is_nothing = close != Close::Message && text.is_empty() && call.is_none();
        match close {
            Close::Message | Close::Truncated => {}
            Close::Restart if is_nothing => self.repairs.count(RepairKind::DuplicateHeader),
            _ => self.repairs.count(RepairKind::MissingMessage),
        }

        if close == Close::Message {
            self.emit(Sink::Reasoning, &text, out);
            self.flush_into(Sink::Reasoning, out);
        }
        let sink = match call {
            Some(name) => {
                let index = self.num_calls;
                self.num_calls += 1;
                out.push(Delta::ToolCall { index, name });
                Sink::Call(index)
            }
            None => self.sink(&reading, close, interrupted, is_nothing),
        };
        self.state = State::Body(sink);
        if close != Close::Message {
            self.emit(sink, &text, out);
        }
    }

    /// The function a header calls, if any.
    fn call_name(&mut self, reading: &Reading) -> Option<String> {
        let recipient = reading
            .recipient
            .as_deref()
            .filter(|_| !reading.is_foreign)?;
        if let Some(name) = recipient
            .strip_prefix("functions.")
            .filter(|n| !n.is_empty())
        {
            return Some(name.to_owned());
        }
        let namespace = recipient.split('.').next().unwrap_or_default();
        let kind = match namespace {
            "python" | "browser" | "container" => RepairKind::BuiltinRecipient,
            "" | "functions" | "all" => RepairKind::BadRecipient,
            word if ROLES.contains(&word) || CHANNELS.contains(&word) => RepairKind::BadRecipient,
            _ => RepairKind::MissingNamespace,
        };
        self.repairs.count(kind);
        (kind != RepairKind::BadRecipient).then(|| recipient.to_owned())
    }

    /// Where the body of a message without a call goes. `is_nothing`: there will be no body.
    fn sink(
        &mut self,
        reading: &Reading,
        close: Close,
        interrupted: Option<Sink>,
        is_nothing: bool,
    ) -> Sink {
        if reading.is_foreign {
            self.repairs.count(RepairKind::ForeignRole);
            return Sink::Reasoning;
        }
        let is_scrap = matches!(close, Close::End | Close::Restart) && reading.has_channel_part;
        match reading.channel {
            Some(Named::Analysis) => Sink::Reasoning,
            // Without <|message|> mostly a call that came to nothing.
            Some(Named::Commentary) if is_scrap => Sink::Reasoning,
            Some(Named::Commentary) => Sink::Preamble,
            Some(Named::Final) => Sink::Content,
            None => {
                let is_noise = close != Close::Message && reading.is_blank();
                if let Some(sink) = interrupted.filter(|_| is_noise) {
                    return sink;
                }
                if !is_nothing {
                    self.repairs.count(RepairKind::MissingChannel);
                }
                if is_scrap {
                    Sink::Reasoning
                } else {
                    Sink::Content
                }
            }
        }
    }

    fn close_body(&mut self, out: &mut Vec<Delta>) {
        self.flush(out);
        self.state = State::Between;
    }

    fn emit(&mut self, sink: Sink, bytes: &[u8], out: &mut Vec<Delta>) {
        let before = self.held.num_replaced();
        let text = self.held.push(bytes);
        self.emitted(sink, text, before, out);
    }

    /// Gives out what is left of a character that will not be completed in this body.
    fn flush(&mut self, out: &mut Vec<Delta>) {
        if let State::Body(sink) = self.state {
            self.flush_into(sink, out);
        }
    }

    fn flush_into(&mut self, sink: Sink, out: &mut Vec<Delta>) {
        let before = self.held.num_replaced();
        let text = self.held.finish();
        self.emitted(sink, text, before, out);
    }

    fn emitted(&mut self, sink: Sink, text: String, replaced_before: u64, out: &mut Vec<Delta>) {
        let num_replaced = self.held.num_replaced() - replaced_before;
        self.repairs.add(RepairKind::InvalidUtf8, num_replaced);
        if !text.is_empty() {
            out.push(match sink {
                Sink::Reasoning => Delta::Reasoning(text),
                Sink::Preamble => Delta::Preamble(text),
                Sink::Content => Delta::Content(text),
                Sink::Call(index) => Delta::Arguments { index, text },
            });
        }
    }
}
