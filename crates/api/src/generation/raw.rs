//! A completion: tokens to text, with nothing read into it.
//!
//! Control tokens are left out, as vLLM does by default (`skip_special_tokens`): the text is what a reader would see.

use gossamer_harmony::{Tokenizer, Utf8Stream};
use gossamer_metrics::ApiMetrics;
use gossamer_scheduler::TokenLogprobs;

use super::answer::AnswerText;
use super::{Assembler, Piece, Update, logprobs};
use crate::wire::chat::FinishReason;

/// See the file's header.
pub(crate) struct RawAssembler {
    characters: Utf8Stream,
    answer: AnswerText,
    stopped: bool,
}

impl RawAssembler {
    /// For one choice.
    pub fn new(stop_strings: &[String]) -> Self {
        Self {
            characters: Utf8Stream::new(),
            answer: AnswerText::new(stop_strings),
            stopped: false,
        }
    }

    fn text(&mut self, text: &str, update: &mut Update) {
        // Not for nothing: no text, then nothing completes the tokens that wait for theirs.
        if text.is_empty() {
            return;
        }
        let (released, hit) = self.answer.push(text, &mut update.logprobs);
        self.stopped |= hit;
        emit(released, update);
    }
}

impl Assembler for RawAssembler {
    fn push(&mut self, token: u32, raw: Option<Box<TokenLogprobs>>, update: &mut Update) -> bool {
        let tokenizer = Tokenizer::get();
        if tokenizer.is_control(token) {
            return false;
        }
        if let Some(raw) = raw {
            self.answer.token(logprobs::describe(token, *raw));
        }
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        let text = self.characters.push(bytes);
        self.text(&text, update);
        self.stopped
    }

    fn finish(&mut self, update: &mut Update) {
        if self.stopped {
            return;
        }
        let rest = self.characters.finish();
        self.text(&rest, update);
        if !self.stopped {
            let text = self.answer.finish(&mut update.logprobs);
            emit(text, update);
        }
    }

    fn own_end(&self) -> FinishReason {
        FinishReason::Stop
    }

    fn stop_string(&self) -> Option<&str> {
        self.answer.stop_string()
    }

    fn reasoning_tokens(&self) -> usize {
        0
    }

    fn report(&self, _: &ApiMetrics) {}
}

fn emit(text: String, update: &mut Update) {
    if !text.is_empty() {
        update.pieces.push(Piece::Content(text));
    }
}
