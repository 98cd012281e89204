//! Events out of a text engine's stream: what it calls reasoning, answer and calls, with our stop strings.
//!
//! Stop strings concern the answer only, as with the local engine, and so do log-probabilities. Knows no engine.
//! Invariant: a choice that a stop string ended is ended in the engine too; what still comes of it counts for nothing.

use std::sync::Arc;

use super::answer::AnswerText;
use super::ledger::Ledger;
use super::{Messages, Piece, Speech, Update};
use crate::error::{ApiError, ErrorCode};
use crate::request_id::random_id;
use crate::state::AppState;
use crate::text_engine::{
    TextEnd, TextEngine, TextEvent, TextRequest, TextStream, TextSubmitError, ToolCall,
};
use crate::wire::chat::{FinishReason, TokenLogprob};

/// A request of a text engine, ready to run.
pub(crate) struct TextJob {
    pub engine: Arc<dyn TextEngine>,
    pub request: TextRequest,
    pub stop_strings: Vec<String>,
    /// What the ids of calls begin with.
    pub call_prefix: &'static str,
    /// What becomes of several messages.
    pub messages: Messages,
    /// Name of the field that holds the conversation, for errors.
    pub prompt_param: &'static str,
}

/// See the file's header.
pub(super) struct TextSource {
    stream: TextStream,
    assemblers: Vec<TextAssembler>,
}

impl TextSource {
    /// Hands it to the engine.
    pub async fn submit(job: TextJob, state: &AppState) -> Result<Self, ApiError> {
        let assembler = |_| TextAssembler::new(&job.stop_strings, job.messages, job.call_prefix);
        let assemblers = (0..job.request.n).map(assembler).collect();
        let stream = (job.engine.submit(job.request).await)
            .map_err(|error| refusal(error, job.prompt_param, state))?;
        Ok(Self { stream, assemblers })
    }

    pub fn prompt_tokens(&self) -> usize {
        self.stream.prompt_tokens()
    }

    pub fn num_choices(&self) -> usize {
        self.assemblers.len()
    }

    /// Waits for the engine's next event and enters it. Cancel-safe.
    pub async fn advance(&mut self, ledger: &mut Ledger) {
        match self.stream.next().await {
            Some(event) => self.digest(event, ledger),
            // Not before a terminal event, after which nobody asks.
            None => ledger.fail(ApiError::internal().with_internal("a text stream ended twice")),
        }
    }

    fn digest(&mut self, event: TextEvent, ledger: &mut Ledger) {
        match event {
            TextEvent::Delta {
                choice,
                tokens,
                reasoning,
                content,
                calls,
                logprobs,
            } => {
                let number = choice as usize;
                if ledger.is_finished(number) {
                    return;
                }
                ledger.tokens(number, tokens);
                for logprob in &logprobs {
                    ledger.logprob(number, logprob.logprob);
                }
                let assembler = &mut self.assemblers[number];
                let mut update = Update::default();
                assembler.reasoning(reasoning, tokens, &mut update);
                assembler.content(&content, logprobs, &mut update);
                assembler.calls(calls, &mut update);
                ledger.set_reasoning_tokens(number, assembler.reasoning_tokens);
                if assembler.stopped {
                    self.stream.finish_choice(choice);
                    self.finish_choice(number, update, TextEnd::Own, ledger);
                } else {
                    ledger.update(number, update);
                }
            }
            TextEvent::ChoiceFinished { choice, end } => {
                self.finish_choice(choice as usize, Update::default(), end, ledger);
            }
            TextEvent::Finished => ledger.finish(),
            TextEvent::Failed(error) => {
                ledger.fail(ApiError::from_request(error, ledger.retry_after));
            }
        }
    }

    fn finish_choice(
        &mut self,
        number: usize,
        mut update: Update,
        end: TextEnd,
        ledger: &mut Ledger,
    ) {
        if ledger.is_finished(number) {
            return;
        }
        let assembler = &mut self.assemblers[number];
        if !assembler.stopped {
            let text = assembler.answer.finish(&mut update.logprobs);
            if !text.is_empty() {
                update.pieces.push(Piece::Content(text));
            }
        }
        let reason = match end {
            TextEnd::Length => FinishReason::Length,
            TextEnd::Own if assembler.num_calls > 0 && !assembler.stopped => {
                FinishReason::ToolCalls
            }
            TextEnd::Own => FinishReason::Stop,
        };
        let stop_string = assembler.answer.stop_string().map(str::to_owned);
        ledger.finish_choice(number, update, reason, stop_string);
    }
}

/// The pieces of one choice.
struct TextAssembler {
    answer: AnswerText,
    messages: Messages,
    /// What the last text belonged to, where messages are kept apart.
    speech: Option<Speech>,
    call_prefix: &'static str,
    num_calls: usize,
    reasoning_tokens: usize,
    stopped: bool,
}

impl TextAssembler {
    fn new(stop_strings: &[String], messages: Messages, call_prefix: &'static str) -> Self {
        Self {
            answer: AnswerText::new(stop_strings),
            messages,
            speech: None,
            call_prefix,
            num_calls: 0,
            reasoning_tokens: 0,
            stopped: false,
        }
    }

    fn begin(&mut self, speech: Speech, update: &mut Update) {
        if self.messages == Messages::Apart && self.speech != Some(speech) {
            self.speech = Some(speech);
            update.pieces.push(Piece::Begin(speech));
        }
    }

    fn reasoning(&mut self, text: String, tokens: usize, update: &mut Update) {
        if !text.is_empty() {
            self.reasoning_tokens += tokens;
            self.begin(Speech::Reasoning, update);
            update.pieces.push(Piece::Reasoning(text));
        }
    }

    fn content(&mut self, text: &str, logprobs: Vec<TokenLogprob>, update: &mut Update) {
        if text.is_empty() {
            return;
        }
        self.begin(Speech::Answer, update);
        for logprob in logprobs {
            self.answer.token(logprob);
        }
        let (released, hit) = self.answer.push(text, &mut update.logprobs);
        if !released.is_empty() {
            update.pieces.push(Piece::Content(released));
        }
        self.stopped |= hit;
    }

    fn calls(&mut self, calls: Vec<ToolCall>, update: &mut Update) {
        if self.stopped {
            return;
        }
        for ToolCall { name, arguments } in calls {
            let index = self.num_calls;
            self.num_calls += 1;
            self.speech = None;
            let id = random_id(self.call_prefix);
            update.pieces.push(Piece::ToolCall { index, id, name });
            if !arguments.is_empty() {
                update.pieces.push(Piece::Arguments {
                    index,
                    text: arguments,
                });
            }
        }
    }
}

fn refusal(error: TextSubmitError, prompt_param: &'static str, state: &AppState) -> ApiError {
    match error {
        TextSubmitError::Refused(error) => {
            ApiError::from_submit(error, prompt_param, state.config.retry_after)
        }
        TextSubmitError::Template(why) => ApiError::field(
            ErrorCode::InvalidValue,
            prompt_param,
            format!("The model's chat template refuses this conversation: {why}"),
        ),
        TextSubmitError::Engine(detail) => ApiError::new(
            ErrorCode::EngineError,
            "The engine failed while it took this request.",
        )
        .with_internal(detail),
    }
}
