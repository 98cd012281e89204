//! The visible text of one choice: stop strings, and log-probabilities that go out with their text.
//!
//! ```text
//! content    | out | held back: may be the beginning of a stop string |
//! tokens     t0 t1 t2  t3  t4
//! logprobs   out..... wait until the last byte of their token's text is out
//! ```
//! Invariant: no text and no token of a stop string goes out, in neither form. A token that lies across the beginning of
//! the stop string has no log-probability in the answer.

use std::collections::VecDeque;

use crate::stop::StopFinder;
use crate::wire::chat::TokenLogprob;

/// See the file's header.
#[derive(Debug)]
pub(super) struct AnswerText {
    stop: StopFinder,
    /// Bytes of text that came in.
    taken: usize,
    /// Of those, bytes that went out.
    released: usize,
    /// Tokens whose text is not complete yet (part of a character).
    unplaced: Vec<TokenLogprob>,
    /// Tokens whose text ends at this byte of the content.
    waiting: VecDeque<(usize, TokenLogprob)>,
}

impl AnswerText {
    pub fn new(stop_strings: &[String]) -> Self {
        Self {
            stop: StopFinder::new(stop_strings),
            taken: 0,
            released: 0,
            unplaced: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Announces a token whose text, if any, comes with the next [`AnswerText::push`].
    pub fn token(&mut self, logprob: TokenLogprob) {
        self.unplaced.push(logprob);
    }

    /// Takes text. Returns what may go out, and whether a stop string ended the answer.
    pub fn push(&mut self, text: &str, logprobs: &mut Vec<TokenLogprob>) -> (String, bool) {
        self.taken += text.len();
        let end = self.taken;
        self.waiting
            .extend(self.unplaced.drain(..).map(|logprob| (end, logprob)));
        let found = self.stop.push(text);
        self.released += found.released.len();
        self.release(logprobs);
        (found.released, found.hit)
    }

    /// The stop string that ended the answer, if one did.
    pub fn stop_string(&self) -> Option<&str> {
        self.stop.hit()
    }

    /// The answer ends without a stop string.
    pub fn finish(&mut self, logprobs: &mut Vec<TokenLogprob>) -> String {
        let text = self.stop.finish();
        self.released += text.len();
        self.release(logprobs);
        if self.released == self.taken {
            logprobs.append(&mut self.unplaced);
        }
        text
    }

    fn release(&mut self, logprobs: &mut Vec<TokenLogprob>) {
        while let Some((end, _)) = self.waiting.front()
            && *end <= self.released
        {
            logprobs.extend(self.waiting.pop_front().map(|(_, logprob)| logprob));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprob(token: &str) -> TokenLogprob {
        TokenLogprob {
            token: token.into(),
            logprob: -1.0,
            bytes: token.as_bytes().to_vec(),
            top_logprobs: Vec::new(),
        }
    }

    /// Feeds whole tokens; returns text and the tokens whose log-probabilities came out.
    fn run(stops: &[&str], tokens: &[&str]) -> (String, Vec<String>) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut answer = AnswerText::new(&stops);
        let mut out = String::new();
        let mut logprobs = Vec::new();
        let mut hit = false;
        for token in tokens {
            answer.token(logprob(token));
            let (text, found) = answer.push(token, &mut logprobs);
            out.push_str(&text);
            if found {
                hit = true;
                break;
            }
        }
        if !hit {
            out.push_str(&answer.finish(&mut logprobs));
        }
        (out, logprobs.into_iter().map(|l| l.token).collect())
    }

    #[test]
    fn tokens_of_the_stop_string_have_no_logprobs_in_the_answer() {
        let (text, tokens) = run(&["END"], &["one", " two", "E", "N", "D"]);
        assert_eq!(text, "one two");
        assert_eq!(tokens, ["one", " two"]);
    }

    #[test]
    fn a_token_across_the_beginning_of_the_stop_string_has_none_either() {
        let (text, tokens) = run(&["END"], &["one", " twoE", "ND"]);
        assert_eq!(text, "one two");
        assert_eq!(tokens, ["one"]);
    }

    #[test]
    fn without_a_hit_every_token_comes_out_in_order() {
        let (text, tokens) = run(&["END"], &["E", "N", "E", "N"]);
        assert_eq!(text, "ENEN");
        assert_eq!(tokens, ["E", "N", "E", "N"]);
    }

    #[test]
    fn tokens_that_are_parts_of_a_character_go_out_with_it() {
        let mut answer = AnswerText::new(&[]);
        let mut logprobs = Vec::new();
        answer.token(logprob("a"));
        answer.token(logprob("b"));
        assert!(logprobs.is_empty());
        assert_eq!(answer.push("é", &mut logprobs), ("é".into(), false));
        assert_eq!(logprobs.len(), 2);
    }
}
