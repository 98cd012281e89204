//! mistral.rs as a `TextEngine`: start, submit, stop.
//!
//! mistral.rs runs on a thread of its own; what waits and listens for it runs on one more, so that no HTTP thread's end
//! takes a request with it. Invariant: after [`MistralEngine::stop`] every request ends at once.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use either::Either;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gossamer_api::text_engine::{
    RequestError, SamplingParams, SubmitError, TextEngine, TextEvent, TextMessage, TextRequest,
    TextStats, TextStream, TextSubmitError, text_stream,
};
use gossamer_metrics::SchedulerMetrics;
use mistralrs_core::{
    DefaultSchedulerMethod, MistralRsBuilder, Request, SchedulerConfig, TokenizationRequest,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tracing::warn;

use crate::load::{self, LoadError, MistralConfig};
use crate::queue::{Queue, Ticket};
use crate::request::{effort, messages, tools};
use crate::run::{Model, run};

/// Why a probe drew no token.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Others were before it, which says nothing about the engine.
    #[error("{0}")]
    Busy(String),
    /// The engine did not answer.
    #[error("{0}")]
    Failed(String),
}

impl From<TextSubmitError> for ProbeError {
    fn from(error: TextSubmitError) -> Self {
        let message = error.to_string();
        match error {
            TextSubmitError::Refused(SubmitError::QueueFull { .. }) => Self::Busy(message),
            _ => Self::Failed(message),
        }
    }
}

impl From<RequestError> for ProbeError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::QueueTimeout { .. } => Self::Busy(message),
            _ => Self::Failed(message),
        }
    }
}

/// See the file's header.
pub struct MistralEngine {
    model: Arc<Model>,
    queue: Queue,
    architecture: String,
    backend: &'static str,
    max_sequence_len: usize,
    max_num_seqs: usize,
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
}

impl MistralEngine {
    /// Loads the model and starts mistral.rs. Takes as long as to read the weights.
    ///
    /// # Errors
    /// There is no such model, it cannot be loaded, or it is GPT-OSS.
    pub fn start(config: &MistralConfig, metrics: SchedulerMetrics) -> Result<Self, LoadError> {
        let architecture = load::inspect(&config.path)?;
        let failed = |message: String| LoadError::Loader {
            path: config.path.clone(),
            message,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("mistralrs-io")
            .enable_time()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let device = load::device().map_err(|error| failed(error.to_string()))?;
        let pipeline = load::pipeline(&config.path, &device)?;
        let (limit, ends, tokens) = {
            let pipeline = pipeline.try_lock();
            let pipeline = pipeline.map_err(|error| failed(error.to_string()))?;
            let metadata = pipeline.get_metadata();
            let ends: Arc<[u32]> = metadata.eos_tok.as_slice().into();
            (metadata.max_seq_len, ends, metadata.tok_env())
        };
        if ends.is_empty() {
            warn!("the model names no end-of-sequence token, so cancelled requests end late");
        }
        let max_num_seqs = at_a_time(&device, config.max_num_seqs);
        let scheduler = SchedulerConfig::DefaultScheduler {
            method: DefaultSchedulerMethod::Fixed(max_num_seqs),
        };
        // No throughput log, and no prefix cache: what was asked before must not change how a prompt is computed.
        let builder =
            MistralRsBuilder::new(pipeline, scheduler, false, None).with_no_prefix_cache(true);
        // Not from inside a runtime of many threads: then it would draw a token of its own first (`lib.rs`, "dummy run"),
        // and print about it. Whoever starts this probes it.
        let current = Builder::new_current_thread()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let mistral = current.block_on(builder.build());
        Ok(Self {
            model: Arc::new(Model {
                mistral,
                ends,
                tokens,
                metrics: metrics.clone(),
                healthy: AtomicBool::new(false),
            }),
            queue: Queue::new(
                max_num_seqs.get(),
                config.max_waiting,
                config.queue_timeout,
                metrics,
            ),
            architecture,
            backend: if device.is_metal() {
                "metal"
            } else if device.is_cuda() {
                "cuda"
            } else {
                "cpu"
            },
            max_sequence_len: config.max_model_len.map_or(limit, |len| len.min(limit)),
            max_num_seqs: max_num_seqs.get(),
            runtime: Some(runtime),
        })
    }

    /// The checkpoint's architecture, as it names it.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What computes: `cpu`, `metal`, `cuda`.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Most choices that run at the same time: on the CPU one, whatever was asked for.
    pub fn max_num_seqs(&self) -> usize {
        self.max_num_seqs
    }

    /// Draws one token through everything below HTTP.
    ///
    /// # Errors
    /// There was none, and why.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let request = TextRequest {
            messages: vec![TextMessage::User {
                name: None,
                text: "Hello".into(),
            }],
            tools: Vec::new(),
            effort: Default::default(),
            grammar: None,
            sampling: SamplingParams::greedy(),
            n: 1,
            max_tokens: Some(1),
            default_max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
        };
        let mut stream = self.submit(request).await?;
        let mut drawn = 0;
        while let Some(event) = stream.next().await {
            match event {
                TextEvent::Delta { tokens, .. } => drawn += tokens,
                TextEvent::Failed(error) => return Err(error.into()),
                TextEvent::ChoiceFinished { .. } | TextEvent::Finished => {}
            }
        }
        if drawn == 0 {
            return Err(ProbeError::Failed("it answered without a token".into()));
        }
        Ok(())
    }

    /// Accepts nothing more. What runs and waits goes on.
    pub fn drain(&self) {
        self.queue.close();
    }

    /// Resolves when nothing runs or waits. Call [`MistralEngine::drain`] first, or it may not stay so.
    pub async fn drained(&self) {
        self.queue.drained().await;
    }

    /// Accepts nothing more and fails what is left.
    pub fn stop(&self) {
        self.queue.stop();
    }

    /// Whether [`MistralEngine::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.queue.is_closed()
    }
}

/// How many choices may run. mistral.rs 0.8.1 computes a batch wrong on the CPU: its attention for decode steps keeps the
/// partial sums of all sequences in one place (`attention/backends/cpu.rs`, `flash_attn_cpu_single_q`: `scratch` has no
/// index for the sequence), so each text would depend on its neighbours. One alone is right.
fn at_a_time(device: &Device, asked: usize) -> NonZeroUsize {
    match NonZeroUsize::new(asked) {
        Some(asked) if !device.is_cpu() => asked,
        _ => NonZeroUsize::MIN,
    }
}

impl Drop for MistralEngine {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: this may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}

impl TextEngine for MistralEngine {
    fn name(&self) -> &'static str {
        "mistralrs"
    }

    fn max_sequence_len(&self) -> usize {
        self.max_sequence_len
    }

    fn submit(
        &self,
        request: TextRequest,
    ) -> BoxFuture<'static, Result<TextStream, TextSubmitError>> {
        let ticket = match self.queue.enter() {
            Ok(ticket) => ticket,
            Err(error) => return async { Err(error.into()) }.boxed(),
        };
        let Some(runtime) = &self.runtime else {
            return async { Err(SubmitError::ShuttingDown.into()) }.boxed();
        };
        let accepted = Accept {
            model: Arc::clone(&self.model),
            queue: self.queue.clone(),
            limit: self.max_sequence_len,
            runtime: runtime.handle().clone(),
        };
        accepted.accept(request, ticket).boxed()
    }

    fn stats(&self) -> TextStats {
        self.queue.stats()
    }

    fn is_ready(&self) -> bool {
        self.model.healthy.load(Ordering::SeqCst) && !self.queue.is_closed()
    }
}

/// What is needed of the engine to accept a request.
struct Accept {
    model: Arc<Model>,
    queue: Queue,
    limit: usize,
    runtime: tokio::runtime::Handle,
}

impl Accept {
    async fn accept(
        self,
        request: TextRequest,
        ticket: Ticket,
    ) -> Result<TextStream, TextSubmitError> {
        let prompt_len = self.prompt_len(&request).await?;
        let room = self.limit.saturating_sub(prompt_len);
        if room == 0 {
            let limit = self.limit;
            return Err(SubmitError::NeverFits { prompt_len, limit }.into());
        }
        let max_len = match request.max_tokens {
            Some(asked) if asked > room => {
                return Err(SubmitError::OutputNeverFits {
                    prompt_len,
                    max_tokens: asked,
                    limit: self.limit,
                }
                .into());
            }
            Some(asked) => asked,
            None => (request.default_max_tokens).map_or(room, |most| most.min(room)),
        };
        let (sink, stream) = text_stream(request.n, prompt_len);
        let Self { model, queue, .. } = self;
        self.runtime.spawn(async move {
            let work = run(model, request, prompt_len, max_len, sink.clone(), ticket);
            tokio::select! {
                () = work => {}
                () = queue.stopped() => sink.send(TextEvent::Failed(RequestError::ShuttingDown)),
            }
        });
        Ok(stream)
    }

    /// Lets mistral.rs render and tokenize a conversation, as it does again when it runs.
    async fn prompt_len(&self, request: &TextRequest) -> Result<usize, TextSubmitError> {
        let gone = || TextSubmitError::Engine("mistral.rs has stopped".into());
        let declared = tools(&request.tools);
        let (sender, mut tokenized) = mpsc::channel(1);
        let wish = Request::Tokenize(TokenizationRequest {
            text: Either::Left(messages(request)),
            tools: (!declared.is_empty()).then_some(declared),
            add_generation_prompt: true,
            add_special_tokens: true,
            enable_thinking: None,
            reasoning_effort: Some(effort(request.effort)),
            response: sender,
        });
        let mistral = (self.model.mistral.get_sender(None))
            .map_err(|error| TextSubmitError::Engine(error.to_string()))?;
        // On a task: mistral.rs panics where nobody takes the answer (`engine/add_request.rs`, `tokenize_text`), and a
        // client may go away before it is there.
        let answer = self.runtime.spawn(async move {
            mistral.send(wish).await.ok()?;
            tokenized.recv().await
        });
        match answer.await.ok().flatten().ok_or_else(gone)? {
            Ok(tokens) => Ok(tokens.len()),
            Err(error) => Err(TextSubmitError::Template(format!("{error:#}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_before_a_probe_is_no_failure_of_the_engine() {
        let busy = [
            ProbeError::from(TextSubmitError::from(SubmitError::QueueFull { limit: 2 })),
            ProbeError::from(RequestError::QueueTimeout { limit_ms: 20 }),
        ];
        for error in busy {
            assert!(matches!(error, ProbeError::Busy(_)), "{error}");
        }
        let failed = [
            ProbeError::from(TextSubmitError::from(SubmitError::ShuttingDown)),
            ProbeError::from(TextSubmitError::Engine("gone".into())),
            ProbeError::from(RequestError::Engine("gone".into())),
        ];
        for error in failed {
            assert!(matches!(error, ProbeError::Failed(_)), "{error}");
        }
    }
}
