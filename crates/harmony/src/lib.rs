//! OpenAI's harmony format: conversations to prompt tokens, generated tokens to deltas.
//!
//! Owns the vocabulary ([`Tokenizer`]), the rendering of a [`Conversation`] ([`render`]) and the
//! parsing of what a model writes ([`Parser`]), and what it may write ([`TurnGuard`]). Knows nothing of HTTP, of JSON wire types or of
//! how tokens are produced.
//! Invariants: text handed in by users is never encoded as a control token, and no control token
//! and no broken UTF-8 ever comes out of the parser, whatever tokens go in.

mod constraint;
mod conversation;
mod parser;
mod render;
pub mod special;
mod tokenizer;
mod tools;
mod utf8;

pub use constraint::{
    Callable, Compiled, Grammar, GrammarCache, GrammarError, GrammarSource, MAX_GRAMMAR_BYTES,
    Next, TurnGuard, TurnRules, TurnWishes, Writing, prepare_grammars,
};
pub use conversation::{Conversation, ReasoningEffort, ResponseFormat, Role, Tool, ToolCall, Turn};
pub use parser::{Channel, Delta, Parser, RepairKind, Repairs};
pub use render::render;
pub use tokenizer::Tokenizer;
pub use utf8::Utf8Stream;

/// A token id of the `o200k_harmony` vocabulary; valid ids are below [`special::VOCAB_SIZE`].
pub type Token = u32;
