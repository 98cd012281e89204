//! The real HTTP layer and the real scheduler over a scripted executor, on a port that the system chooses.
//!
//! Port 0, because tests run side by side. Everything stops when the value is dropped, in the order in which the gateway
//! stops: listener, scheduler, worker.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use gossamer_api::auth::{Auth, AuthConfig};
use gossamer_api::text_engine::{Engine, TextEngine};
use gossamer_api::{
    ApiConfig, AppState, KeptBounds, PromptDate, ResponseStore, ServerConfig, ServerInfo,
    StoreConfig,
};
use gossamer_metrics::Metrics;
use gossamer_scheduler::{
    Capacity, KvGroup, SchedulerConfig, SchedulerHandle, Speculation, Worker,
};

use crate::client::Client;
use crate::control::Control;
use crate::script::Script;
use crate::scripted_executor::ScriptedExecutor;

/// Everything that a test can choose. Start from [`TestSetup::new`] and change fields.
pub struct TestSetup {
    /// What the model says.
    pub script: Script,
    /// Tokens that the model says at a log-probability of -9 and not -0.25.
    pub unlikely: Vec<u32>,
    /// How the executor behaves.
    pub control: Control,
    /// Settings of the HTTP layer.
    pub api: ApiConfig,
    /// Who may use it: everybody, unless a test says otherwise.
    pub auth: AuthConfig,
    /// Settings of the connections.
    pub server: ServerConfig,
    /// Settings of the scheduler.
    pub scheduler: SchedulerConfig,
    /// What the executor can hold.
    pub capacity: Capacity,
    /// Where responses are kept; `None`: nowhere.
    pub responses: Option<StoreConfig>,
    /// Answers in place of the scheduler, which has nothing to do then.
    pub text_engine: Option<Arc<dyn TextEngine>>,
}

impl TestSetup {
    /// Room for 4096 tokens per sequence and a quiet server: model `test-model`, also known as `test-alias`.
    pub fn new(script: Script) -> Self {
        Self {
            script,
            unlikely: Vec::new(),
            control: Control::default(),
            api: ApiConfig {
                model: "test-model".into(),
                model_aliases: vec!["test-alias".into()],
                body_limit: 1 << 20,
                body_memory: 64 << 20,
                body_timeout: Duration::from_secs(10),
                max_choices: 8,
                default_max_tokens: None,
                kept: KeptBounds {
                    turns: 100,
                    bytes: 1 << 20,
                    time_to_live: Duration::from_secs(600),
                },
                reasoning_content: true,
                constrain_headers: true,
                heartbeat: None,
                retry_after: Duration::from_secs(2),
                system_fingerprint: Some("fp_test".into()),
                date: PromptDate::Fixed("2026-01-02".into()),
                cors_origins: Vec::new(),
            },
            auth: AuthConfig::open(),
            server: ServerConfig {
                workers: 1,
                max_connections: 1000,
                keep_alive: Duration::from_secs(5),
                request_timeout: Duration::from_secs(5),
                write_timeout: Duration::from_secs(5),
                disconnect_timeout: Duration::from_secs(1),
                shutdown_timeout: Duration::from_secs(1),
            },
            scheduler: SchedulerConfig {
                max_num_batched_tokens: 512,
                max_num_seqs: 16,
                max_waiting: 64,
                enable_prefix_caching: true,
                speculation: Speculation::Auto,
                queue_timeout: None,
            },
            capacity: Capacity {
                block_size: 16,
                max_model_len: 4096,
                num_blocks: 1024,
                block_bytes: 1024,
                groups: vec![KvGroup::default()],
            },
            responses: Some(StoreConfig {
                path: None,
                max_count: 1000,
                max_bytes: 64 << 20,
                max_age: Duration::from_secs(3600),
            }),
            text_engine: None,
        }
    }

    /// Starts the server.
    ///
    /// # Panics
    /// It does not start; there is nothing to test then.
    pub fn start(self) -> TestServer {
        TestServer::start(self)
    }

    /// Starts all that is below HTTP.
    ///
    /// # Panics
    /// It does not start; there is nothing to test then.
    pub fn below_http(&self) -> BelowHttp {
        let metrics = Metrics::new();
        let script = self.script.clone();
        let executor = ScriptedExecutor::new(self.capacity.clone(), script, self.control.clone())
            .with_unlikely(self.unlikely.clone());
        let (scheduler, worker) = gossamer_scheduler::start(
            self.scheduler.clone(),
            Box::new(executor),
            metrics.scheduler.clone(),
        )
        .expect("the scheduler starts");
        let info = ServerInfo {
            version: "0.0.0-test".into(),
            model: self.api.model.clone(),
            architecture: "Scripted".into(),
            backend: "script".into(),
            kernels: "none".into(),
            weight_bytes: 0,
            kv_cache_bytes: 0,
        };
        let auth = Auth::new(&self.auth).expect("the files of credentials are usable");
        let store = match &self.responses {
            None => ResponseStore::off(),
            Some(store) => {
                ResponseStore::open(store, metrics.api.clone()).expect("the store opens")
            }
        };
        let engine = match &self.text_engine {
            None => Engine::Tokens(scheduler.clone()),
            Some(engine) => Engine::Text(Arc::clone(engine)),
        };
        let state = AppState::new(engine, metrics.clone(), self.api.clone(), info, auth, store);
        BelowHttp {
            state,
            scheduler,
            metrics,
            worker,
        }
    }
}

/// What a server answers from.
pub struct BelowHttp {
    /// What its handlers share.
    pub state: AppState,
    /// The scheduler.
    pub scheduler: SchedulerHandle,
    /// The metrics.
    pub metrics: Metrics,
    /// The scheduler's thread; it must not end before the state.
    pub worker: Worker,
}

/// A running server.
pub struct TestServer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its scheduler.
    pub scheduler: SchedulerHandle,
    /// Its executor.
    pub control: Control,
    /// Its metrics.
    pub metrics: Metrics,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
    worker: Option<Worker>,
}

impl TestServer {
    fn start(setup: TestSetup) -> Self {
        let BelowHttp {
            state,
            scheduler,
            metrics,
            worker,
        } = setup.below_http();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server =
                    gossamer_api::serve(listener, &setup.server, state).expect("the server starts");
                sender.send(server.handle()).expect("the test waits for it");
                server.await.expect("the server runs until it is stopped");
            });
        });
        Self {
            addr,
            scheduler,
            control: setup.control,
            metrics,
            handle: receiver.recv().expect("the server's thread started"),
            thread: Some(thread),
            worker: Some(worker),
        }
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Waits until nothing runs or waits and no block is in use.
    ///
    /// # Panics
    /// That did not come about.
    pub fn wait_until_idle(&self) {
        self.wait_until("the scheduler is idle", |stats| {
            stats.running == 0 && stats.waiting == 0 && stats.blocks_used == 0
        });
    }

    /// Waits for a state of the scheduler.
    ///
    /// # Panics
    /// It did not come about.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&gossamer_scheduler::Stats) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let stats = self.scheduler.stats();
            if is_so(&stats) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited for: {what}; it is {stats:?}"
            );
            // The numbers are polled: they are atomics, and nobody is woken when they change.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The value of a metric without labels, or with labels as the exposition writes them.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        (text.lines())
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map_or(0.0, |value| value.parse().unwrap_or(f64::NAN))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.control.release();
        self.scheduler.stop();
        // The future only waits for the server, which needs nobody to poll it to begin to stop.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
