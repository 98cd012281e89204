//! The official encoding, fed with our copy of its vocabulary, and our types turned into its.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gossamer_harmony::{Conversation, ReasoningEffort, Tokenizer, Turn, special};
use openai_harmony::chat::{
    Author, DeveloperContent, Message, ReasoningEffort as OfficialEffort, Role, SystemContent,
    ToolDescription,
};
use openai_harmony::{HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding};

/// The official encoding, loaded once.
pub fn encoding() -> &'static HarmonyEncoding {
    static ENCODING: LazyLock<HarmonyEncoding> = LazyLock::new(load);
    &ENCODING
}

fn load() -> HarmonyEncoding {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("official-vocabulary");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let file = folder.join("o200k_base.tiktoken");
    std::fs::write(file, vocabulary_file()).expect("the target folder is writable");
    // SAFETY: everything in this process reads the environment through std, which locks it.
    unsafe { std::env::set_var("TIKTOKEN_ENCODINGS_BASE", &folder) };
    load_harmony_encoding(HarmonyEncodingName::HarmonyGptOss)
        .expect("the file written has the SHA-256 that the official crate expects")
}

/// The vocabulary in the layout of `o200k_base.tiktoken`: a token in base64, its rank, per line.
fn vocabulary_file() -> String {
    let mut file = String::new();
    for token in 0..special::FIRST_CONTROL {
        let bytes = Tokenizer::get()
            .token_bytes(token)
            .expect("every text id has bytes");
        writeln!(file, "{} {token}", BASE64_STANDARD.encode(bytes)).expect("strings take text");
    }
    file
}

/// What the official crate would be given for `conversation`, all reasoning included.
pub fn messages(conversation: &Conversation) -> Vec<Message> {
    let mut system = SystemContent::new().with_reasoning_effort(match conversation.effort {
        ReasoningEffort::Low => OfficialEffort::Low,
        ReasoningEffort::Medium => OfficialEffort::Medium,
        ReasoningEffort::High => OfficialEffort::High,
    });
    if let Some(date) = &conversation.date {
        system = system.with_conversation_start_date(date);
    }
    if let Some(identity) = &conversation.model_identity {
        system = system.with_model_identity(identity);
    }
    if let Some(cutoff) = &conversation.knowledge_cutoff {
        system = system.with_knowledge_cutoff(cutoff);
    }
    let mut messages = vec![Message::from_role_and_content(Role::System, system)];

    let mut developer = DeveloperContent::new();
    if let Some(instructions) = &conversation.instructions {
        developer = developer.with_instructions(instructions);
    }
    if !conversation.tools.is_empty() {
        developer = developer.with_function_tools(
            conversation
                .tools
                .iter()
                .map(|tool| {
                    let description = tool.description.as_deref().unwrap_or_default();
                    ToolDescription::new(&tool.name, description, tool.parameters.clone())
                })
                .collect(),
        );
    }
    if conversation.instructions.is_some() || !conversation.tools.is_empty() {
        messages.push(Message::from_role_and_content(Role::Developer, developer));
    }
    for turn in &conversation.turns {
        messages.extend(turn_messages(turn));
    }
    messages
}

fn turn_messages(turn: &Turn) -> Vec<Message> {
    let said = |channel: &str, text: &str| {
        Message::from_role_and_content(Role::Assistant, text).with_channel(channel)
    };
    match turn {
        Turn::User { name, text } => {
            let author = match name {
                Some(name) => Author::new(Role::User, name),
                None => Author::from(Role::User),
            };
            vec![Message::from_author_and_content(author, text.as_str())]
        }
        Turn::Developer(text) => vec![Message::from_role_and_content(
            Role::Developer,
            DeveloperContent::new().with_instructions(text),
        )],
        Turn::Assistant {
            reasoning,
            preamble,
            content,
            tool_calls,
        } => {
            let mut messages = Vec::new();
            messages.extend(reasoning.as_deref().map(|text| said("analysis", text)));
            messages.extend(preamble.as_deref().map(|text| said("commentary", text)));
            messages.extend(tool_calls.iter().map(|call| {
                said("commentary", &call.arguments)
                    .with_recipient(format!("functions.{}", call.name))
                    .with_content_type("<|constrain|>json")
            }));
            messages.extend(content.as_deref().map(|text| said("final", text)));
            messages
        }
        // What stands for the same message by message; the strategies make none.
        Turn::Generated { plain, .. } => turn_messages(plain),
        Turn::ToolResult { name, content } => {
            let author = Author::new(Role::Tool, format!("functions.{name}"));
            vec![
                Message::from_author_and_content(author, content.as_str())
                    .with_recipient("assistant")
                    .with_channel("commentary"),
            ]
        }
    }
}
