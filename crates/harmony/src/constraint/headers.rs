//! The headers that an assistant's message may have, as a finite language.
//!
//! ```text
//! assistant                    <|channel|>analysis                                   <|message|>
//! assistant                    <|channel|>commentary                                 <|message|>
//! assistant                    <|channel|>final[ <|constrain|>json]                  <|message|>
//! assistant to=functions.NAME  <|channel|>commentary[ <|constrain|>json]             <|message|>
//! assistant                    <|channel|>commentary to=functions.NAME[ <|constrain|>json] <|message|>
//! ```
//!
//! All headers are listed, sorted, with a byte that no text has in the place of each control token; a place in a header
//! is the range of those that begin alike. Any tokenization of a header's text is allowed, for the parser reads bytes.
//! Invariant, held by the tests: the parser repairs nothing in a header of this language.

use super::vocabulary::Matching;
use crate::{Token, Tokenizer, special};

/// What stands for a control token in the list: bytes that UTF-8 has not.
const CHANNEL: u8 = 0xf9;
const CONSTRAIN: u8 = 0xfa;
const MESSAGE: u8 = 0xfb;

/// What the prompt ends in.
const ROLE: &[u8] = b"assistant";

/// The content types that a header may name, as models write them.
const TYPES: [&[u8]; 4] = [b"", b" \xfajson", b"\xfajson", b" json"];

/// Which headers there are.
pub(super) struct Headers {
    /// Sorted and distinct. None is the beginning of another, for each ends in its only [`MESSAGE`].
    sorted: Vec<Vec<u8>>,
}

/// A place in a header: `sorted[from..to]` begin with the same `len` bytes, which were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    from: usize,
    to: usize,
    len: usize,
}

impl Headers {
    /// The headers of a turn that may call `functions`. `may_answer`: there may be a final message; `json_answer`: its
    /// header may say that it is JSON.
    pub(super) fn new<'a>(
        functions: impl Iterator<Item = &'a str>,
        may_answer: bool,
        json_answer: bool,
    ) -> Self {
        let mut sorted = Vec::new();
        let mut add = |parts: &[&[u8]]| sorted.push([ROLE, &parts.concat(), &[MESSAGE]].concat());
        add(&[&[CHANNEL], b"analysis"]);
        add(&[&[CHANNEL], b"commentary"]);
        if may_answer {
            let types = if json_answer { &TYPES[..] } else { &TYPES[..1] };
            for kind in types {
                add(&[&[CHANNEL], b"final", kind]);
            }
        }
        for name in functions {
            let recipient = [b" to=functions.", name.as_bytes()].concat();
            for kind in TYPES {
                add(&[&recipient, &[CHANNEL], b"commentary", kind]);
                add(&[&[CHANNEL], b"commentary", &recipient, kind]);
            }
        }
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted }
    }

    /// Behind `<|start|>`.
    pub(super) fn begin(&self) -> Place {
        Place {
            from: 0,
            to: self.sorted.len(),
            len: 0,
        }
    }

    /// Behind `<|start|>assistant`, where a prompt ends.
    pub(super) fn behind_role(&self) -> Place {
        Place {
            len: ROLE.len(),
            ..self.begin()
        }
    }

    /// The place behind `token`; `None` if no header goes on with it.
    pub(super) fn step(&self, place: Place, token: Token) -> Option<Place> {
        let control;
        let bytes = match token {
            special::CHANNEL => {
                control = [CHANNEL];
                &control[..]
            }
            special::CONSTRAIN => {
                control = [CONSTRAIN];
                &control[..]
            }
            special::MESSAGE => {
                control = [MESSAGE];
                &control[..]
            }
            // There are tokens of single bytes, those of ours among them.
            _ => (Tokenizer::get().text_bytes(token))
                .filter(|text| text.iter().all(|byte| *byte < CHANNEL))?,
        };
        bytes
            .iter()
            .try_fold(place, |place, &byte| self.narrow(place, byte))
    }

    fn narrow(&self, place: Place, byte: u8) -> Option<Place> {
        let headers = &self.sorted[place.from..place.to];
        let at = |header: &Vec<u8>| header.get(place.len).copied();
        let start = headers.partition_point(|header| at(header) < Some(byte));
        let end = headers.partition_point(|header| at(header) <= Some(byte));
        (start < end).then_some(Place {
            from: place.from + start,
            to: place.from + end,
            len: place.len + 1,
        })
    }

    /// Whether the header is written.
    #[cfg(test)]
    pub(super) fn is_complete(&self, place: Place) -> bool {
        self.sorted[place.from].len() == place.len
    }

    /// The tokens with which headers go on, ascending, in place of what `out` held.
    pub(super) fn next(&self, place: Place, out: &mut Vec<Token>) {
        out.clear();
        self.collect(place, &Matching::all(), true, out);
        out.sort_unstable();
    }

    fn collect(&self, place: Place, texts: &Matching, is_first: bool, out: &mut Vec<Token>) {
        let mut from = place.from;
        while from < place.to {
            // Headers that go on with the same byte stand together.
            let Some(&byte) = self.sorted[from].get(place.len) else {
                return;
            };
            let here = Place { from, ..place };
            let Some(behind) = self.narrow(here, byte) else {
                return;
            };
            from = behind.to;
            let control = match byte {
                CHANNEL => Some(special::CHANNEL),
                CONSTRAIN => Some(special::CONSTRAIN),
                MESSAGE => Some(special::MESSAGE),
                _ => None,
            };
            if let Some(control) = control {
                // A control token is a token of its own, never the end of a text token.
                out.extend(is_first.then_some(control));
                continue;
            }
            let texts = texts.narrow(byte);
            if !texts.is_empty() {
                out.extend(texts.exact());
                self.collect(behind, &texts, false, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(functions: &[&str]) -> Headers {
        Headers::new(functions.iter().copied(), true, true)
    }

    #[test]
    fn the_next_tokens_are_exactly_those_that_a_step_takes() {
        let headers = headers(&["f", "get_weather", "get_time", "ge\u{e9}"]);
        let mut next = Vec::new();
        // Along a few ways through the language, every token of the vocabulary is asked.
        for (at, way) in [0, 1, 2, 3].into_iter().enumerate() {
            let mut place = if at % 2 == 0 {
                headers.begin()
            } else {
                headers.behind_role()
            };
            while !headers.is_complete(place) {
                headers.next(place, &mut next);
                assert!(!next.is_empty());
                for token in (0..special::VOCAB_SIZE as Token)
                    .filter(|t| t % 61 == at as u32 || *t < 300 || next.contains(t))
                {
                    assert_eq!(
                        headers.step(place, token).is_some(),
                        next.contains(&token),
                        "{token}"
                    );
                }
                let token = next[way % next.len()];
                place = headers.step(place, token).unwrap();
            }
        }
    }

    #[test]
    fn a_name_that_begins_like_another_is_no_shortcut() {
        let headers = headers(&["get", "get_weather"]);
        let place = [" to", "=", "functions", ".", "get"].iter().fold(
            headers.behind_role(),
            |place, text| {
                headers
                    .step(place, Tokenizer::get().encode(text)[0])
                    .unwrap()
            },
        );
        let mut next = Vec::new();
        headers.next(place, &mut next);
        assert!(next.contains(&special::CHANNEL));
        assert!(next.contains(&Tokenizer::get().encode("_weather")[0]));
        assert!(!next.contains(&Tokenizer::get().encode("_time")[0]));
    }

    #[test]
    fn without_functions_there_is_no_recipient() {
        let headers = headers(&[]);
        let mut next = Vec::new();
        headers.next(headers.behind_role(), &mut next);
        assert_eq!(next, [special::CHANNEL]);
        let place = headers
            .step(headers.behind_role(), special::CHANNEL)
            .unwrap();
        let word = Tokenizer::get().encode("commentary");
        let place = word
            .iter()
            .fold(place, |place, token| headers.step(place, *token).unwrap());
        headers.next(place, &mut next);
        assert_eq!(next, [special::MESSAGE]);
    }
}
