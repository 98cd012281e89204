//! `POST /v1/completions`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{prepare, read_body};
use crate::error::ApiError;
use crate::generation::{Generation, Job, RawAssembler};
use crate::openapi::errors::GenerationErrors;
use crate::reply::completions::{CompletionChunks, Shown, WholeCompletion};
use crate::reply::prompts::{Prompts, Wanted};
use crate::reply::{Head, ShownUsage, collect};
use crate::request_id::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::validate::completions;
use crate::wire;

/// Continues a text, or several, as they stand: no template, no reasoning, no tool calls.
///
/// With `stream`, the answer is `text/event-stream`: events `data: {Completion}` and at last `data: [DONE]`. If the request
/// fails after the first byte, the last event is `data: {"error": ...}`, without `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "createCompletion",
    tag = "OpenAI",
    request_body = wire::completions::CompletionRequest,
    responses(
        (status = 200, description = "The texts; with `stream`, as server-sent events.", content(
            (wire::completions::Completion = "application/json"),
            (wire::completions::Completion = "text/event-stream"),
        )),
        GenerationErrors,
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state).await?;
    let Texts {
        job,
        keep,
        logprobs,
        wanted,
    } = prepare(&state, body, read).await?;

    let (n, stream) = (job.generate.n as usize, job.generate.stream);
    let shown = Shown {
        logprobs,
        keep,
        usage: ShownUsage::new(stream),
    };
    let prompts = Prompts::new(&job.prompts, wanted);
    let generation = Generation::submit(job, &state, context, |generate| {
        Box::new(RawAssembler::new(&generate.stop_strings))
    })?;
    let head = Head::new("cmpl-", &state.config);
    if stream.is_some() {
        let chunks = CompletionChunks::new(head, n, shown, prompts);
        let metrics = state.metrics.api.clone();
        return Ok(sse::respond(
            generation,
            chunks,
            state.config.heartbeat,
            metrics,
        ));
    }
    let mut answer = WholeCompletion::new(n, shown, prompts);
    let usage = collect(generation, &mut answer).await?;
    Ok(HttpResponse::Ok().json(answer.finish(head, usage)))
}

/// A request, tokenized.
pub(crate) struct Texts {
    job: Job,
    keep: usize,
    logprobs: Option<u8>,
    wanted: Wanted,
}

impl Texts {
    /// Tokens of all prompts.
    pub fn prompt_len(&self) -> usize {
        self.job.prompts.iter().map(Vec::len).sum()
    }
}

/// Reads a body up to what is left to run.
pub(crate) fn read(body: Value, state: &AppState) -> Result<Texts, ApiError> {
    state.engine.tokens("prompt")?;
    let mut request = completions::validate(body, &state.config)?;
    let wanted = Wanted {
        echo: request.echo,
        echo_logprobs: request.logprobs.filter(|_| request.echo),
        prompt_logprobs: request.generate.prompt_logprobs,
    };
    let param = match wanted.prompt_logprobs {
        Some(_) => "prompt_logprobs",
        None => "logprobs",
    };
    request.generate.prompt_logprobs = wanted.alternatives();
    let job = Job::new(request.prompts, request.generate, "prompt", state)?;
    job.check_prompt_logprobs(param)?;
    Ok(Texts {
        job,
        keep: request.keep,
        logprobs: request.logprobs,
        wanted,
    })
}
