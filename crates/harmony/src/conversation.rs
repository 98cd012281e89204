//! A conversation as the renderer takes it: who said what, which tools there are.
//!
//! Plain data, already validated by whoever builds it. No wire format here, and no tokens but a model's own.

use std::sync::Arc;

use serde_json::Value;

use crate::Token;

/// How long the model should think before it answers; `Reasoning: ...` in the system message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ReasoningEffort {
    /// `low`
    Low,
    /// `medium`, the format's default.
    #[default]
    Medium,
    /// `high`
    High,
}

impl ReasoningEffort {
    /// The word used in the system message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Who wrote a message; the first word of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The frame: identity, date, effort, channels.
    System,
    /// The application: instructions and tool declarations.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool; its header carries the tool's name in place of this word.
    Tool,
}

impl Role {
    /// The word used in a header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// Everything a prompt is made of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// Stated in the system message.
    pub effort: ReasoningEffort,
    /// `Current date` of the system message as `YYYY-MM-DD`; `None` leaves the line out.
    pub date: Option<String>,
    /// First line of the system message; `None` is the format's usual sentence.
    pub model_identity: Option<String>,
    /// `Knowledge cutoff` of the system message; `None` is the format's usual `2024-06`.
    pub knowledge_cutoff: Option<String>,
    /// The developer message's instructions: leading developer and system messages, joined.
    pub instructions: Option<String>,
    /// Functions the model may call.
    pub tools: Vec<Tool>,
    /// The dialogue, oldest first.
    pub turns: Vec<Turn>,
}

/// A function the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Name without the `functions.` namespace.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments; `None` declares a function without arguments.
    pub parameters: Option<Value>,
}

/// One entry of the dialogue.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// What a user said.
    User {
        /// Which one, where there are several. No spaces, no control tokens' names: it stands in the header.
        name: Option<String>,
        /// What they said.
        text: String,
    },
    /// A developer or system message in mid-conversation.
    Developer(String),
    /// What the model said, in the order reasoning, preamble, tool calls, content.
    Assistant {
        /// Hidden reasoning (`analysis`).
        reasoning: Option<String>,
        /// Text shown to the user before the calls (`commentary` without recipient).
        preamble: Option<String>,
        /// The answer (`final`).
        content: Option<String>,
        /// Calls, in the order they were made.
        tool_calls: Vec<ToolCall>,
    },
    /// What a model said, as it wrote it: put into the prompt token by token.
    Generated {
        /// What followed `<|start|>assistant`, up to and with the token that ended the generation.
        tokens: Arc<[Token]>,
        /// The same as a [`Turn::Assistant`], for where its reasoning is left out.
        plain: Box<Turn>,
    },
    /// What a function returned.
    ToolResult {
        /// Name of the function, without `functions.`.
        name: String,
        /// Its result, as text.
        content: String,
    },
}

/// A call the model made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Name without `functions.`.
    pub name: String,
    /// The arguments as the model wrote them, usually JSON.
    pub arguments: String,
}
