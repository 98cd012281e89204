//! Completions. A chunk has the shape of the whole answer, with one choice and the text to append.

use std::collections::BTreeMap;

use super::{Collect, Head};
use crate::generation::{Event, Piece, Update};
use crate::sse::{Chunks, Frames};
use crate::wire::chat::{FinishReason, TokenLogprob};
use crate::wire::completions::{Completion, CompletionChoice, CompletionLogprobs};
use crate::wire::usage::Usage;

/// A whole answer in the making.
pub(crate) struct WholeCompletion {
    logprobs: bool,
    choices: Vec<Parts>,
}

#[derive(Default)]
struct Parts {
    text: String,
    logprobs: CompletionLogprobs,
    offset: usize,
    finish_reason: Option<FinishReason>,
}

impl WholeCompletion {
    pub fn new(num_choices: usize, logprobs: bool) -> Self {
        Self {
            logprobs,
            choices: (0..num_choices).map(|_| Parts::default()).collect(),
        }
    }

    /// The answer.
    pub fn finish(self, head: Head, usage: Usage) -> Completion {
        let choices = self
            .choices
            .into_iter()
            .enumerate()
            .map(|(index, parts)| CompletionChoice {
                index,
                text: parts.text,
                logprobs: self.logprobs.then_some(parts.logprobs),
                finish_reason: parts.finish_reason,
            })
            .collect();
        completion(&head, choices, Some(Some(usage)))
    }
}

impl Collect for WholeCompletion {
    fn take(&mut self, event: Event) {
        let (choice, update) = match event {
            Event::Update { choice, update } => (choice, update),
            Event::ChoiceFinished {
                choice,
                update,
                reason,
            } => {
                self.choices[choice].finish_reason = Some(reason);
                (choice, update)
            }
            Event::Finished(_) | Event::Failed(_) => return,
        };
        let parts = &mut self.choices[choice];
        parts.text.push_str(&text(update.pieces));
        lay_out(update.logprobs, &mut parts.offset, &mut parts.logprobs);
    }
}

/// A streamed answer.
pub(crate) struct CompletionChunks {
    head: Head,
    logprobs: bool,
    usage: bool,
    /// Per choice: bytes of the tokens laid out so far.
    offsets: Vec<usize>,
}

impl CompletionChunks {
    pub fn new(head: Head, num_choices: usize, logprobs: bool, usage: bool) -> Self {
        Self {
            head,
            logprobs,
            usage,
            offsets: vec![0; num_choices],
        }
    }

    fn choice(
        &mut self,
        index: usize,
        update: Update,
        finish_reason: Option<FinishReason>,
        frames: &mut Frames,
    ) {
        let logprobs = (self.logprobs && !update.logprobs.is_empty()).then(|| {
            let mut columns = CompletionLogprobs::default();
            lay_out(update.logprobs, &mut self.offsets[index], &mut columns);
            columns
        });
        let choice = CompletionChoice {
            index,
            text: text(update.pieces),
            logprobs,
            finish_reason,
        };
        let usage = self.usage.then_some(None);
        frames.data(&completion(&self.head, vec![choice], usage));
    }
}

impl Chunks for CompletionChunks {
    fn write(&mut self, event: Event, frames: &mut Frames) {
        match event {
            Event::Update { choice, update } => self.choice(choice, update, None, frames),
            Event::ChoiceFinished {
                choice,
                update,
                reason,
            } => self.choice(choice, update, Some(reason), frames),
            Event::Finished(usage) if self.usage => {
                frames.data(&completion(&self.head, Vec::new(), Some(Some(usage))));
            }
            Event::Finished(_) | Event::Failed(_) => {}
        }
    }
}

fn completion(
    head: &Head,
    choices: Vec<CompletionChoice>,
    usage: Option<Option<Usage>>,
) -> Completion {
    Completion {
        id: head.id.clone(),
        object: "text_completion",
        created: head.created,
        model: head.model.clone(),
        choices,
        usage,
        system_fingerprint: head.system_fingerprint.clone(),
    }
}

fn text(pieces: Vec<Piece>) -> String {
    pieces
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Content(text) => Some(text),
            _ => None,
        })
        .collect()
}

/// Appends tokens to the four columns of the older log-probability format.
fn lay_out(tokens: Vec<TokenLogprob>, offset: &mut usize, columns: &mut CompletionLogprobs) {
    for token in tokens {
        columns.text_offset.push(*offset);
        *offset += token.bytes.len();
        columns.token_logprobs.push(token.logprob);
        let mut top = BTreeMap::new();
        for alternative in token.top_logprobs {
            // Two tokens may look the same (parts of characters); the likelier one came first.
            top.entry(alternative.token).or_insert(alternative.logprob);
        }
        columns.top_logprobs.push(top);
        columns.tokens.push(token.token);
    }
}
