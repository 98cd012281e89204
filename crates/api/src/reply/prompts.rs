//! What an answer repeats of its prompts: their text, and how likely their tokens were.
//!
//! Scores come in pieces, in order, before the first text of any choice of their prompt. Knows tokens; what is wanted of
//! them is the request's affair.

use gossamer_harmony::{Tokenizer, Utf8Stream};
use gossamer_scheduler::PromptLogprobs;

use super::completions::Columns;
use crate::generation::logprobs;
use crate::wire::chat::PromptTokenLogprobs;

/// The prompts of a request.
pub(crate) struct Prompts {
    prompts: Vec<Prompt>,
    wanted: Wanted,
}

struct Prompt {
    tokens: Vec<u32>,
    /// Of the second token, the third, and so on.
    scored: Vec<PromptLogprobs>,
}

/// What to repeat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// The text.
    pub echo: bool,
    /// In the older form, as part of the text's log-probabilities: with so many alternatives.
    pub echo_logprobs: Option<u8>,
    /// On their own: with so many alternatives.
    pub prompt_logprobs: Option<u8>,
}

impl Wanted {
    /// Alternatives that the engine must report.
    pub fn alternatives(self) -> Option<u8> {
        self.echo_logprobs.max(self.prompt_logprobs)
    }
}

impl Prompts {
    /// Keeps the tokens only if they are needed.
    pub fn new(prompts: &[Vec<u32>], wanted: Wanted) -> Self {
        let needed = wanted.echo || wanted.alternatives().is_some();
        let prompt = |tokens: &Vec<u32>| Prompt {
            tokens: if needed { tokens.clone() } else { Vec::new() },
            scored: Vec::new(),
        };
        Self {
            prompts: prompts.iter().map(prompt).collect(),
            wanted,
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Takes the next scores.
    pub fn take(&mut self, prompt: usize, scored: Vec<PromptLogprobs>) {
        self.prompts[prompt].scored.extend(scored);
    }

    /// What a choice's text and log-probabilities begin with, if anything.
    pub fn echo(&self, prompt: usize) -> Option<(String, Columns)> {
        let Prompt { tokens, scored } = &self.prompts[prompt];
        let mut columns = Columns::default();
        if self.wanted.echo_logprobs.is_some() {
            let top = self.wanted.echo_logprobs.unwrap_or(0).into();
            columns.push_first(*tokens.first()?);
            for (&token, scored) in tokens[1..].iter().zip(scored) {
                let mut raw = scored.logprobs.clone();
                raw.top.truncate(top);
                columns.push(logprobs::describe(token, raw));
            }
        }
        self.wanted.echo.then(|| (text(tokens), columns))
    }

    /// The log-probabilities on their own, if asked for.
    pub fn logprobs(&self, prompt: usize) -> Option<Vec<Option<PromptTokenLogprobs>>> {
        let top = self.wanted.prompt_logprobs?.into();
        let Prompt { tokens, scored } = &self.prompts[prompt];
        let known = tokens[1..].iter().zip(scored);
        let known =
            known.map(|(&token, scored)| Some(logprobs::describe_prompt(token, scored, top)));
        Some(std::iter::once(None).chain(known).collect())
    }
}

/// As a generated text is shown: without control tokens.
fn text(tokens: &[u32]) -> String {
    let tokenizer = Tokenizer::get();
    let mut characters = Utf8Stream::new();
    let mut text = String::new();
    for &token in tokens.iter().filter(|token| !tokenizer.is_control(**token)) {
        text.push_str(&characters.push(tokenizer.token_bytes(token).unwrap_or_default()));
    }
    text.push_str(&characters.finish());
    text
}
