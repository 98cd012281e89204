//! What the scripted model says: rules from prompts to answers.
//!
//! Answers are written in harmony, with control tokens by name. Invariant: same prompt, same choice, same answer.

use gossamer_harmony::{Tokenizer, special};

/// Rules, tried in order; the first whose needle is in the prompt's text answers. Without one, the model repeats the last
/// user message.
#[derive(Clone, Debug, Default)]
pub struct Script {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    needle: String,
    /// Choice `i` says `answers[i % len]`.
    answers: Vec<Vec<u32>>,
}

/// The tokens of a harmony text, control tokens by name.
pub fn tokens(harmony: &str) -> Vec<u32> {
    Tokenizer::get().encode_with_special(harmony)
}

impl Script {
    /// A model that repeats the last user message.
    pub fn echo() -> Self {
        Self::default()
    }

    /// A model that always says the same.
    pub fn always(harmony: &str) -> Self {
        Self::echo().when("", harmony)
    }

    /// Adds a rule: a prompt that contains `needle` is answered with this harmony text. `<|return|>` is added unless the
    /// text ends the generation itself.
    #[must_use]
    pub fn when(self, needle: &str, harmony: &str) -> Self {
        self.when_choices(needle, &[harmony])
    }

    /// Adds a rule with one answer per choice.
    #[must_use]
    pub fn when_choices(mut self, needle: &str, harmonies: &[&str]) -> Self {
        self.rules.push(Rule {
            needle: needle.to_owned(),
            answers: harmonies
                .iter()
                .map(|harmony| ended(tokens(harmony)))
                .collect(),
        });
        self
    }

    /// Adds a rule whose answer is tokenized piece by piece, to decide where the token borders are.
    #[must_use]
    pub fn when_pieces(self, needle: &str, pieces: &[&str]) -> Self {
        let answer = pieces.iter().flat_map(|piece| tokens(piece)).collect();
        self.when_tokens(needle, answer)
    }

    /// Adds a rule with an answer of any tokens.
    #[must_use]
    pub fn when_tokens(mut self, needle: &str, answer: Vec<u32>) -> Self {
        self.rules.push(Rule {
            needle: needle.to_owned(),
            answers: vec![ended(answer)],
        });
        self
    }

    /// The answer to a prompt, its end included.
    pub fn answer(&self, prompt: &[u32], choice: u32) -> Vec<u32> {
        let text = String::from_utf8_lossy(&Tokenizer::get().decode(prompt)).into_owned();
        match self.rules.iter().find(|rule| text.contains(&rule.needle)) {
            Some(rule) => rule.answers[choice as usize % rule.answers.len()].clone(),
            None => echo(&text),
        }
    }
}

/// Answers with the last user message, or with the whole text if it is no conversation.
fn echo(prompt: &str) -> Vec<u32> {
    const USER: &str = "<|start|>user<|message|>";
    match prompt.rsplit_once(USER) {
        Some((_, rest)) => {
            let said = rest.split_once("<|end|>").map_or(rest, |(said, _)| said);
            let mut answer = tokens("<|channel|>final<|message|>");
            answer.extend(Tokenizer::get().encode(said));
            ended(answer)
        }
        None => ended(Tokenizer::get().encode(prompt)),
    }
}

fn ended(mut answer: Vec<u32>) -> Vec<u32> {
    if !matches!(answer.last(), Some(&(special::RETURN | special::CALL))) {
        answer.push(special::RETURN);
    }
    answer
}
