//! A chat answer: harmony tokens to reasoning, content and tool calls.
//!
//! Preambles (commentary without a recipient) are meant for the user and become content.
//! Stop strings and log-probabilities concern content only: hidden reasoning and arguments are neither searched nor
//! scored.

use gossamer_harmony::{Channel, Delta, Parser, Tokenizer};
use gossamer_metrics::ApiMetrics;
use gossamer_scheduler::TokenLogprobs;

use super::answer::AnswerText;
use super::{Assembler, Piece, Update, logprobs};
use crate::request_id::random_id;
use crate::wire::chat::FinishReason;

/// See the file's header.
pub(crate) struct ChatAssembler {
    parser: Parser,
    answer: AnswerText,
    /// Functions were declared and may be called.
    tools_allowed: bool,
    called: bool,
    stopped: bool,
    reasoning_tokens: usize,
}

impl ChatAssembler {
    /// For one choice.
    pub fn new(stop_strings: &[String], tools_allowed: bool) -> Self {
        Self {
            parser: Parser::new(),
            answer: AnswerText::new(stop_strings),
            tools_allowed,
            called: false,
            stopped: false,
            reasoning_tokens: 0,
        }
    }

    fn apply(&mut self, deltas: Vec<Delta>, update: &mut Update) {
        for delta in deltas {
            if self.stopped {
                return;
            }
            match delta {
                Delta::Reasoning(text) => push_text(update, Piece::Reasoning(text)),
                Delta::Preamble(text) | Delta::Content(text) => self.content(&text, update),
                // A client that declared no functions cannot do anything with a call. Its text is not lost: what
                // would be the arguments is shown as content.
                Delta::ToolCall { .. } if !self.tools_allowed => {}
                Delta::Arguments { text, .. } if !self.tools_allowed => {
                    self.content(&text, update);
                }
                Delta::ToolCall { index, name } => {
                    self.called = true;
                    update.pieces.push(Piece::ToolCall {
                        index,
                        id: random_id("call_"),
                        name,
                    });
                }
                Delta::Arguments { index, text } => {
                    push_text(update, Piece::Arguments { index, text });
                }
            }
        }
    }

    fn content(&mut self, text: &str, update: &mut Update) {
        let (released, hit) = self.answer.push(text, &mut update.logprobs);
        push_text(update, Piece::Content(released));
        self.stopped |= hit;
    }
}

impl Assembler for ChatAssembler {
    fn push(
        &mut self,
        token: u32,
        raw: Option<Box<TokenLogprobs>>,
        update: &mut Update,
    ) -> bool {
        let channel = self.parser.channel();
        if !Tokenizer::get().is_control(token) {
            match (channel, raw) {
                (Channel::Reasoning, _) => self.reasoning_tokens += 1,
                (Channel::Content | Channel::Preamble, Some(raw)) => {
                    self.answer.token(logprobs::describe(token, *raw));
                }
                _ => {}
            }
        }
        let deltas = self.parser.push(token);
        self.apply(deltas, update);
        self.stopped
    }

    fn finish(&mut self, update: &mut Update) {
        let deltas = self.parser.finish();
        self.apply(deltas, update);
        if !self.stopped {
            let text = self.answer.finish(&mut update.logprobs);
            push_text(update, Piece::Content(text));
        }
    }

    fn own_end(&self) -> FinishReason {
        if self.called && !self.stopped {
            FinishReason::ToolCalls
        } else {
            FinishReason::Stop
        }
    }

    fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    fn report(&self, metrics: &ApiMetrics) {
        for (kind, count) in self.parser.repairs().iter() {
            metrics.harmony_repairs(kind.as_str(), count);
        }
    }
}

fn push_text(update: &mut Update, piece: Piece) {
    let empty = match &piece {
        Piece::Reasoning(text) | Piece::Content(text) | Piece::Arguments { text, .. } => {
            text.is_empty()
        }
        Piece::ToolCall { .. } => false,
    };
    if !empty {
        update.pieces.push(piece);
    }
}
