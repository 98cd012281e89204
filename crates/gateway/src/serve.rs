//! The order in which things start and stop.
//!
//! Start: logs, port, credentials, stored responses, model, scheduler, one token, banner, HTTP. Stop: refuse new work, let running work finish or
//! time out, close connections, end the worker.
//! Invariant: whatever was started is stopped before the function returns, and success means a stop that was asked for.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::progress::Progress;
use gossamer_api::auth::{Auth, AuthError};
use gossamer_api::{
    ApiConfig, AppState, PromptDate, ResponseStore, ServerConfig, ServerInfo, StoreError,
};
use gossamer_engine::{
    Engine, EngineConfig, EngineInfo, KvCacheSize, LoadError, LoadProgress, ModelSource,
};
use gossamer_metrics::Metrics;
use gossamer_scheduler::SchedulerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::banner::{self, banner};
use crate::config::{Config, EngineKind, Model, ModelPath};
use crate::hub::{Hub, HubError, HubModel};
use crate::running::Running;
use crate::{logging, memory};

/// How long the first token may take.
const WARM_UP: Duration = Duration::from_secs(600);
/// How long answers may take to reach their clients once the last token is drawn.
const FLUSH: Duration = Duration::from_secs(2);

/// Why the server did not start, or did not stop as asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("cannot listen on {host}:{port}: {source}")]
    Bind {
        host: String,
        port: u16,
        source: std::io::Error,
    },
    /// Others could reach the server, and nobody would be asked for a credential.
    #[error(
        "{0} is not a loopback address, so others could use the model, and nobody would be asked for a key. \
         Make one with `gossamer keys create --key-file keys.json --name NAME` and start with `--key-file keys.json`; \
         or listen on 127.0.0.1; or, if whoever reaches the port may use it, start with `--insecure`"
    )]
    Unguarded(SocketAddr),
    /// A file of credentials cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The file of responses cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model cannot be had from the hub.
    #[error("cannot get the model: {0}; nor is there such a folder here")]
    Hub(#[from] HubError),
    /// The model cannot be loaded.
    #[error("cannot load the model {model}: {source}")]
    Load { model: String, source: LoadError },
    /// The engine is not in this build.
    #[cfg(not(feature = "mistralrs"))]
    #[error(
        "this build has no engine \"mistralrs\"; make one with \
         `cargo build --release -p gossamer-gateway --features mistralrs`"
    )]
    NotBuilt,
    /// mistral.rs does not run this model.
    #[cfg(feature = "mistralrs")]
    #[error("cannot load the model: {0}")]
    Mistralrs(#[from] gossamer_mistralrs::LoadError),
    /// The scheduler cannot start over this engine.
    #[error("cannot start the scheduler: {0}")]
    Scheduler(#[from] gossamer_scheduler::StartError),
    /// The loaded model does not answer.
    #[error("the model is loaded but produced no token: {0}")]
    WarmUp(String),
    /// The HTTP server or its runtime failed.
    #[error("the server failed: {0}")]
    Io(#[from] std::io::Error),
    /// The engine or the scheduler's worker is gone.
    #[error("stopped, because the engine is unusable: {0}")]
    Engine(String),
    /// A second signal came before the first was done.
    #[error("stopped at once, on a second signal")]
    Interrupted,
}

impl ServeError {
    /// Whether it is a mistake in what was asked for, and not in what came of it.
    pub fn is_usage(&self) -> bool {
        match self {
            #[cfg(not(feature = "mistralrs"))]
            Self::NotBuilt => true,
            _ => matches!(self, Self::Unguarded(_) | Self::Auth(_)),
        }
    }
}

/// Serves until a signal or a fatal error.
///
/// # Errors
/// Every [`ServeError`].
pub fn serve(config: &Config) -> Result<(), ServeError> {
    logging::init(&config.log);
    // First, so that a taken port is known before minutes are spent on loading. Who connects already waits in the
    // listener's backlog.
    let listener = bind(config)?;
    let address = listener.local_addr()?;
    check_guarded(config, address)?;
    let auth = Auth::new(&config.auth.config)?;

    let metrics = Metrics::new();
    metrics.engine.build(env!("CARGO_PKG_VERSION"));
    let store = match &config.responses {
        None => ResponseStore::off(),
        Some(store) => ResponseStore::open(store, metrics.api.clone())?,
    };
    let Started {
        running,
        info,
        facts,
    } = match config.engine.kind {
        EngineKind::Local => local(config, &metrics)?,
        EngineKind::Mistralrs => mistralrs(config, &metrics)?,
    };
    let weight_bytes = usize::try_from(info.weight_bytes).unwrap_or(usize::MAX);
    metrics
        .engine
        .loaded(&info.model, &info.backend, &info.kernels, weight_bytes);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // From here on, so that a signal during the warm-up is not lost.
        let signals = Signals::new()?;
        // One token through everything below HTTP, so that whoever reaches the server finds it ready.
        match tokio::time::timeout(WARM_UP, running.probe()).await {
            Ok(answered) => answered.map_err(ServeError::WarmUp)?,
            Err(_) => {
                return Err(ServeError::WarmUp(format!(
                    "not within {} s",
                    WARM_UP.as_secs()
                )));
            }
        }
        let state = AppState::new(
            running.engine(),
            metrics,
            api_config(config),
            info,
            auth,
            store,
        );
        let text = banner(config, &facts, address);
        // A closed standard output is no reason not to serve.
        let _ = std::io::stdout().write_all(text.as_bytes());
        info!(%address, model = config.model.name, "serving");

        run(config, listener, state, running, signals).await
    })
}

fn bind(config: &Config) -> Result<TcpListener, ServeError> {
    let (host, port) = (config.server.host.as_str(), config.server.port);
    TcpListener::bind((host, port)).map_err(|source| ServeError::Bind {
        host: host.to_owned(),
        port,
        source,
    })
}

/// Without credentials, only this machine may reach the server, unless somebody says that they mean it.
fn check_guarded(config: &Config, address: SocketAddr) -> Result<(), ServeError> {
    if address.ip().to_canonical().is_loopback() || config.auth.is_on() {
        return Ok(());
    }
    if !config.auth.insecure {
        return Err(ServeError::Unguarded(address));
    }
    warn!(%address, "nobody is asked for a credential, and others can reach this address");
    Ok(())
}

/// An engine that is up, and what there is to say about it.
struct Started {
    running: Running,
    info: ServerInfo,
    facts: banner::Facts,
}

/// Our own engine under our scheduler.
fn local(config: &Config, metrics: &Metrics) -> Result<Started, ServeError> {
    let executor = load(config)?;
    let engine = executor.info().clone();
    let (scheduler, worker) = gossamer_scheduler::start(
        SchedulerConfig {
            max_num_batched_tokens: config.scheduler.max_num_batched_tokens,
            max_num_seqs: config.scheduler.max_num_seqs,
            max_waiting: config.scheduler.max_waiting,
            enable_prefix_caching: config.scheduler.enable_prefix_caching,
            speculation: config.scheduler.speculation,
            queue_timeout: config.scheduler.queue_timeout,
        },
        Box::new(executor),
        metrics.scheduler.clone(),
    )?;
    let longest = scheduler.max_sequence_len();
    Ok(Started {
        facts: banner::local(config, &engine, scheduler.capacity(), longest),
        info: server_info(config, &engine),
        running: Running::local(scheduler, worker),
    })
}

#[cfg(not(feature = "mistralrs"))]
fn mistralrs(_: &Config, _: &Metrics) -> Result<Started, ServeError> {
    Err(ServeError::NotBuilt)
}

/// mistral.rs, with its own scheduler.
#[cfg(feature = "mistralrs")]
fn mistralrs(config: &Config, metrics: &Metrics) -> Result<Started, ServeError> {
    use gossamer_mistralrs::{MistralConfig, MistralEngine};

    let ModelPath::Folder(path) = &config.model.source else {
        unreachable!("the configuration was checked");
    };
    let engine = MistralEngine::start(
        &MistralConfig {
            path: path.clone(),
            max_model_len: config.engine.max_model_len,
            max_num_seqs: config.scheduler.max_num_seqs,
            max_waiting: config.scheduler.max_waiting,
            queue_timeout: config.scheduler.queue_timeout,
        },
        metrics.scheduler.clone(),
    )?;
    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: config.model.name.clone(),
        architecture: engine.architecture().to_owned(),
        backend: engine.backend().to_owned(),
        kernels: "mistral.rs".to_owned(),
        weight_bytes: memory::weight_bytes(path),
        kv_cache_bytes: 0,
    };
    Ok(Started {
        facts: banner::mistralrs(config, &info, &engine),
        info,
        running: Running::Mistralrs(std::sync::Arc::new(engine)),
    })
}

fn load(config: &Config) -> Result<gossamer_engine::EngineExecutor, ServeError> {
    let folder = match &config.model.source {
        ModelPath::Embedded => None,
        ModelPath::Folder(folder) => Some(folder.clone()),
        ModelPath::Hub(model) => Some(hub_folder(model)?),
    };
    let (source, weight_bytes) = match &folder {
        None => (ModelSource::Tiny, 0),
        Some(folder) => (
            ModelSource::Folder(folder.clone()),
            memory::weight_bytes(folder),
        ),
    };
    let kv_cache_bytes = config.engine.kv_cache_bytes;
    let engine = EngineConfig {
        device: config.engine.device,
        threads: config.engine.threads.unwrap_or(0),
        block_size: config.engine.block_size,
        kv_cache: match kv_cache_bytes {
            Some(bytes) => KvCacheSize::Bytes(bytes),
            None => KvCacheSize::Auto {
                cpu_bytes: memory::kv_cache_bytes(weight_bytes),
                device_percent: config.engine.kv_cache_percent,
            },
        },
        kv_cache_dtype: config.engine.kv_cache_dtype,
        window_groups: config.engine.window_groups,
        max_model_len: config.engine.max_model_len,
        kernels: config.engine.kernels.clone(),
        weights: config.engine.weights,
        repack_cache: config.engine.repack_cache.clone(),
    };
    let mut progress = Progress::new("loading");
    let mut show = |at: LoadProgress| progress.show(at.bytes, at.total_bytes);
    Engine::load_with_progress(&source, &engine, &mut show).map_err(|source| ServeError::Load {
        model: match &folder {
            None => config.model.name.clone(),
            Some(folder) => folder.display().to_string(),
        },
        source,
    })
}

/// Where a hub's model lies. One that is complete is not asked for again: a server starts without a network.
fn hub_folder(model: &HubModel) -> Result<PathBuf, HubError> {
    let hub = Hub::new(|name| std::env::var(name).ok());
    match hub.cached(model) {
        Some(folder) => Ok(folder),
        None => hub.pull(model, &mut Progress::new("downloading")),
    }
}

fn api_config(config: &Config) -> ApiConfig {
    let Model { name, aliases, .. } = &config.model;
    ApiConfig {
        model: name.clone(),
        model_aliases: aliases.clone(),
        body_limit: config.server.max_body_bytes,
        body_memory: config.server.max_body_memory_bytes,
        body_timeout: config.server.body_timeout,
        max_choices: config.api.max_n,
        default_max_tokens: config.api.default_max_tokens,
        kept: config.api.kept,
        reasoning_content: config.api.reasoning_content,
        // Other models than GPT-OSS write none.
        constrain_headers: config.api.constrain_headers && config.engine.kind == EngineKind::Local,
        heartbeat: config.api.heartbeat,
        retry_after: config.api.retry_after,
        system_fingerprint: Some(format!("gossamer-{}", env!("CARGO_PKG_VERSION"))),
        date: match &config.api.date {
            None => PromptDate::Today,
            Some(date) => PromptDate::Fixed(date.clone()),
        },
        cors_origins: config.server.cors_origins.clone(),
    }
}

fn server_config(config: &Config) -> ServerConfig {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConfig {
        workers: config.server.workers.unwrap_or((cores / 2).clamp(1, 4)),
        max_connections: config.server.max_connections,
        keep_alive: config.server.keep_alive,
        request_timeout: config.server.request_timeout,
        write_timeout: config.server.write_timeout,
        disconnect_timeout: FLUSH,
        // The scheduler has ended every answer by then.
        shutdown_timeout: FLUSH,
    }
}

fn server_info(config: &Config, engine: &EngineInfo) -> ServerInfo {
    ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: config.model.name.clone(),
        architecture: engine.architecture.to_owned(),
        backend: engine.backend.to_owned(),
        kernels: engine.kernels.to_owned(),
        weight_bytes: engine.weight_bytes,
        kv_cache_bytes: engine.kv_cache_bytes,
    }
}

/// Serves, waits for the first reason to stop, and stops.
async fn run(
    config: &Config,
    listener: TcpListener,
    state: AppState,
    mut running: Running,
    mut signals: Signals,
) -> Result<(), ServeError> {
    let server = gossamer_api::serve(listener, &server_config(config), state.clone())?;
    let http = server.handle();
    let mut server = tokio::spawn(server);

    let reason = tokio::select! {
        name = signals.next() => Reason::Signal(name),
        why = running.unusable() => Reason::Failed(ServeError::Engine(why)),
        ended = &mut server => Reason::Failed(ServeError::Io(match ended {
            Ok(Err(error)) => error,
            _ => std::io::Error::other("it ended by itself"),
        })),
    };

    running.drain();
    let result = match reason {
        Reason::Signal(name) => {
            let timeout = config.server.shutdown_timeout;
            let stats = running.stats();
            info!(
                signal = name,
                running = stats.running,
                waiting = stats.waiting,
                "stopping"
            );
            tokio::select! {
                _ = signals.next() => Err(ServeError::Interrupted),
                finished = tokio::time::timeout(timeout, running.drained()) => {
                    if finished.is_err() {
                        warn!(timeout_ms = timeout.as_millis() as u64, "not everything finished in time");
                    }
                    Ok(())
                }
            }
        }
        Reason::Failed(error) => Err(error),
    };
    // What is left fails now, so that its clients hear of it before the connection closes.
    running.stop();
    if !matches!(result, Err(ServeError::Interrupted)) {
        // Responses in the background are kept by tasks of the HTTP threads.
        let _ = tokio::time::timeout(FLUSH, state.settled()).await;
        http.stop(true).await;
        // The step being executed may still be running.
        let _ = tokio::time::timeout(FLUSH, running.ended()).await;
    }
    match &result {
        Ok(()) => info!("stopped"),
        Err(error) => error!(%error, "stopped"),
    }
    result
}

enum Reason {
    Signal(&'static str),
    Failed(ServeError),
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
