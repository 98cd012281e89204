//! A request from the queue to its end: one of mistral.rs's requests per choice, and their chunks as events.
//!
//! One per choice and not `n_choices`, because a group of choices there is sent on in step and ends as one.
//! Knows mistral.rs's answers. Invariants: one terminal event; whatever ends this early makes every draw of it an end, so
//! mistral.rs is done with it one step later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gossamer_api::text_engine::{
    RequestError, TextEnd, TextEvent, TextRequest, TextSink, ToolCall,
};
use gossamer_api::wire::chat::{TokenLogprob, TopLogprob};
use gossamer_metrics::SchedulerMetrics;
use mistralrs_core::llguidance::toktrie::TokEnv;
use mistralrs_core::{
    ChunkChoice, CustomLogitsProcessor, MistralRs, NormalRequest, Request, RequestMessage, Response,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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
}

/// Works on an accepted request until its end. `healthy` becomes what its end says of the engine.
pub(crate) async fn run(
    model: Arc<Model>,
    request: TextRequest,
    prompt_len: usize,
    max_len: usize,
    sink: TextSink,
    mut ticket: Ticket,
    healthy: Arc<AtomicBool>,
) {
    let request = Arc::new(request);
    // Dropping it aborts what it holds.
    let mut choices = JoinSet::new();
    let result = async {
        for choice in 0..request.n {
            let place = ticket.place(prompt_len).await?;
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
            ended.map_err(|error| RequestError::Engine(error.to_string()))??;
        }
        Ok(())
    };
    let ended = tokio::select! {
        result = result => Some(result),
        () = sink.cancelled() => None,
    };
    match ended {
        Some(Ok(())) => {
            healthy.store(true, Ordering::SeqCst);
            sink.send(TextEvent::Finished);
        }
        Some(Err(error)) => {
            if let RequestError::Engine(_) = error {
                healthy.store(false, Ordering::SeqCst);
                model.metrics.step_failed();
            }
            sink.send(TextEvent::Failed(error));
        }
        None => {}
    }
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
) -> Result<(), RequestError> {
    let failed = |detail: String| RequestError::Engine(detail);
    let tap = Arc::new(Tap::default());
    let _closing = Closing(Arc::clone(&tap));
    let listener = sink.clone();
    let draw = Draw {
        params: request.sampling.clone(),
        choice,
        ends: Arc::clone(&model.ends),
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos,
        tap: Arc::clone(&tap),
        wanted: Box::new(move || listener.wants(choice)),
        _held: Box::new(place),
        state: Mutex::default(),
    };
    // With room for everything that can come: mistral.rs waits, and all its sequences with it, where there is none.
    let (sender, mut chunks) = mpsc::channel(max_len + SPARE_CHUNKS);
    let wish = normal(&request, max_len, sender, Arc::new(draw));
    let mistral = (model.mistral.get_sender(None)).map_err(|error| failed(error.to_string()))?;
    (mistral.send(wish).await).map_err(|_| failed("mistral.rs has stopped".into()))?;
    while let Some(response) = chunks.recv().await {
        let chunk = match response {
            Response::Chunk(chunk) => chunk,
            Response::InternalError(error) | Response::ValidationError(error) => {
                return Err(failed(error.to_string()));
            }
            Response::ModelError(message, _) => return Err(failed(message)),
            _ => return Err(failed("an answer that is no chunk of text".into())),
        };
        for part in chunk.choices {
            let finish = part.finish_reason.clone();
            let drawn = tap.take(part.logprobs.as_ref().map_or(0.0, |own| own.logprob));
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
    Err(failed("mistral.rs ended an answer without a word".into()))
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
    let logprobs = match request.sampling.logprobs {
        None => Vec::new(),
        Some(_) => (drawn.into_iter())
            .filter(|drawn| !model.ends.contains(&drawn.token))
            .map(|drawn| describe(model, drawn))
            .collect(),
    };
    TextEvent::Delta {
        choice,
        tokens,
        reasoning: part.delta.reasoning_content.unwrap_or_default(),
        content: content.unwrap_or_default(),
        calls,
        logprobs,
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

/// JSON has no infinity; the local engine says the same.
fn finite(logprob: f32) -> f32 {
    logprob.clamp(-9999.0, 0.0)
}
