//! A request from the queue to its end: one of mistral.rs's requests per choice, and their chunks as events.
//!
//! One per choice and not `n_choices`, because a group of choices there is sent on in step and ends as one.
//! Knows mistral.rs's answers. Invariants: one terminal event; whatever ends this early makes every draw of it an end, so
//! mistral.rs is done with it one step later.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gossamer_api::text_engine::{
    RequestError, TextEnd, TextEvent, TextRequest, TextSink, ToolCall, finite,
};
use gossamer_api::wire::chat::{TokenLogprob, TopLogprob};
use gossamer_metrics::SchedulerMetrics;
use mistralrs_core::llguidance::toktrie::TokEnv;
use mistralrs_core::{
    ChunkChoice, CustomLogitsProcessor, MistralRs, NormalRequest, Request, RequestMessage, Response,
};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::draw::{Draw, Drawn, Tap};
use crate::queue::{Place, Ticket};
use crate::request::{argmax, constraint, effort, messages, tools};

/// Chunks that may be on their way besides one per token: errors.
const SPARE_CHUNKS: usize = 16;

/// What does not change from request to request.
pub(crate) struct Model {
    pub mistral: Arc<MistralRs>,
    /// The model's own ends.
    pub ends: Arc<[u32]>,
    pub tokens: Option<TokEnv>,
    pub metrics: SchedulerMetrics,
    /// A token was drawn or a request answered, and no request has failed by the engine's fault since.
    pub healthy: AtomicBool,
}

/// Why a request failed.
struct Failure {
    error: RequestError,
    /// Another request would probably fail too.
    of_engine: bool,
}

/// The engine is at fault.
fn broken(detail: String) -> Failure {
    Failure {
        error: RequestError::Engine(detail),
        of_engine: true,
    }
}

/// The request is at fault, or time.
fn refused(error: RequestError) -> Failure {
    Failure {
        error,
        of_engine: false,
    }
}

/// Works on an accepted request until its end.
pub(crate) async fn run(
    model: Arc<Model>,
    request: TextRequest,
    prompt_len: usize,
    max_len: usize,
    sink: TextSink,
    mut ticket: Ticket,
) {
    let request = Arc::new(request);
    // Dropping it aborts what it holds.
    let mut choices = JoinSet::new();
    let result = async {
        for choice in 0..request.n {
            // Waited for by one future to the end: another one would wait behind everybody else.
            let mut waiting = pin!(ticket.place(prompt_len));
            let place = loop {
                tokio::select! {
                    place = &mut waiting => break place.map_err(refused)?,
                    // What has failed by now fails the request, and does not wait for places that nobody needs.
                    Some(ended) = choices.join_next() => outcome(ended)?,
                }
            };
            choices.spawn(run_choice(
                Arc::clone(&model),
                Arc::clone(&request),
                choice,
                max_len,
                sink.clone(),
                place,
            ));
        }
        while let Some(ended) = choices.join_next().await {
            outcome(ended)?;
        }
        Ok(())
    };
    let ended = tokio::select! {
        result = result => Some(result),
        () = sink.cancelled() => None,
    };
    match ended {
        Some(Ok(())) => {
            model.healthy.store(true, Ordering::SeqCst);
            sink.send(TextEvent::Finished);
        }
        Some(Err(Failure { error, of_engine })) => {
            if of_engine {
                model.healthy.store(false, Ordering::SeqCst);
                model.metrics.step_failed();
            }
            sink.send(TextEvent::Failed(error));
        }
        None => {}
    }
}

/// What a choice ended with.
fn outcome(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.map_err(|error| broken(error.to_string()))?
}

/// Makes whatever a choice draws from now on an end.
struct Closing(Arc<Tap>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn run_choice(
    model: Arc<Model>,
    request: Arc<TextRequest>,
    choice: u32,
    max_len: usize,
    sink: TextSink,
    place: Place,
) -> Result<(), Failure> {
    let tap = Arc::new(Tap::default());
    let _closing = Closing(Arc::clone(&tap));
    let listener = sink.clone();
    let draw = Draw {
        params: request.sampling.clone(),
        choice,
        ends: Arc::clone(&model.ends),
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos,
        max_len,
        tap: Arc::clone(&tap),
        wanted: Box::new(move || listener.wants(choice)),
        _held: Box::new(place),
        state: Mutex::default(),
    };
    // With room for everything that can come: mistral.rs waits, and all its sequences with it, where there is none.
    let (sender, mut chunks) = mpsc::channel(max_len + SPARE_CHUNKS);
    let wish = normal(&request, max_len, sender, Arc::new(draw));
    let mistral = (model.mistral.get_sender(None)).map_err(|error| broken(error.to_string()))?;
    (mistral.send(wish).await).map_err(|_| broken("mistral.rs has stopped".into()))?;
    let mut counted = 0;
    while let Some(response) = chunks.recv().await {
        let chunk = match response {
            Response::Chunk(chunk) => chunk,
            Response::InternalError(error) => return Err(broken(error.to_string())),
            Response::ValidationError(error) => {
                return Err(refused(RequestError::Engine(error.to_string())));
            }
            Response::ModelError(message, _) => return Err(broken(message)),
            _ => return Err(broken("an answer that is no chunk of text".into())),
        };
        for part in chunk.choices {
            let finish = part.finish_reason.clone();
            let drawn = tap.take(part.logprobs.as_ref().map_or(0.0, |own| own.logprob));
            if !drawn.is_empty() {
                // Not only when a request ends, which a long one does late.
                model.healthy.store(true, Ordering::SeqCst);
            }
            counted += drawn.len();
            if counted > max_len {
                return last_words(&model, &request, choice, max_len, drawn, counted, &sink);
            }
            model.metrics.generated(drawn.len());
            sink.send(delta(&model, &request, choice, part, drawn));
            match finish.as_deref() {
                None => {}
                Some("length") => {
                    let end = TextEnd::Length;
                    sink.send(TextEvent::ChoiceFinished { choice, end });
                    return Ok(());
                }
                Some(_) => {
                    let end = TextEnd::Own;
                    sink.send(TextEvent::ChoiceFinished { choice, end });
                    return Ok(());
                }
            }
        }
    }
    let (drawn, total) = tap.rest();
    last_words(&model, &request, choice, max_len, drawn, total, &sink)
}

/// mistral.rs sends no chunk, and so no reason, where a text ends within a character (`sequence.rs`, `peek_delta`); and where
/// such a text has one token, it draws a second one. What was drawn, `total` tokens in all, says which end it was, and what of
/// the text is missing.
fn last_words(
    model: &Model,
    request: &TextRequest,
    choice: u32,
    max_len: usize,
    mut drawn: Vec<Drawn>,
    total: usize,
    sink: &TextSink,
) -> Result<(), Failure> {
    let over = total.saturating_sub(max_len);
    drawn.truncate(drawn.len().saturating_sub(over));
    let end = match drawn.last() {
        Some(last) if model.ends.contains(&last.token) => TextEnd::Own,
        Some(_) if total >= max_len => TextEnd::Length,
        _ => return Err(broken("mistral.rs ended an answer without a word".into())),
    };
    let bytes: Vec<u8> = (drawn.iter())
        .filter(|drawn| !model.ends.contains(&drawn.token))
        .flat_map(|drawn| spell(model, drawn.token).1)
        .collect();
    model.metrics.generated(drawn.len());
    sink.send(TextEvent::Delta {
        choice,
        tokens: drawn.len(),
        reasoning: String::new(),
        content: String::from_utf8_lossy(&bytes).into_owned(),
        calls: Vec::new(),
        logprobs: logprobs(model, request, drawn),
    });
    sink.send(TextEvent::ChoiceFinished { choice, end });
    Ok(())
}

fn normal(
    request: &TextRequest,
    max_len: usize,
    response: mpsc::Sender<Response>,
    draw: Arc<dyn CustomLogitsProcessor>,
) -> Request {
    let declared = tools(&request.tools);
    Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::Chat {
            messages: messages(request),
            enable_thinking: None,
            reasoning_effort: Some(effort(request.effort)),
        },
        sampling_params: argmax(max_len),
        response,
        // The number that a draw is known by comes back as one.
        return_logprobs: true,
        is_streaming: true,
        id: 0,
        constraint: constraint(request.grammar.as_ref()),
        suffix: None,
        tools: (!declared.is_empty()).then_some(declared),
        tool_choice: None,
        logits_processors: Some(vec![draw]),
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    }))
}

fn delta(
    model: &Model,
    request: &TextRequest,
    choice: u32,
    part: ChunkChoice,
    drawn: Vec<Drawn>,
) -> TextEvent {
    let calls: Vec<ToolCall> = (part.delta.tool_calls.unwrap_or_default().into_iter())
        .map(|call| ToolCall {
            name: call.function.name,
            arguments: call.function.arguments,
        })
        .collect();
    // With a parser of reasoning, mistral.rs sends the text of a call as content too.
    let content = (part.delta.content).filter(|_| calls.is_empty());
    let tokens = drawn.len();
    TextEvent::Delta {
        choice,
        tokens,
        reasoning: part.delta.reasoning_content.unwrap_or_default(),
        content: content.unwrap_or_default(),
        calls,
        logprobs: logprobs(model, request, drawn),
    }
}

/// What there is to say about tokens, but for ends, which are no text.
fn logprobs(model: &Model, request: &TextRequest, drawn: Vec<Drawn>) -> Vec<TokenLogprob> {
    match request.sampling.logprobs {
        None => Vec::new(),
        Some(_) => (drawn.into_iter())
            .filter(|drawn| !model.ends.contains(&drawn.token))
            .map(|drawn| describe(model, drawn))
            .collect(),
    }
}

fn describe(model: &Model, drawn: Drawn) -> TokenLogprob {
    let (token, bytes) = spell(model, drawn.token);
    TokenLogprob {
        token,
        logprob: finite(drawn.logprob),
        bytes,
        top_logprobs: (drawn.top.into_iter())
            .map(|(token, logprob)| {
                let (token, bytes) = spell(model, token);
                TopLogprob {
                    token,
                    logprob: finite(logprob),
                    bytes,
                }
            })
            .collect(),
    }
}

fn spell(model: &Model, token: u32) -> (String, Vec<u8>) {
    let bytes = (model.tokens.as_ref())
        .map(|tokens| tokens.tok_trie().decode_ext(&[token], true))
        .unwrap_or_default();
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}
