//! A conversation to prompt tokens, as the format's own renderer would write it.
//!
//! Layout and wording as in openai/harmony `docs/format.md`; the official crate is the oracle
//! (`oracle/tests`). Text is encoded piece by piece, and control tokens are put between the pieces
//! by id, so nothing in a text can become one.
//! Work is linear in the length of the conversation.

use crate::tools::declare_functions;
use crate::{Conversation, Role, Token, Tokenizer, ToolCall, Turn, special};

/// The format's default first line of the system message.
const MODEL_IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";
/// The format's default knowledge cutoff.
const KNOWLEDGE_CUTOFF: &str = "2024-06";

const ANALYSIS: &str = "analysis";
const COMMENTARY: &str = "commentary";
const FINAL: &str = "final";

/// Renders `conversation` as prompt tokens, ending in `<|start|>assistant`.
///
/// Reasoning before the last answer is dropped, as the format wants it; reasoning after it, between
/// tool calls, is kept.
#[must_use]
pub fn render(conversation: &Conversation) -> Vec<Token> {
    let mut out = Writer::new();
    out.message(Role::System, &system_text(conversation));
    if let Some(text) = developer_text(conversation) {
        out.message(Role::Developer, &text);
    }
    let last_answer = conversation.turns.iter().rposition(is_answer);
    for (at, turn) in conversation.turns.iter().enumerate() {
        let keeps_reasoning = last_answer.is_none_or(|last| at > last);
        out.turn(turn, keeps_reasoning);
    }
    out.control(special::START);
    out.text(Role::Assistant.as_str());
    out.tokens
}

fn is_answer(turn: &Turn) -> bool {
    match turn {
        Turn::Assistant { content, .. } => content.is_some(),
        Turn::Generated { plain, .. } => is_answer(plain),
        _ => false,
    }
}

fn system_text(conversation: &Conversation) -> String {
    let or = |value: &Option<String>, default: &str| value.as_deref().unwrap_or(default).to_owned();
    let mut text = or(&conversation.model_identity, MODEL_IDENTITY);
    text.push_str("\nKnowledge cutoff: ");
    text.push_str(&or(&conversation.knowledge_cutoff, KNOWLEDGE_CUTOFF));
    if let Some(date) = &conversation.date {
        text.push_str("\nCurrent date: ");
        text.push_str(date);
    }
    text.push_str("\n\nReasoning: ");
    text.push_str(conversation.effort.as_str());
    text.push_str("\n\n# Valid channels: analysis, commentary, final.");
    text.push_str(" Channel must be included for every message.");
    if !conversation.tools.is_empty() {
        text.push_str("\nCalls to these tools must go to the commentary channel: 'functions'.");
    }
    text
}

/// The developer message's text; `None` if there is nothing to say.
fn developer_text(conversation: &Conversation) -> Option<String> {
    let instructions = conversation.instructions.as_deref().map(instructions_text);
    let tools = (!conversation.tools.is_empty()).then(|| declare_functions(&conversation.tools));
    match (instructions, tools) {
        (Some(instructions), Some(tools)) => Some(format!("{instructions}\n\n{tools}")),
        (either, other) => either.or(other),
    }
}

fn instructions_text(instructions: &str) -> String {
    format!("# Instructions\n\n{instructions}")
}

struct Writer {
    tokenizer: &'static Tokenizer,
    tokens: Vec<Token>,
}

impl Writer {
    fn new() -> Self {
        Self {
            tokenizer: Tokenizer::get(),
            tokens: Vec::new(),
        }
    }

    fn text(&mut self, text: &str) {
        self.tokens.extend(self.tokenizer.encode(text));
    }

    fn control(&mut self, token: Token) {
        self.tokens.push(token);
    }

    /// A message whose header is the role alone.
    fn message(&mut self, role: Role, text: &str) {
        self.control(special::START);
        self.text(role.as_str());
        self.body(text, special::END);
    }

    fn body(&mut self, text: &str, end: Token) {
        self.control(special::MESSAGE);
        self.text(text);
        self.control(end);
    }

    fn turn(&mut self, turn: &Turn, keeps_reasoning: bool) {
        match turn {
            Turn::User { name, text } => {
                self.control(special::START);
                self.text(Role::User.as_str());
                if let Some(name) = name {
                    self.text(&format!(":{name}"));
                }
                self.body(text, special::END);
            }
            Turn::Developer(text) => self.message(Role::Developer, &instructions_text(text)),
            Turn::Assistant {
                reasoning,
                preamble,
                content,
                tool_calls,
            } => {
                if let Some(text) = reasoning.as_deref().filter(|_| keeps_reasoning) {
                    self.said(ANALYSIS, text);
                }
                if let Some(text) = preamble {
                    self.said(COMMENTARY, text);
                }
                for call in tool_calls {
                    self.call(call);
                }
                if let Some(text) = content {
                    self.said(FINAL, text);
                }
            }
            Turn::Generated { tokens, .. } if keeps_reasoning => {
                self.control(special::START);
                self.text(Role::Assistant.as_str());
                self.tokens.extend_from_slice(tokens);
            }
            Turn::Generated { plain, .. } => self.turn(plain, keeps_reasoning),
            Turn::ToolResult { name, content } => self.result(name, content),
        }
    }

    fn said(&mut self, channel: &str, text: &str) {
        self.control(special::START);
        self.text(Role::Assistant.as_str());
        self.control(special::CHANNEL);
        self.text(channel);
        self.body(text, special::END);
    }

    /// The recipient stands in the role part, as the official renderer puts it; models also write
    /// it in the channel part.
    fn call(&mut self, call: &ToolCall) {
        self.control(special::START);
        self.text(Role::Assistant.as_str());
        self.text(&format!(" to=functions.{}", call.name));
        self.control(special::CHANNEL);
        self.text(COMMENTARY);
        self.text(" ");
        self.control(special::CONSTRAIN);
        self.text("json");
        self.body(&call.arguments, special::CALL);
    }

    fn result(&mut self, name: &str, content: &str) {
        self.control(special::START);
        self.text(&format!("functions.{name}"));
        self.text(" to=assistant");
        self.control(special::CHANNEL);
        self.text(COMMENTARY);
        self.body(content, special::END);
    }
}
