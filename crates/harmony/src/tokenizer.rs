//! The o200k_harmony vocabulary: text to tokens and back.
//!
//! `tiktoken-rs` brings the vocabulary in the binary and does the encoding; this file adds what it
//! lacks: bytes of a token without an allocation, and an encoder that no text can bring down.
//! Invariant: [`Tokenizer::decode`] of [`Tokenizer::encode`] of any text is that text.

use std::collections::HashSet;
use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;

use crate::{Token, special};

/// Longest run of white space, in characters, that is handed to the encoder in one piece.
///
/// The vocabulary's splitting expression backtracks over white space with one stack entry per
/// character, and `fancy-regex` gives up at a million of them; tiktoken-rs then panics or returns
/// an error. Longer runs are cut, which changes tokens only there.
const MAX_BLANK_RUN: usize = 100_000;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::build);

/// The tokenizer over the vocabulary embedded in the binary. One per process: [`Tokenizer::get`].
pub struct Tokenizer {
    bpe: &'static CoreBPE,
    /// The bytes of all tokens, one after the other; token t's are `starts[t]..starts[t + 1]`.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    controls: HashSet<&'static str>,
}

impl Tokenizer {
    /// The process's tokenizer. The first call builds it, which takes about a second and some
    /// 60 MB; call it at start.
    #[must_use]
    pub fn get() -> &'static Tokenizer {
        &TOKENIZER
    }

    fn build() -> Self {
        let bpe = tiktoken_rs::o200k_harmony_singleton();
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for token in 0..special::VOCAB_SIZE as u32 {
            bytes.extend(bpe.decode_bytes(&[token]).unwrap_or_default());
            starts.push(bytes.len() as u32);
        }
        let controls = bpe.special_tokens();
        Self {
            bpe,
            bytes,
            starts,
            controls,
        }
    }

    /// Encodes `text` as ordinary text: a `<|end|>` in it is seven characters and never becomes a
    /// control token.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<Token> {
        self.encode_allowing(text, &HashSet::new())
    }

    /// Encodes `text` in which `<|start|>` and the like are control tokens. For raw prompts of
    /// operators only, never for what a user typed into a message.
    #[must_use]
    pub fn encode_with_special(&self, text: &str) -> Vec<Token> {
        self.encode_allowing(text, &self.controls)
    }

    fn encode_allowing(&self, text: &str, controls: &HashSet<&str>) -> Vec<Token> {
        let mut tokens = Vec::new();
        for piece in cut_blank_runs(text, MAX_BLANK_RUN) {
            self.encode_piece(piece, controls, &mut tokens);
        }
        tokens
    }

    /// Encodes `text`; where the splitting expression fails, its halves.
    fn encode_piece(&self, text: &str, controls: &HashSet<&str>, tokens: &mut Vec<Token>) {
        if let Ok((encoded, _)) = self.bpe.encode(text, controls) {
            tokens.extend(encoded);
            return;
        }
        let mut inner = (text.len() / 2).max(1)..text.len();
        if let Some(middle) = inner.find(|&at| text.is_char_boundary(at)) {
            self.encode_piece(&text[..middle], controls, tokens);
            self.encode_piece(&text[middle..], controls, tokens);
        } else {
            // A single character: byte by byte, which needs no expression.
            tokens.extend(text.bytes().filter_map(|byte| self.byte_token(byte)));
        }
    }

    /// The token of a single byte.
    fn byte_token(&self, byte: u8) -> Option<Token> {
        // The vocabulary begins with the 256 single bytes, in an order of its own.
        (0..256).find(|&token| self.token_bytes(token) == Some(&[byte]))
    }

    /// The bytes `token` stands for: a piece of text that may begin or end inside a character, or a
    /// control token's name as in `<|end|>`. `None` for an id outside the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, token: Token) -> Option<&[u8]> {
        let at = usize::try_from(token).ok()?;
        let end = *self.starts.get(at + 1)?;
        let start = self.starts[at];
        self.bytes
            .get(start as usize..end as usize)
            .filter(|bytes| !bytes.is_empty())
    }

    /// The bytes of a text token; `None` for control tokens and unknown ids.
    pub(crate) fn text_bytes(&self, token: Token) -> Option<&[u8]> {
        self.token_bytes(token)
            .filter(|_| token < special::FIRST_CONTROL)
    }

    /// Whether `token` is a control token, reserved ones included.
    #[must_use]
    pub fn is_control(&self, token: Token) -> bool {
        token >= special::FIRST_CONTROL && (token as usize) < special::VOCAB_SIZE
    }

    /// The bytes of all `tokens`, control tokens by name; unknown ids add nothing. Not always valid
    /// UTF-8: [`crate::Utf8Stream`] makes it so.
    #[must_use]
    pub fn decode(&self, tokens: &[Token]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend_from_slice(self.token_bytes(token).unwrap_or_default());
        }
        bytes
    }
}

/// `text` in pieces none of which has more than `max` white space characters in a row; cuts only
/// where there are more.
fn cut_blank_runs(text: &str, max: usize) -> impl Iterator<Item = &str> {
    let mut cuts = Vec::new();
    // Most texts are shorter than the run they would have to contain.
    if text.len() > max {
        let mut run = 0;
        for (at, c) in text.char_indices() {
            if !c.is_whitespace() {
                run = 0;
            } else if run == max {
                cuts.push(at);
                run = 1;
            } else {
                run += 1;
            }
        }
    }
    cuts.push(text.len());
    let mut from = 0;
    cuts.into_iter().map(move |to| {
        let piece = &text[from..to];
        from = to;
        piece
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_id_below_the_vocabulary_size_has_bytes_and_none_above() {
        let tokenizer = Tokenizer::get();
        let size = special::VOCAB_SIZE as Token;
        for token in 0..size {
            assert!(tokenizer.token_bytes(token).is_some(), "{token}");
        }
        for token in [size, size + 1, Token::MAX] {
            assert_eq!(tokenizer.token_bytes(token), None);
            assert!(!tokenizer.is_control(token));
        }
        assert_eq!(tokenizer.decode(&[Token::MAX, special::END]), b"<|end|>");
    }

    #[test]
    fn control_tokens_have_the_ids_of_the_format() {
        let tokenizer = Tokenizer::get();
        for (name, id) in [
            ("<|endoftext|>", special::END_OF_TEXT),
            ("<|return|>", special::RETURN),
            ("<|constrain|>", special::CONSTRAIN),
            ("<|channel|>", special::CHANNEL),
            ("<|start|>", special::START),
            ("<|end|>", special::END),
            ("<|message|>", special::MESSAGE),
            ("<|call|>", special::CALL),
        ] {
            assert_eq!(tokenizer.encode_with_special(name), [id]);
            assert_eq!(tokenizer.token_bytes(id), Some(name.as_bytes()));
            assert!(tokenizer.is_control(id));
            assert!(
                tokenizer
                    .encode(name)
                    .iter()
                    .all(|&t| !tokenizer.is_control(t))
            );
            assert_eq!(tokenizer.decode(&tokenizer.encode(name)), name.as_bytes());
        }
        assert!(!tokenizer.is_control(special::FIRST_CONTROL - 1));
    }

    #[test]
    fn every_byte_has_a_token() {
        let tokenizer = Tokenizer::get();
        for byte in 0..=255 {
            assert!(tokenizer.byte_token(byte).is_some(), "{byte}");
        }
    }

    #[test]
    fn runs_of_a_megabyte_are_encoded_without_loss() {
        let tokenizer = Tokenizer::get();
        let million = 1_000_000;
        for text in [
            " ".repeat(2 * million),
            format!("x{}b c", " ".repeat(million + 1)),
            "\n".repeat(million),
            "\u{3000}".repeat(million / 2),
            "a".repeat(million),
            "😀".repeat(million / 4),
            "!".repeat(million),
            "<|end|>".repeat(million / 7),
        ] {
            let tokens = tokenizer.encode(&text);
            assert!(tokenizer.decode(&tokens) == text.as_bytes());
            assert!(tokens.iter().all(|&t| !tokenizer.is_control(t)));
        }
    }

    #[test]
    fn cuts_are_made_in_long_runs_of_blanks_only() {
        let cut = |text| cut_blank_runs(text, 3).collect::<Vec<_>>();
        assert_eq!(cut("a   b"), ["a   b"]);
        assert_eq!(cut("a    b"), ["a   ", " b"]);
        assert_eq!(cut("       "), ["   ", "   ", " "]);
        assert_eq!(
            cut("\u{3000}\u{3000} \u{3000}x"),
            ["\u{3000}\u{3000} ", "\u{3000}x"]
        );
        assert_eq!(cut(""), [""]);
    }

    proptest! {
        #[test]
        fn any_text_survives_and_never_becomes_a_control_token(
            text in "(\\PC{0,8}|<\\|(end|start|channel|message|return)\\|>|[ \n\t]{1,5}){0,8}"
        ) {
            let tokenizer = Tokenizer::get();
            let tokens = tokenizer.encode(&text);
            prop_assert_eq!(tokenizer.decode(&tokens), text.as_bytes());
            prop_assert!(tokens.iter().all(|&t| !tokenizer.is_control(t)));
            prop_assert_eq!(
                tokenizer.decode(&tokenizer.encode_with_special(&text)),
                text.as_bytes()
            );
        }
    }
}
