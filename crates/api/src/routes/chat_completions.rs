//! `POST /v1/chat/completions`.

use std::rc::Rc;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use gossamer_harmony::render;
use serde_json::Value;

use super::{prepare, read_body};
use crate::error::ApiError;
use crate::generation::{ChatAssembler, Generation, Job, Messages, TextJob, constraint};
use crate::kept::Keeper;
use crate::openapi::errors::GenerationErrors;
use crate::reply::chat::{ChatChunks, Shown, WholeChat};
use crate::reply::prompts::{Prompts, Wanted};
use crate::reply::{Head, ShownUsage, collect};
use crate::request_id::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::text_engine::Engine;
use crate::validate::chat::{self, ChatRequest};
use crate::validate::{StreamOptions, text_engine};
use crate::wire::chat::{ChatCompletion, ChatCompletionChunk};
use crate::wire::chat_request::ChatCompletionRequest;

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
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, as server-sent events.", content(
            (ChatCompletion = "application/json"),
            (ChatCompletionChunk = "text/event-stream"),
        )),
        GenerationErrors,
    ),
)]
pub(crate) async fn create(
    request: HttpRequest,
    payload: Payload,
    state: Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    const ID_PREFIX: &str = "chatcmpl-";
    let context = RequestContext::of(&request);
    let body = read_body(&request, payload, &state).await?;
    let keeper = state.keeper(context.principal());
    let prepared = prepare(&state, body, move |body, state| read(body, &keeper, state)).await?;
    if prepared.is_streamed() {
        return prepared.streamed(ID_PREFIX, &state, context).await;
    }
    let answer = prepared.whole(ID_PREFIX, &state, context).await?;
    Ok(HttpResponse::Ok().json(answer))
}

/// Reads a body up to what is left to run.
pub(crate) fn read(body: Value, keeper: &Keeper, state: &AppState) -> Result<Prepared, ApiError> {
    let request = chat::validate(body, &state.config)?.restore(keeper);
    Prepared::new(request, "messages", state)
}

/// What is left to run, for either kind of engine.
enum Work {
    Tokens {
        job: Box<Job>,
        tools_allowed: bool,
        call_prefix: &'static str,
        messages: Messages,
    },
    Text(Box<TextJob>),
}

/// A valid chat request, rendered and known to fit where the tokens are ours: all that is left is to run it. The one way to
/// the engine of every endpoint that takes a conversation, in whatever shape.
pub(crate) struct Prepared {
    work: Work,
    include_reasoning: bool,
    names_tier: bool,
    logprobs: bool,
    prompt_logprobs: Option<u8>,
    stream: Option<StreamOptions>,
}

impl Prepared {
    /// Renders a request. `prompt_param` is the field that an error about the prompt names.
    pub fn new(
        request: ChatRequest,
        prompt_param: &'static str,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let generate = &request.generate;
        Ok(Self {
            include_reasoning: request.include_reasoning,
            names_tier: request.names_tier,
            logprobs: generate.sampling.logprobs.is_some(),
            prompt_logprobs: generate.prompt_logprobs,
            stream: generate.stream,
            work: match &state.engine {
                Engine::Tokens(_) => tokens(request, prompt_param, state)?,
                Engine::Text(engine) => {
                    let job = text_engine::job(request, prompt_param, engine, state)?;
                    Work::Text(Box::new(job))
                }
            },
        })
    }

    /// Runs it to its end.
    pub async fn whole(
        self,
        id_prefix: &str,
        state: &AppState,
        context: Rc<RequestContext>,
    ) -> Result<ChatCompletion, ApiError> {
        let (shown, head) = (self.shown(state), self.head(id_prefix, state));
        let wanted = Wanted {
            prompt_logprobs: self.prompt_logprobs,
            ..Wanted::default()
        };
        let prompt = Prompts::new(self.prompts(), wanted);
        let generation = self.run(state, context).await?;
        let mut answer = WholeChat::new(generation.num_choices(), shown, prompt);
        let usage = collect(generation, &mut answer).await?;
        Ok(answer.finish(head, usage))
    }

    /// Runs it, chunk by chunk.
    pub async fn streamed(
        self,
        id_prefix: &str,
        state: &AppState,
        context: Rc<RequestContext>,
    ) -> Result<HttpResponse, ApiError> {
        let (shown, head) = (self.shown(state), self.head(id_prefix, state));
        let generation = self.run(state, context).await?;
        let chunks = ChatChunks::new(head, generation.num_choices(), shown);
        let metrics = state.metrics.api.clone();
        let heartbeat = state.config.heartbeat;
        Ok(sse::respond(generation, chunks, heartbeat, metrics))
    }

    fn shown(&self, state: &AppState) -> Shown {
        Shown {
            reasoning: self.include_reasoning,
            reasoning_content: state.config.reasoning_content,
            logprobs: self.logprobs,
            usage: ShownUsage::new(self.stream),
        }
    }

    fn head(&self, id_prefix: &str, state: &AppState) -> Head {
        let mut head = Head::new(id_prefix, &state.config);
        head.service_tier = self.names_tier.then_some("default");
        head
    }

    /// Lets the ids of calls begin with this.
    pub fn with_call_prefix(mut self, prefix: &'static str) -> Self {
        match &mut self.work {
            Work::Tokens { call_prefix, .. } => *call_prefix = prefix,
            Work::Text(job) => job.call_prefix = prefix,
        }
        self
    }

    /// Says what becomes of several messages of one kind; they are joined otherwise.
    pub fn with_messages(mut self, wanted: Messages) -> Self {
        match &mut self.work {
            Work::Tokens { messages, .. } => *messages = wanted,
            Work::Text(job) => job.messages = wanted,
        }
        self
    }

    /// Whether the client wants events as they come.
    pub fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }

    /// Tokens of the prompt, where they are ours; the engine of text tells only when it runs.
    pub fn prompt_len(&self) -> usize {
        self.prompts().iter().map(Vec::len).sum()
    }

    fn prompts(&self) -> &[Vec<u32>] {
        match &self.work {
            Work::Tokens { job, .. } => &job.prompts,
            Work::Text(_) => &[],
        }
    }

    /// Hands it to the engine.
    pub async fn run(
        self,
        state: &AppState,
        context: Rc<RequestContext>,
    ) -> Result<Generation, ApiError> {
        match self.work {
            Work::Text(job) => Generation::submit_text(*job, state, context).await,
            Work::Tokens {
                job,
                tools_allowed,
                call_prefix,
                messages,
            } => {
                let keeper = state.keeper(context.principal());
                Generation::submit(*job, state, context, |generate| {
                    let assembler =
                        ChatAssembler::new(&generate.stop_strings, tools_allowed, call_prefix);
                    Box::new(assembler.with_messages(messages).keeping(keeper.clone()))
                })
            }
        }
    }
}

/// Renders the prompt and compiles what its answer is held to.
fn tokens(
    request: ChatRequest,
    prompt_param: &'static str,
    state: &AppState,
) -> Result<Work, ApiError> {
    let tools_allowed = !request.conversation.tools.is_empty();
    let rules = constraint::rules(request.outputs, state)?;
    let prompt = render(&request.conversation);
    let mut job = Job::new(vec![prompt], request.generate, prompt_param, state)?;
    job.rules = rules;
    job.check_prompt_logprobs("prompt_logprobs")?;
    Ok(Work::Tokens {
        job: Box::new(job),
        tools_allowed,
        call_prefix: "call_",
        messages: Messages::Joined,
    })
}
