//! Chat answers.

use super::{Collect, Head, ShownUsage};
use crate::generation::{Event, Piece, Update};
use crate::reply::prompts::Prompts;
use crate::sse::{Chunks, Frames};
use crate::wire::chat::{
    ChatChoice, ChatCompletion, ChatCompletionChunk, ChatLogprobs, ChunkChoice, Delta,
    DeltaFunction, DeltaToolCall, FinishReason, ResponseMessage, ToolCall,
};
use crate::wire::chat_request::{FunctionCall, FunctionType};
use crate::wire::usage::Usage;

/// What an answer shows besides its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// `reasoning_content` besides `reasoning`.
    pub reasoning_content: bool,
    /// Log-probabilities were asked for.
    pub logprobs: bool,
    /// The reasoning was not asked to be left out.
    pub reasoning: bool,
    /// Streams only.
    pub usage: ShownUsage,
}

/// A whole answer in the making.
pub(crate) struct WholeChat {
    shown: Shown,
    choices: Vec<Parts>,
    /// The only one.
    prompt: Prompts,
}

#[derive(Default)]
struct Parts {
    content: String,
    reasoning: String,
    tool_calls: Vec<ToolCall>,
    logprobs: ChatLogprobs,
    finish_reason: Option<FinishReason>,
}

impl WholeChat {
    pub fn new(num_choices: usize, shown: Shown, prompt: Prompts) -> Self {
        Self {
            shown,
            choices: (0..num_choices).map(|_| Parts::default()).collect(),
            prompt,
        }
    }

    /// The answer.
    pub fn finish(self, head: Head, usage: Usage) -> ChatCompletion {
        let shown = self.shown;
        ChatCompletion {
            id: head.id,
            object: "chat.completion",
            created: head.created,
            model: head.model,
            choices: self
                .choices
                .into_iter()
                .enumerate()
                .map(|(index, parts)| parts.choice(index, shown))
                .collect(),
            usage,
            service_tier: head.service_tier,
            system_fingerprint: head.system_fingerprint,
            prompt_logprobs: self.prompt.logprobs(0),
        }
    }

    fn update(&mut self, choice: usize, update: Update) {
        let parts = &mut self.choices[choice];
        parts.logprobs.content.extend(update.logprobs);
        for piece in update.pieces {
            match piece {
                Piece::Reasoning(text) if self.shown.reasoning => parts.reasoning.push_str(&text),
                Piece::Reasoning(_) | Piece::Begin(_) => {}
                Piece::Content(text) => parts.content.push_str(&text),
                Piece::ToolCall { id, name, .. } => parts.tool_calls.push(ToolCall {
                    id,
                    kind: FunctionType::Function,
                    function: FunctionCall {
                        name,
                        arguments: String::new(),
                    },
                }),
                // Calls are numbered from 0 in the order in which they are opened.
                Piece::Arguments { index, text } => {
                    if let Some(call) = parts.tool_calls.get_mut(index) {
                        call.function.arguments.push_str(&text);
                    }
                }
            }
        }
    }
}

impl Collect for WholeChat {
    fn take(&mut self, event: Event) {
        match event {
            Event::Prompt { prompt, scored } => self.prompt.take(prompt, scored),
            Event::Update { choice, update } => self.update(choice, update),
            Event::ChoiceFinished {
                choice,
                update,
                reason,
                ..
            } => {
                self.update(choice, update);
                self.choices[choice].finish_reason = Some(reason);
            }
            Event::Finished(_) | Event::Failed(_) => {}
        }
    }
}

impl Parts {
    fn choice(self, index: usize, shown: Shown) -> ChatChoice {
        let only_calls = self.content.is_empty() && !self.tool_calls.is_empty();
        let reasoning = (!self.reasoning.is_empty()).then_some(self.reasoning);
        ChatChoice {
            index,
            message: ResponseMessage {
                role: "assistant",
                content: (!only_calls).then_some(self.content),
                refusal: None,
                reasoning_content: reasoning.clone().filter(|_| shown.reasoning_content),
                reasoning,
                tool_calls: (!self.tool_calls.is_empty()).then_some(self.tool_calls),
            },
            logprobs: shown.logprobs.then_some(self.logprobs),
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
        }
    }
}

/// A streamed answer.
pub(crate) struct ChatChunks {
    head: Head,
    shown: Shown,
    /// Which choices have said who speaks.
    begun: Vec<bool>,
}

impl ChatChunks {
    pub fn new(head: Head, num_choices: usize, shown: Shown) -> Self {
        Self {
            head,
            shown,
            begun: vec![false; num_choices],
        }
    }

    fn chunk(
        &self,
        choices: Vec<ChunkChoice>,
        usage: Option<Option<Usage>>,
    ) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            service_tier: self.head.service_tier,
            system_fingerprint: self.head.system_fingerprint.clone(),
        }
    }

    fn choice(&self, choice: ChunkChoice, so_far: Usage, frames: &mut Frames) {
        let usage = self.shown.usage.of_chunk(so_far);
        frames.data(&self.chunk(vec![choice], usage));
    }

    fn update(&mut self, index: usize, update: Update, so_far: Usage, frames: &mut Frames) {
        if !std::mem::replace(&mut self.begun[index], true) {
            let choice = ChunkChoice {
                index,
                delta: Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                    ..Delta::default()
                },
                logprobs: None,
                finish_reason: None,
            };
            self.choice(choice, so_far, frames);
        }
        let mut pieces = update.pieces;
        if !self.shown.reasoning {
            pieces.retain(|piece| !matches!(piece, Piece::Reasoning(_)));
        }
        if pieces.is_empty() && update.logprobs.is_empty() {
            return;
        }
        let logprobs =
            (self.shown.logprobs && !update.logprobs.is_empty()).then_some(ChatLogprobs {
                content: update.logprobs,
                refusal: None,
            });
        let choice = ChunkChoice {
            index,
            delta: self.delta(pieces),
            logprobs,
            finish_reason: None,
        };
        self.choice(choice, so_far, frames);
    }

    fn delta(&self, pieces: Vec<Piece>) -> Delta {
        let mut delta = Delta::default();
        for piece in pieces {
            match piece {
                Piece::Begin(_) => {}
                Piece::Reasoning(text) => append(&mut delta.reasoning, &text),
                Piece::Content(text) => append(&mut delta.content, &text),
                Piece::ToolCall { index, id, name } => delta.tool_calls.push(DeltaToolCall {
                    index,
                    id: Some(id),
                    kind: Some(FunctionType::Function),
                    function: DeltaFunction {
                        name: Some(name),
                        arguments: String::new(),
                    },
                }),
                Piece::Arguments { index, text } => {
                    match delta.tool_calls.iter_mut().find(|call| call.index == index) {
                        Some(call) => call.function.arguments.push_str(&text),
                        None => delta.tool_calls.push(DeltaToolCall {
                            index,
                            id: None,
                            kind: None,
                            function: DeltaFunction {
                                name: None,
                                arguments: text,
                            },
                        }),
                    }
                }
            }
        }
        if self.shown.reasoning_content {
            delta.reasoning_content.clone_from(&delta.reasoning);
        }
        delta
    }
}

impl Chunks for ChatChunks {
    fn write(&mut self, event: Event, so_far: Usage, frames: &mut Frames) {
        match event {
            Event::Update { choice, update } => self.update(choice, update, so_far, frames),
            Event::ChoiceFinished {
                choice: index,
                update,
                reason,
                ..
            } => {
                self.update(index, update, so_far, frames);
                let choice = ChunkChoice {
                    index,
                    delta: Delta::default(),
                    logprobs: None,
                    finish_reason: Some(reason),
                };
                self.choice(choice, so_far, frames);
            }
            Event::Finished(usage) if self.shown.usage.at_the_end() => {
                frames.data(&self.chunk(Vec::new(), Some(Some(usage))));
            }
            Event::Prompt { .. } | Event::Finished(_) | Event::Failed(_) => {}
        }
    }
}

fn append(text: &mut Option<String>, more: &str) {
    text.get_or_insert_default().push_str(more);
}
