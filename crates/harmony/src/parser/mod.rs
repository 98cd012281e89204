//! Generated tokens to deltas; total and incremental.

mod repairs;

use crate::Token;
pub use repairs::{RepairKind, Repairs};

/// A piece of what the model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Hidden reasoning.
    Reasoning(String),
    /// Text for the user before a tool call.
    Preamble(String),
    /// The answer.
    Content(String),
    /// A tool call was opened; calls are numbered from 0.
    ToolCall {
        /// Number of the call within this generation.
        index: usize,
        /// Function name, without `functions.`.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call that was opened with this number.
        index: usize,
        /// Text to append.
        text: String,
    },
}

/// Where the next text token would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Into a header, or nowhere yet: between messages.
    Header,
    /// Into hidden reasoning.
    Reasoning,
    /// Into a preamble.
    Preamble,
    /// Into the answer.
    Content,
    /// Into a tool call's arguments.
    ToolCall,
}

/// The parser; its state is that after a prompt which ended in `<|start|>assistant`.
#[derive(Debug, Default)]
pub struct Parser {
    repairs: Repairs,
}

impl Parser {
    /// A parser at the beginning of a generation.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes one token. Never fails.
    pub fn push(&mut self, token: Token) -> Vec<Delta> {
        let _ = token;
        Vec::new()
    }
    /// Ends the generation: what was held back comes out.
    pub fn finish(&mut self) -> Vec<Delta> {
        Vec::new()
    }
    /// What had to be repaired so far.
    #[must_use]
    pub fn repairs(&self) -> &Repairs {
        &self.repairs
    }
    /// Where the next text token would go.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel::Header
    }
}
