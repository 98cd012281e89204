//! The loop on its own OS thread: commands, plan, execute, commit, events; the clock and the metrics.
//!
//! With `handle.rs` the only file that knows threads, time and metrics. Decides nothing about sequences.
//! Invariant: it never blocks but on an empty command channel while the core is empty, and on the executor.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gossamer_metrics::{BlockCounts, SchedulerMetrics};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info, warn};

use crate::admission::Limits;
use crate::batch_plan::BatchPlan;
use crate::config::{SchedulerConfig, Speculation};
use crate::executor::{Capacity, ExecuteError, Executor, StepOutput};
use crate::handle::{Command, Place, SchedulerHandle, Shared, Submission};
use crate::request::{RequestError, RequestId, TokenEvent};
use crate::scheduler::Scheduler;
use crate::speculation::DraftCounts;

/// Why the scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration makes no sense.
    #[error("{field} must be at least 1")]
    Config {
        /// The field of [`SchedulerConfig`].
        field: &'static str,
    },
    /// The engine has no room for a single sequence of two tokens.
    #[error("the engine holds no sequence: {capacity:?}")]
    NoCapacity {
        /// What the engine said.
        capacity: Capacity,
    },
    /// The operating system gave no thread.
    #[error("cannot start the scheduler's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The worker thread ended by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler's worker panicked: {0}")]
pub struct WorkerPanicked(String);

/// The running worker thread.
#[derive(Debug)]
pub struct Worker {
    thread: JoinHandle<()>,
}

impl Worker {
    /// Waits until the worker has ended: after [`SchedulerHandle::stop`], or when all handles and streams are gone.
    ///
    /// # Errors
    /// The worker broke one of its own invariants and panicked.
    pub fn join(self) -> Result<(), WorkerPanicked> {
        let panicked = |payload: Box<dyn Any + Send>| WorkerPanicked(panic_message(&*payload));
        self.thread.join().map_err(panicked)
    }
}

/// Starts the worker thread over an executor.
///
/// # Errors
/// A limit of the configuration is 0, the engine holds nothing, or there is no thread.
pub fn start(
    mut config: SchedulerConfig,
    executor: Box<dyn Executor>,
    metrics: SchedulerMetrics,
) -> Result<(SchedulerHandle, Worker), StartError> {
    let capacity = executor.capacity();
    let at_least_1 = [
        ("max_num_batched_tokens", config.max_num_batched_tokens),
        ("max_num_seqs", config.max_num_seqs),
        ("max_waiting", config.max_waiting),
    ];
    if let Some(&(field, _)) = at_least_1.iter().find(|(_, value)| *value == 0) {
        return Err(StartError::Config { field });
    }
    let limits = Limits::new(&config, &capacity);
    if limits.max_sequence_len < 2 {
        return Err(StartError::NoCapacity { capacity });
    }
    if !executor.verifies_drafts() {
        config.speculation = Speculation::Off;
    }
    let core = Scheduler::new(&config, &capacity);
    let block_bytes = capacity.block_bytes;
    let shared = Arc::new(Shared::new(limits, capacity));
    let (sender, commands) = channel();
    let worker = Loop {
        core,
        executor,
        metrics,
        block_bytes,
        shared: Arc::clone(&shared),
        commands,
        clients: HashMap::new(),
        deadlines: VecDeque::new(),
        queue_timeout: config.queue_timeout,
        preemptions: 0,
        drafts: DraftCounts::default(),
        stopping: false,
        unusable: None,
    };
    let thread = std::thread::Builder::new()
        .name("scheduler".into())
        .spawn(move || worker.run())?;
    let commands = sender;
    Ok((SchedulerHandle { shared, commands }, Worker { thread }))
}

/// What the worker knows of a request that the core has.
struct Client {
    /// `None` once nobody listens.
    events: Option<UnboundedSender<TokenEvent>>,
    submitted_at: Instant,
    place: Place,
}

struct Loop {
    core: Scheduler,
    executor: Box<dyn Executor>,
    metrics: SchedulerMetrics,
    block_bytes: usize,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    clients: HashMap<RequestId, Client>,
    /// Requests in order of submission; those started or ended meanwhile are dropped when they come to the front.
    deadlines: VecDeque<(Instant, RequestId)>,
    queue_timeout: Option<Duration>,
    /// Preemptions published so far.
    preemptions: u64,
    /// Drafts published so far.
    drafts: DraftCounts,
    stopping: bool,
    /// Why nothing can run any more.
    unusable: Option<RequestError>,
}

impl Loop {
    fn run(mut self) {
        while self.hear() {
            self.expire();
            let plan = self.core.next_plan();
            self.publish();
            match plan {
                Some(plan) => {
                    self.step(&plan);
                    // The next step would keep every core: those who send this one's tokens go first.
                    std::thread::yield_now();
                }
                None if self.core.num_requests() > 0 => self.give_up("no step can be planned"),
                None => {}
            }
        }
        info!("scheduler stopped");
    }

    /// Takes in what was sent; waits for it when there is nothing else to do. `false` when it is time to end.
    fn hear(&mut self) -> bool {
        // Stopping: the order came during a step, together with the end of the last request, and nothing comes after it.
        if self.core.num_requests() == 0 && !self.stopping {
            self.publish();
            debug_assert_eq!(crate::invariants::check(&self.core), Ok(()));
            match self.commands.recv() {
                Ok(command) => self.obey(command),
                // No handle and no stream is left.
                Err(_) => return false,
            }
        }
        self.hear_pending();
        if self.stopping {
            self.core.fail_all(&RequestError::ShuttingDown);
            self.publish();
            // A submission that comes later finds the channel closed, or its stream does.
            return false;
        }
        if let Some(error) = &self.unusable {
            // What was submitted before the handles knew.
            self.core.fail_all(error);
        }
        true
    }

    fn hear_pending(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.submit(submission),
            Command::Cancel(id) => {
                debug!(request = id.0, "request cancelled");
                if let Some(client) = self.clients.get_mut(&id) {
                    client.events = None;
                }
                self.core.cancel(id);
            }
            Command::FinishSequence(id, index) => self.core.finish_sequence(id, index),
            Command::Stop => self.stopping = true,
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission {
            id,
            request,
            submitted_at,
            events,
            place,
        } = submission;
        // The handle has checked the request, and its place in the queue is counted there.
        if let Err(refused) = self.core.submit(id, request) {
            error!(request = id.0, %refused, "an accepted request was refused by the core");
            let _ = events.send(TokenEvent::Failed(RequestError::Engine(
                refused.to_string(),
            )));
            return;
        }
        if self.queue_timeout.is_some() {
            self.deadlines.push_back((submitted_at, id));
        }
        self.clients.insert(
            id,
            Client {
                events: Some(events),
                submitted_at,
                place,
            },
        );
    }

    /// Fails the requests that have waited too long for their first chunk.
    fn expire(&mut self) {
        let Some(limit) = self.queue_timeout else {
            return;
        };
        let now = Instant::now();
        while let Some(&(submitted_at, id)) = self.deadlines.front() {
            let waits = self.core.is_unstarted(id);
            let waited = now.saturating_duration_since(submitted_at);
            if waits && waited <= limit {
                break;
            }
            self.deadlines.pop_front();
            if waits {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                warn!(request = id.0, waited_ms, "request timed out in queue");
                let error = RequestError::QueueTimeout { limit_ms };
                self.core.fail_request(id, error);
            }
        }
    }

    fn step(&mut self, plan: &BatchPlan) {
        let started_at = Instant::now();
        let executor = &mut self.executor;
        // The executor's state is its own: whether it survives a panic is asked by the next step.
        let result = catch_unwind(AssertUnwindSafe(|| executor.execute(plan)));
        let took = started_at.elapsed();
        // Who was cancelled while the step ran is not told its tokens.
        self.hear_pending();
        match result {
            Ok(Ok(output)) => self.commit(plan, output, took),
            Ok(Err(ExecuteError::Step(message))) => self.fail_step(&message),
            Ok(Err(error @ ExecuteError::Device(_))) => {
                // Ready again by the next token drawn; whoever watches over readiness asks for one.
                self.shared.healthy.store(false, SeqCst);
                self.fail_step(&error.to_string());
            }
            Ok(Err(ExecuteError::Fatal(message))) => {
                self.fail_step(&message);
                self.give_up(&message);
            }
            Err(payload) => {
                self.shared.healthy.store(false, SeqCst);
                self.fail_step(&format!("panic: {}", panic_message(&*payload)));
            }
        }
        self.publish();
    }

    fn commit(&mut self, plan: &BatchPlan, output: StepOutput, took: Duration) {
        let drawn = output.samples.len();
        for (part, bearing) in output
            .samples
            .iter()
            .filter_map(|sample| sample.constrained)
        {
            self.metrics.constrained(part.as_str(), bearing.as_str());
        }
        match self.core.commit(output) {
            Ok(()) => {
                self.metrics.step(plan.num_tokens(), drawn, took);
                self.core.observe_step(plan.num_tokens(), took);
                if drawn > 0 {
                    self.shared.healthy.store(true, SeqCst);
                }
            }
            Err(mismatch) => {
                self.metrics.step_failed();
                error!(%mismatch, "step failed");
            }
        }
    }

    fn fail_step(&mut self, message: &str) {
        self.metrics.step_failed();
        error!(message, "step failed");
        self.core.fail_step(message);
    }

    /// The engine (or this scheduler) is unusable: fail everything, accept nothing more. The process decides what next.
    fn give_up(&mut self, message: &str) {
        error!(message, "giving up");
        self.shared.healthy.store(false, SeqCst);
        self.shared.closed.store(true, SeqCst);
        let error = RequestError::Engine(message.to_owned());
        self.core.fail_all(&error);
        self.unusable = Some(error);
        self.publish();
    }

    /// Shows the core's numbers to handles and metrics, then its events to the clients: who sees a terminal event
    /// also sees the numbers without that request.
    fn publish(&mut self) {
        for started in self.core.take_started() {
            if let Some(client) = self.clients.get_mut(&started.request) {
                client.place.leave_queue();
                let waited = client.submitted_at.elapsed();
                let (prompt_len, cached_len) = (started.prompt_len, started.cached_len);
                self.metrics.prompt_started(prompt_len, cached_len, waited);
            }
        }
        let ended = self.core.take_ended();
        for id in &ended {
            if let Some(client) = self.clients.get_mut(id) {
                client.place.leave_queue();
            }
        }
        self.publish_numbers();
        for (id, event) in self.core.take_events() {
            let client = self.clients.get(&id);
            if let Some(events) = client.and_then(|client| client.events.as_ref()) {
                // An error is a dropped stream: its cancellation is on the way.
                let _ = events.send(event);
            }
        }
        // Last: whoever waits for all requests to end finds everything done.
        for id in ended {
            self.clients.remove(&id);
        }
    }

    fn publish_numbers(&mut self) {
        for _ in self.preemptions..self.core.num_preemptions() {
            self.metrics.preempted();
        }
        self.preemptions = self.core.num_preemptions();

        let drafts = self.core.draft_counts();
        self.metrics.drafted(
            drafts.decodes - self.drafts.decodes,
            drafts.drafted - self.drafts.drafted,
            drafts.accepted - self.drafts.accepted,
        );
        self.drafts = drafts;

        let stats = self.core.stats();
        let shared = &self.shared.stats;
        let preempted = stats.waiting - self.core.num_unstarted();
        shared.preempted.store(preempted, SeqCst);
        shared.running.store(stats.running, SeqCst);
        shared.blocks_used.store(stats.blocks_used, SeqCst);
        shared.blocks_cached.store(stats.blocks_cached, SeqCst);
        shared.blocks_free.store(stats.blocks_free, SeqCst);
        let waiting = self.shared.queued.load(SeqCst) + preempted;
        self.metrics.set_queue(waiting, stats.running);
        let blocks = BlockCounts {
            used: stats.blocks_used,
            cached: stats.blocks_cached,
            free: stats.blocks_free,
        };
        self.metrics.set_blocks(blocks, self.block_bytes);
    }
}

impl Drop for Loop {
    /// However the loop ended, nobody is to believe that it still runs.
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        self.shared.healthy.store(false, SeqCst);
        self.shared.stats.running.store(0, SeqCst);
        self.shared.stats.preempted.store(0, SeqCst);
        self.metrics.set_queue(0, 0);
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .to_owned()
}
