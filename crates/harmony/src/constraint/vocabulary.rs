//! The text tokens in the order of their bytes: which tokens a given text may begin with.
//!
//! Built once per process. Knows no rule.

use std::ops::Range;
use std::sync::LazyLock;

use crate::{Token, Tokenizer, special};

static BY_BYTES: LazyLock<Vec<Token>> = LazyLock::new(|| {
    let mut tokens: Vec<Token> = (0..special::FIRST_CONTROL).collect();
    tokens.sort_unstable_by_key(|&token| bytes(token));
    tokens
});

fn bytes(token: Token) -> &'static [u8] {
    Tokenizer::get().text_bytes(token).unwrap_or_default()
}

/// The tokens whose bytes begin with some text, while that text grows.
#[derive(Clone)]
pub(super) struct Matching {
    /// Places in [`BY_BYTES`].
    range: Range<usize>,
    /// Bytes of the text.
    len: usize,
}

impl Matching {
    /// All text tokens: those that begin with nothing.
    pub(super) fn all() -> Self {
        Self {
            range: 0..BY_BYTES.len(),
            len: 0,
        }
    }

    /// Those that go on with `byte`.
    pub(super) fn narrow(&self, byte: u8) -> Self {
        let tokens = &BY_BYTES[self.range.clone()];
        let at = |token: &Token| bytes(*token).get(self.len).copied();
        let start = tokens.partition_point(|token| at(token) < Some(byte));
        let end = tokens.partition_point(|token| at(token) <= Some(byte));
        Self {
            range: self.range.start + start..self.range.start + end,
            len: self.len + 1,
        }
    }

    /// Whether no token begins so.
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The token that is exactly this text.
    pub(super) fn exact(&self) -> Option<Token> {
        // The shortest sorts first.
        let token = *BY_BYTES.get(self.range.clone())?.first()?;
        (bytes(token).len() == self.len).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_found_by_its_bytes() {
        for token in (0..special::FIRST_CONTROL).step_by(97) {
            let found = bytes(token).iter().fold(Matching::all(), |found, &byte| {
                assert!(!found.is_empty());
                found.narrow(byte)
            });
            assert_eq!(found.exact(), Some(token));
        }
        let nothing = b"\xff\xff"
            .iter()
            .fold(Matching::all(), |found, &byte| found.narrow(byte));
        assert!(nothing.is_empty());
        assert_eq!(nothing.exact(), None);
    }
}
