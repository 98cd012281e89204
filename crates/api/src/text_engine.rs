//! The seam above the token level: messages in, pieces of text out.
//!
//! What an engine implements that has a template, a tokenizer and a scheduler of its own. Our own path,
//! harmony over our scheduler ([`Engine::Tokens`]), does not go through it; both end in `generation::Event`s, so everything
//! about answers, limits and metrics is written once.
//! Knows no engine. Invariants: dropping a [`TextStream`] cancels the request, and its [`TextSink`] says so; a stream yields
//! exactly one terminal event, also if the engine dies.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
pub use gossamer_harmony::{GrammarSource, ReasoningEffort, Tool, ToolCall};
use gossamer_scheduler::{Capacity, SchedulerHandle};
pub use gossamer_scheduler::{RequestError, SamplingParams, SubmitError};
use tokio::sync::mpsc;

use crate::error::{ApiError, ErrorCode};
pub use crate::generation::logprobs::finite;
use crate::wire::chat::TokenLogprob;

/// Who says a message.
#[derive(Clone, Debug, PartialEq)]
pub enum TextMessage {
    /// Instructions: a system or developer message.
    System(String),
    /// What a user said.
    User {
        /// Which one, where there are several.
        name: Option<String>,
        /// What they said.
        text: String,
    },
    /// What the model said.
    Assistant {
        /// Its visible text, empty where there was none.
        content: String,
        /// Hidden reasoning that the client sent back.
        reasoning: Option<String>,
        /// The calls it made, each with the id that its result has.
        calls: Vec<(String, ToolCall)>,
    },
    /// What a function returned.
    Tool {
        /// Id of the call.
        id: String,
        /// Name of the function.
        name: String,
        /// Its result, as text.
        content: String,
    },
}

/// A valid request of a conversation.
#[derive(Clone, Debug)]
pub struct TextRequest {
    /// The conversation, oldest first.
    pub messages: Vec<TextMessage>,
    /// Functions that the model may call, if it wants to.
    pub tools: Vec<Tool>,
    /// For templates that ask for it.
    pub effort: ReasoningEffort,
    /// What the whole output is held to.
    pub grammar: Option<GrammarSource>,
    /// How tokens are drawn. `logit_bias` is empty. Choice `i` draws from the stream that `seed` and `i` name.
    pub sampling: SamplingParams,
    /// Choices, at least 1.
    pub n: u32,
    /// Most tokens of a choice, at least 1; `None` leaves what the context has room for, but no more than
    /// `default_max_tokens`.
    pub max_tokens: Option<usize>,
    /// Bound where the request says nothing.
    pub default_max_tokens: Option<usize>,
    /// The model does not end a choice before so many tokens.
    pub min_tokens: usize,
    /// Nor at all.
    pub ignore_eos: bool,
}

/// Why a request was not accepted; nothing was queued.
#[derive(Debug, thiserror::Error)]
pub enum TextSubmitError {
    /// For a reason that our own scheduler has too.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The model's chat template does not take this conversation; the text says why.
    #[error("the model's chat template refuses this conversation: {0}")]
    Template(String),
    /// The engine failed before there was anything to cancel.
    #[error("{0}")]
    Engine(String),
}

/// Why a choice ended without a stop string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEnd {
    /// The model ended it.
    Own,
    /// There was no room for more.
    Length,
}

/// What happens to a request of a text engine.
#[derive(Debug)]
pub enum TextEvent {
    /// A choice grew.
    Delta {
        /// Which, from 0.
        choice: u32,
        /// Tokens that were drawn since this choice's last event, at least 1.
        tokens: usize,
        /// More hidden reasoning.
        reasoning: String,
        /// More of the answer.
        content: String,
        /// Whole calls, each with the function's name and its arguments.
        calls: Vec<ToolCall>,
        /// The tokens' log-probabilities, where the request asks for them.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice ended. Of one that the stream has ended itself this may come too, and means nothing.
    ChoiceFinished {
        /// Which.
        choice: u32,
        /// Why.
        end: TextEnd,
    },
    /// All choices ended.
    Finished,
    /// The request failed.
    Failed(RequestError),
}

/// The events of one request; see the file's header.
#[derive(Debug)]
pub struct TextStream {
    events: mpsc::UnboundedReceiver<TextEvent>,
    shared: Arc<Shared>,
    prompt_tokens: usize,
    ended: bool,
}

/// The engine's end of a [`TextStream`]. Clone it into whatever works on the request.
#[derive(Clone, Debug)]
pub struct TextSink {
    events: mpsc::UnboundedSender<TextEvent>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Per choice: nobody wants more of it.
    ended: Box<[AtomicBool]>,
}

/// Both ends of a request of `n` choices, whose prompt has so many tokens.
pub fn text_stream(n: u32, prompt_tokens: usize) -> (TextSink, TextStream) {
    // Unbounded, so that an engine never waits for a client. Bounded in fact: an event for each token, and few more.
    let (sender, events) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        ended: (0..n).map(|_| AtomicBool::new(false)).collect(),
    });
    let sink = TextSink {
        events: sender,
        shared: Arc::clone(&shared),
    };
    let stream = TextStream {
        events,
        shared,
        prompt_tokens,
        ended: false,
    };
    (sink, stream)
}

impl TextStream {
    /// The next event; `None` after the terminal one. Cancel-safe.
    pub async fn next(&mut self) -> Option<TextEvent> {
        if self.ended {
            return None;
        }
        // An engine that is gone without a word has not finished.
        let event = (self.events.recv().await).unwrap_or_else(|| {
            TextEvent::Failed(RequestError::Engine(
                "the engine dropped the request".into(),
            ))
        });
        self.ended = matches!(event, TextEvent::Finished | TextEvent::Failed(_));
        Some(event)
    }

    /// Tokens of the prompt, the template's included.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Ends a choice, e.g. because a stop string appeared in its text. Events of it may still come.
    pub fn finish_choice(&self, choice: u32) {
        if let Some(ended) = self.shared.ended.get(choice as usize) {
            ended.store(true, Ordering::Release);
        }
    }
}

impl TextSink {
    /// Sends an event; whoever listens may have gone.
    pub fn send(&self, event: TextEvent) {
        // That nobody listens is what `wants` says.
        let _ = self.events.send(event);
    }

    /// Whether anybody wants more of a choice.
    pub fn wants(&self, choice: u32) -> bool {
        let ended = |ended: &AtomicBool| ended.load(Ordering::Acquire);
        !self.events.is_closed() && !(self.shared.ended.get(choice as usize)).is_none_or(ended)
    }

    /// Resolves when the stream was dropped.
    pub async fn cancelled(&self) {
        self.events.closed().await;
    }
}

/// An engine in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStats {
    /// Choices being generated.
    pub running: usize,
    /// Requests whose first choice waits to run; of our scheduler, preempted sequences too.
    pub waiting: usize,
}

/// An engine that takes conversations and gives text.
pub trait TextEngine: Send + Sync {
    /// What it is called in errors.
    fn name(&self) -> &'static str;

    /// Most tokens of prompt and output together.
    fn max_sequence_len(&self) -> usize;

    /// Queues a request. Resolves when it is accepted, which takes as long as to render and tokenize it; dropping the
    /// future before that leaves nothing behind.
    fn submit(
        &self,
        request: TextRequest,
    ) -> BoxFuture<'static, Result<TextStream, TextSubmitError>>;

    /// How busy it is.
    fn stats(&self) -> TextStats;

    /// Whether a new request can be expected to be answered.
    fn is_ready(&self) -> bool;
}

/// What answers requests.
#[derive(Clone)]
pub enum Engine {
    /// Tokens in, tokens out: our scheduler, with harmony above it.
    Tokens(SchedulerHandle),
    /// Messages in, text out.
    Text(Arc<dyn TextEngine>),
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(_) => f.write_str("Tokens"),
            Self::Text(engine) => f.debug_tuple("Text").field(&engine.name()).finish(),
        }
    }
}

impl From<SchedulerHandle> for Engine {
    fn from(scheduler: SchedulerHandle) -> Self {
        Self::Tokens(scheduler)
    }
}

impl Engine {
    /// Most tokens of prompt and output together.
    pub fn max_sequence_len(&self) -> usize {
        match self {
            Self::Tokens(scheduler) => scheduler.max_sequence_len(),
            Self::Text(engine) => engine.max_sequence_len(),
        }
    }

    /// Whether a new request can be expected to be answered.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Tokens(scheduler) => scheduler.is_ready(),
            Self::Text(engine) => engine.is_ready(),
        }
    }

    /// How busy it is.
    pub fn stats(&self) -> TextStats {
        match self {
            Self::Tokens(scheduler) => {
                let stats = scheduler.stats();
                TextStats {
                    running: stats.running,
                    waiting: stats.waiting,
                }
            }
            Self::Text(engine) => engine.stats(),
        }
    }

    /// What the KV cache holds, where there is one that all sequences share.
    pub fn capacity(&self) -> Option<&Capacity> {
        match self {
            Self::Tokens(scheduler) => Some(scheduler.capacity()),
            Self::Text(_) => None,
        }
    }

    /// The scheduler, for what needs the tokens of a prompt.
    ///
    /// # Errors
    /// 400 naming `param`: this engine knows conversations only.
    pub(crate) fn tokens(&self, param: &'static str) -> Result<&SchedulerHandle, ApiError> {
        match self {
            Self::Tokens(scheduler) => Ok(scheduler),
            Self::Text(engine) => Err(ApiError::field(
                ErrorCode::UnsupportedParameter,
                param,
                format!(
                    "'{param}' cannot be used here: the engine '{}' takes conversations and gives text, and its tokens \
                     are not known. /v1/chat/completions, /v1/responses, /v1/messages, /chat, /stream and /generate work.",
                    engine.name()
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn a_dropped_stream_and_an_ended_choice_are_seen_at_the_other_end() {
        let (sink, stream) = text_stream(2, 3);
        assert!(sink.wants(0) && sink.wants(1) && !sink.wants(2));
        stream.finish_choice(1);
        stream.finish_choice(7);
        assert!(sink.wants(0) && !sink.wants(1));
        drop(stream);
        assert!(!sink.wants(0));
        block_on(sink.cancelled());
    }

    #[test]
    fn an_engine_that_dies_ends_the_stream_once() {
        let (sink, mut stream) = text_stream(1, 3);
        drop(sink);
        let failed = block_on(stream.next());
        assert!(matches!(
            failed,
            Some(TextEvent::Failed(RequestError::Engine(_)))
        ));
        assert!(block_on(stream.next()).is_none());
    }
}
