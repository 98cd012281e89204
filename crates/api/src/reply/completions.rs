//! Completions. A chunk has the shape of the whole answer, with one choice and the text to append.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Collect, Head, ShownUsage};
use crate::generation::{Event, Piece, Update, logprobs};
use crate::reply::prompts::Prompts;
use crate::sse::{Chunks, Frames};
use crate::wire::chat::{FinishReason, TokenLogprob};
use crate::wire::completions::{Completion, CompletionChoice, CompletionLogprobs};
use crate::wire::usage::Usage;

/// What an answer shows besides its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// Log-probabilities were asked for, with so many alternatives.
    pub logprobs: Option<u8>,
    /// How many of a prompt's texts, the likeliest.
    pub keep: usize,
    /// Streams only.
    pub usage: ShownUsage,
}

/// A whole answer in the making.
pub(crate) struct WholeCompletion {
    shown: Shown,
    prompts: Prompts,
    /// `n` per prompt.
    choices: Vec<Parts>,
    n: usize,
}

#[derive(Clone, Default)]
struct Parts {
    text: String,
    logprobs: Columns,
    finish_reason: Option<FinishReason>,
    mean_logprob: f64,
}

impl WholeCompletion {
    /// `n` choices of each of the prompts.
    pub fn new(n: usize, shown: Shown, prompts: Prompts) -> Self {
        Self {
            shown,
            choices: vec![Parts::default(); prompts.len() * n],
            prompts,
            n,
        }
    }

    /// The answer.
    pub fn finish(mut self, head: Head, usage: Usage) -> Completion {
        let mut choices = Vec::new();
        for (prompt, parts) in self.choices.chunks_mut(self.n).enumerate() {
            if self.shown.keep < parts.len() {
                // Stable: of equally likely texts the first.
                parts.sort_by_key(|parts| Reverse(Ordered(parts.mean_logprob)));
            }
            for parts in parts.iter_mut().take(self.shown.keep) {
                let parts = std::mem::take(parts);
                let (text, logprobs) = match self.prompts.echo(prompt) {
                    None => (parts.text, parts.logprobs),
                    Some((text, mut columns)) => {
                        columns.append(parts.logprobs);
                        (text + &parts.text, columns)
                    }
                };
                choices.push(CompletionChoice {
                    index: choices.len(),
                    text,
                    logprobs: self.shown.logprobs.map(|_| logprobs.0),
                    finish_reason: parts.finish_reason,
                    prompt_logprobs: self.prompts.logprobs(prompt),
                });
            }
        }
        completion(&head, choices, Some(Some(usage)))
    }
}

/// Compares as numbers do; what is summed up from log-probabilities is one.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Collect for WholeCompletion {
    fn take(&mut self, event: Event) {
        let (choice, update) = match event {
            Event::Prompt { prompt, scored } => return self.prompts.take(prompt, scored),
            Event::Update { choice, update } => (choice, update),
            Event::ChoiceFinished {
                choice,
                update,
                reason,
                mean_logprob,
                ..
            } => {
                self.choices[choice].finish_reason = Some(reason);
                self.choices[choice].mean_logprob = mean_logprob;
                (choice, update)
            }
            Event::Finished(_) | Event::Failed(_) => return,
        };
        let parts = &mut self.choices[choice];
        parts.text.push_str(&text(update.pieces));
        for token in update.logprobs {
            parts.logprobs.push(token);
        }
    }
}

/// A streamed answer.
pub(crate) struct CompletionChunks {
    head: Head,
    shown: Shown,
    prompts: Prompts,
    n: usize,
    /// Per choice: characters of the tokens laid out so far; `None` before its first chunk.
    offsets: Vec<Option<usize>>,
}

impl CompletionChunks {
    /// `n` choices of each of the prompts.
    pub fn new(head: Head, n: usize, shown: Shown, prompts: Prompts) -> Self {
        Self {
            head,
            shown,
            offsets: vec![None; prompts.len() * n],
            prompts,
            n,
        }
    }

    fn choice(
        &mut self,
        index: usize,
        update: Update,
        finish_reason: Option<FinishReason>,
        so_far: Usage,
        frames: &mut Frames,
    ) {
        let mut said = text(update.pieces);
        let mut columns = match self.offsets[index] {
            Some(offset) => Columns::at(offset),
            None => match self.prompts.echo(index / self.n) {
                None => Columns::default(),
                Some((prompt, columns)) => {
                    said.insert_str(0, &prompt);
                    columns
                }
            },
        };
        for token in update.logprobs {
            columns.push(token);
        }
        self.offsets[index] = Some(columns.1);
        let shown = self.shown.logprobs.is_some() && !columns.0.tokens.is_empty();
        let choice = CompletionChoice {
            index,
            text: said,
            logprobs: shown.then_some(columns.0),
            finish_reason,
            prompt_logprobs: None,
        };
        let usage = self.shown.usage.of_chunk(so_far);
        frames.data(&completion(&self.head, vec![choice], usage));
    }
}

impl Chunks for CompletionChunks {
    fn write(&mut self, event: Event, so_far: Usage, frames: &mut Frames) {
        match event {
            Event::Prompt { prompt, scored } => self.prompts.take(prompt, scored),
            Event::Update { choice, update } => self.choice(choice, update, None, so_far, frames),
            Event::ChoiceFinished {
                choice,
                update,
                reason,
                ..
            } => self.choice(choice, update, Some(reason), so_far, frames),
            Event::Finished(usage) if self.shown.usage.at_the_end() => {
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

/// The four columns of the older log-probability format, and how many characters their tokens have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns(CompletionLogprobs, usize);

impl Columns {
    /// Columns of a text of which so many characters were shown before.
    fn at(offset: usize) -> Self {
        Self(CompletionLogprobs::default(), offset)
    }

    /// Appends a generated token.
    pub(super) fn push(&mut self, token: TokenLogprob) {
        let mut top = BTreeMap::new();
        for alternative in token.top_logprobs {
            // Two tokens may look the same (parts of characters); the likelier one came first.
            top.entry(alternative.token).or_insert(alternative.logprob);
        }
        self.entry(token.token, &token.bytes, Some((token.logprob, top)));
    }

    /// Appends a prompt's first token: nothing comes before it, so nothing is known of it.
    pub(super) fn push_first(&mut self, token: u32) {
        let (text, bytes) = logprobs::spell(token);
        self.entry(text, &bytes, None);
    }

    fn entry(&mut self, text: String, bytes: &[u8], known: Option<(f32, BTreeMap<String, f32>)>) {
        let Self(columns, offset) = self;
        columns.text_offset.push(*offset);
        // Bytes that begin a character; so tokens that are parts of one add up to one.
        *offset += bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        let (logprob, top) = known.unzip();
        columns.token_logprobs.push(logprob);
        columns.top_logprobs.push(top);
        columns.tokens.push(text);
    }

    fn append(&mut self, other: Columns) {
        let Self(columns, offset) = self;
        let Self(more, len) = other;
        let moved = more.text_offset.iter().map(|at| *at + *offset);
        columns.text_offset.extend(moved);
        columns.token_logprobs.extend(more.token_logprobs);
        columns.top_logprobs.extend(more.top_logprobs);
        columns.tokens.extend(more.tokens);
        *offset += len;
    }
}
