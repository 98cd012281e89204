//! The o200k_harmony vocabulary: text to tokens and back.

use std::sync::LazyLock;

use tiktoken_rs::CoreBPE;

use crate::{Token, special};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::build);

/// The tokenizer over the vocabulary embedded in the binary. One per process: [`Tokenizer::get`].
pub struct Tokenizer {
    bpe: &'static CoreBPE,
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Tokenizer {
    /// The process's tokenizer, built at the first call.
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
        Self { bpe, bytes, starts }
    }

    /// Encodes `text` as ordinary text: never yields a control token.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<Token> {
        self.bpe.encode_ordinary(text)
    }

    /// Encodes `text` in which `<|start|>` and the like are control tokens. For operators' raw
    /// prompts only, never for users' text.
    #[must_use]
    pub fn encode_with_special(&self, text: &str) -> Vec<Token> {
        self.bpe.encode_with_special_tokens(text)
    }

    /// The bytes `token` stands for; a control token's textual name; `None` for an unknown id.
    #[must_use]
    pub fn token_bytes(&self, token: Token) -> Option<&[u8]> {
        let at = token as usize;
        let range = *self.starts.get(at)? as usize..*self.starts.get(at + 1)? as usize;
        self.bytes.get(range).filter(|b| !b.is_empty())
    }

    /// Whether `token` is a control token.
    #[must_use]
    pub fn is_control(&self, token: Token) -> bool {
        (special::FIRST_CONTROL..special::VOCAB_SIZE as u32).contains(&token)
    }

    /// The bytes of all `tokens`; unknown ids add nothing.
    #[must_use]
    pub fn decode(&self, tokens: &[Token]) -> Vec<u8> {
        let mut out = Vec::new();
        for &token in tokens {
            out.extend_from_slice(self.token_bytes(token).unwrap_or_default());
        }
        out
    }
}
