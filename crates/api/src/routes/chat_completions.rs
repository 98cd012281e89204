//! `POST /v1/chat/completions`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use gossamer_harmony::render;
use serde_json::Value;

use super::{prepare, read_body};
use crate::error::ApiError;
use crate::generation::{ChatAssembler, Generation, Job};
use crate::reply::chat::{ChatChunks, Shown, WholeChat};
use crate::reply::prompts::{Prompts, Wanted};
use crate::reply::{Head, ShownUsage, collect};
use crate::request_id::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::validate::chat;
use crate::wire;

/// Answers a conversation.
///
/// With `stream`, the answer is `text/event-stream`: events `data: {ChatCompletionChunk}` and at last `data: [DONE]`. If the
/// request fails after the first byte, the last event is `data: {"error": ...}`, without `[DONE]`. Lines that begin with a
/// colon are comments that keep the connection alive.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    tag = "OpenAI",
    request_body = wire::chat::ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, as server-sent events.", content(
            (wire::chat::ChatCompletion = "application/json"),
            (wire::chat::ChatCompletionChunk = "text/event-stream"),
        )),
        (status = 400, description = "A field is wrong, unknown or not supported, or the prompt is too long.", body = wire::error::ErrorBody),
        (status = 404, description = "No such model.", body = wire::error::ErrorBody),
        (status = 408, description = "The body did not arrive in time.", body = wire::error::ErrorBody),
        (status = 413, description = "The body is too large.", body = wire::error::ErrorBody),
        (status = 415, description = "The body is not declared as JSON.", body = wire::error::ErrorBody),
        (status = 429, description = "The queue is full; `Retry-After` says when to come back.", body = wire::error::ErrorBody),
        (status = 500, description = "The engine failed.", body = wire::error::ErrorBody),
        (status = 503, description = "Shutting down, or queued for too long.", body = wire::error::ErrorBody),
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state).await?;
    let Chat {
        job,
        tools_allowed,
        include_reasoning,
        names_tier,
    } = prepare(&state, body, read).await?;

    let stream = job.generate.stream;
    let shown = Shown {
        reasoning: include_reasoning,
        reasoning_content: state.config.reasoning_content,
        logprobs: job.generate.sampling.logprobs.is_some(),
        usage: ShownUsage::new(stream),
    };
    let wanted = Wanted {
        prompt_logprobs: job.generate.prompt_logprobs,
        ..Wanted::default()
    };
    let prompt = Prompts::new(&job.prompts, wanted);
    let generation = Generation::submit(job, &state, context, |generate| {
        Box::new(ChatAssembler::new(&generate.stop_strings, tools_allowed))
    })?;
    let mut head = Head::new("chatcmpl-", &state.config);
    head.service_tier = names_tier.then_some("default");
    let num_choices = generation.num_choices();
    if stream.is_some() {
        let chunks = ChatChunks::new(head, num_choices, shown);
        let metrics = state.metrics.api.clone();
        return Ok(sse::respond(
            generation,
            chunks,
            state.config.heartbeat,
            metrics,
        ));
    }
    let mut answer = WholeChat::new(num_choices, shown, prompt);
    let usage = collect(generation, &mut answer).await?;
    Ok(HttpResponse::Ok().json(answer.finish(head, usage)))
}

/// A request, rendered.
struct Chat {
    job: Job,
    tools_allowed: bool,
    include_reasoning: bool,
    names_tier: bool,
}

fn read(body: Value, state: &AppState) -> Result<Chat, ApiError> {
    let request = chat::validate(body, &state.config)?;
    let tools_allowed = !request.conversation.tools.is_empty();
    let prompt = render(&request.conversation);
    let job = Job::new(vec![prompt], request.generate, "messages", state)?;
    job.check_prompt_logprobs("prompt_logprobs")?;
    Ok(Chat {
        job,
        tools_allowed,
        include_reasoning: request.include_reasoning,
        names_tier: request.names_tier,
    })
}
