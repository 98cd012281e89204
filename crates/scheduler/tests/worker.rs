//! The worker thread: events, cancellation, the queue's bound, failures, the end, the numbers it publishes.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::{ContentExecutor, STOP, alone};
use gossamer_metrics::Metrics;
use gossamer_scheduler::*;

/// What a scripted step does.
enum Act {
    Draw,
    Panic,
    Fail(ExecuteError),
}

/// Draws 100, 101, ... for every sequence. With a script, announces each step and waits to be told what to do.
struct Scripted {
    script: Option<(Sender<BatchPlan>, Receiver<Act>)>,
}

impl Executor for Scripted {
    fn capacity(&self) -> Capacity {
        Capacity {
            block_size: 4,
            max_model_len: 64,
            num_blocks: 16,
            block_bytes: 10,
            groups: vec![KvGroup::default()],
        }
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        if let Some((steps, acts)) = &self.script {
            // After the test has dropped its ends, steps run freely.
            let _ = steps.send(plan.clone());
            match acts.recv().unwrap_or(Act::Draw) {
                Act::Draw => {}
                Act::Panic => panic!("scripted panic"),
                Act::Fail(error) => return Err(error),
            }
        }
        let draw = |spec: &SampleSpec| SampledToken {
            token: 100 + spec.output_len as u32,
            logprobs: None,
            constrained: None,
        };
        Ok(StepOutput {
            samples: plan.sample_specs().map(draw).collect(),
            scores: Vec::new(),
        })
    }
}

/// A scheduler under test, and the strings that move its executor.
struct Rig {
    handle: SchedulerHandle,
    worker: Worker,
    metrics: Metrics,
    steps: Receiver<BatchPlan>,
    acts: Sender<Act>,
}

impl Rig {
    fn new(config: SchedulerConfig) -> Self {
        let (announce, steps) = channel();
        let (acts, act) = channel();
        let script = Some((announce, act));
        let metrics = Metrics::new();
        let executor = Box::new(Scripted { script });
        let (handle, worker) = start(config, executor, metrics.scheduler.clone()).unwrap();
        Self {
            handle,
            worker,
            metrics,
            steps,
            acts,
        }
    }

    /// Waits until a step is being executed.
    fn step(&self) -> BatchPlan {
        self.steps.recv().expect("the worker lives")
    }

    fn act(&self, act: Act) {
        self.acts.send(act).expect("the worker lives");
    }

    /// From now on steps run freely.
    fn let_go(self) -> (SchedulerHandle, Worker, Metrics) {
        (self.handle, self.worker, self.metrics)
    }
}

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 8,
        max_num_seqs: 4,
        max_waiting: 8,
        enable_prefix_caching: true,
        speculation: Speculation::Auto,
        queue_timeout: None,
    }
}

fn free_running(config: SchedulerConfig) -> (SchedulerHandle, Worker, Metrics) {
    Rig::new(config).let_go()
}

fn request(prompt_len: usize, max_tokens: usize) -> NewRequest {
    NewRequest {
        prompt: (0..prompt_len as u32).collect(),
        n: 1,
        sampling: Arc::new(SamplingParams::greedy()),
        stop: StopConditions {
            stop_token_ids: Arc::new([]),
            max_tokens,
            min_tokens: 0,
        },
        cache_salt: 0,
        priority: 0,
        handover: None,
        prompt_logprobs: None,
        constraint: None,
        speculation: Speculation::Auto,
    }
}

fn token(index: u32, token: TokenId) -> TokenEvent {
    TokenEvent::Token {
        index,
        token,
        logprobs: None,
    }
}

async fn events(mut stream: TokenStream) -> Vec<TokenEvent> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    assert_eq!(stream.next().await, None, "the end stays the end");
    events
}

async fn last_event(stream: TokenStream) -> TokenEvent {
    events(stream).await.pop().expect("a terminal event")
}

fn engine_failed(message: &str) -> TokenEvent {
    TokenEvent::Failed(RequestError::Engine(message.into()))
}

#[tokio::test]
async fn a_request_yields_its_tokens_and_one_terminal_event() {
    let (handle, worker, metrics) = free_running(config());
    assert!(!handle.is_ready());
    let stream = handle.submit(request(10, 3)).unwrap();
    let expected = [
        token(0, 100),
        token(0, 101),
        token(0, 102),
        TokenEvent::SequenceFinished {
            index: 0,
            reason: FinishReason::Length,
        },
        TokenEvent::Finished(RequestSummary {
            prompt_len: 10,
            cached_len: 0,
            output_len: 3,
            preemptions: 0,
        }),
    ];
    assert_eq!(events(stream).await, expected);
    assert!(handle.is_ready());
    handle.drain();
    handle.drained().await;
    assert!(!handle.is_ready());
    let stats = Stats {
        blocks_cached: 3,
        blocks_free: 13,
        blocks_total: 16,
        ..Stats::default()
    };
    assert_eq!(handle.stats(), stats);
    handle.stop();
    worker.join().unwrap();
    let text = metrics.render();
    for line in [
        "gossamer_kv_blocks{state=\"cached\"} 3",
        "gossamer_kv_blocks{state=\"free\"} 13",
        "gossamer_kv_pool_bytes 160",
        "gossamer_scheduler_generation_tokens_total 3",
        "gossamer_scheduler_prefix_cache_queried_tokens_total 10",
        "gossamer_scheduler_prompt_tokens_total 10",
        "gossamer_scheduler_requests_waiting 0",
        "gossamer_scheduler_sequences_running 0",
        // Two chunks of prefill, two decodes.
        "gossamer_scheduler_step_duration_seconds_count 4",
        "gossamer_scheduler_step_tokens_sum 12",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn whoever_sees_the_end_of_a_request_sees_the_numbers_without_it() {
    let (handle, _worker, metrics) = free_running(config());
    for round in 0..50 {
        let mut two = request(9, 5);
        two.n = 2;
        let stream = handle.submit(two).unwrap();
        assert!(matches!(last_event(stream).await, TokenEvent::Finished(_)));
        let stats = handle.stats();
        assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
        let hits = format!("prefix_cache_hit_tokens_total {}", 8 * round);
        assert!(metrics.render().contains(&hits), "no {hits}");
    }
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_in_the_queue_in_prefill_and_in_decode() {
    let mut config = config();
    config.max_num_seqs = 1;
    let rig = Rig::new(config);
    let decoding = rig.handle.submit(request(1, 60)).unwrap();
    let queued = rig.handle.submit(request(20, 9)).unwrap();
    rig.step();
    let last = rig.handle.submit(request(20, 2)).unwrap();
    assert_eq!(rig.handle.stats().running, 1);
    assert_eq!(rig.handle.stats().waiting, 2);
    rig.act(Act::Draw);
    rig.step();
    // While its second token is being computed, and while the other waits.
    drop(decoding);
    drop(queued);
    rig.act(Act::Draw);
    // The seat is free at once.
    let plan = rig.step();
    assert_eq!((plan.slices.len(), plan.slices[0].query_len), (1, 8));
    // In its prefill.
    drop(last);
    rig.act(Act::Draw);
    rig.handle.drain();
    rig.handle.drained().await;
    let stats = rig.handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
    assert!(rig.steps.try_recv().is_err(), "no step for nobody");
}

#[tokio::test]
async fn ending_one_choice_leaves_the_others_running() {
    let rig = Rig::new(config());
    let mut two = request(4, 5);
    two.n = 2;
    let mut stream = rig.handle.submit(two).unwrap();
    rig.step();
    rig.act(Act::Draw);
    assert_eq!(stream.next().await, Some(token(0, 100)));
    assert_eq!(stream.next().await, Some(token(1, 100)));
    rig.step();
    stream.finish_sequence(0);
    rig.act(Act::Draw);
    // The token of the step in flight is not told any more.
    let finished = |index, reason| TokenEvent::SequenceFinished { index, reason };
    let caller = finished(0, FinishReason::Caller);
    assert_eq!(stream.next().await, Some(caller));
    assert_eq!(stream.next().await, Some(token(1, 101)));
    let (handle, ..) = rig.let_go();
    let rest = events(stream).await;
    assert_eq!(rest[..3], [102, 103, 104].map(|t| token(1, t)));
    assert_eq!(rest[3], finished(1, FinishReason::Length));
    assert!(matches!(rest[4], TokenEvent::Finished(s) if s.output_len == 6));
    handle.stop();
}

#[test]
fn the_queue_bound_is_exact_under_concurrent_submissions() {
    let mut config = config();
    (config.max_num_seqs, config.max_waiting) = (1, 5);
    let rig = Rig::new(config);
    let running = rig.handle.submit(request(1, 2)).unwrap();
    rig.step();
    // The worker is inside the step and hears nothing; the queue is decided without it.
    let accepted = std::thread::scope(|scope| {
        let submit = || {
            let attempts = (0..10).map(|_| rig.handle.submit(request(1, 1)));
            attempts.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(submit)).collect();
        let results = threads.into_iter().flat_map(|t| t.join().unwrap());
        let (accepted, refused): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
        assert_eq!(refused.len(), 35);
        let full = SubmitError::QueueFull { limit: 5 };
        assert!(refused.into_iter().all(|r| r.unwrap_err() == full));
        accepted
    });
    assert_eq!(accepted.len(), 5);
    let ids: BTreeSet<_> = accepted
        .iter()
        .flatten()
        .map(TokenStream::request_id)
        .collect();
    assert_eq!(ids.len(), 5);
    // A cancelled request gives its place back as soon as the worker hears of it.
    drop(accepted);
    rig.act(Act::Draw);
    rig.step();
    assert_eq!(rig.handle.stats().waiting, 0);
    drop(running);
}

#[test]
fn many_clients_on_a_tiny_pool_get_their_own_answers_and_leave_nothing_behind() {
    let mut config = config();
    config.max_waiting = 100;
    let capacity = Capacity {
        block_size: 2,
        max_model_len: 1000,
        num_blocks: 8,
        block_bytes: 1,
        groups: vec![KvGroup::default()],
    };
    let executor = Box::new(ContentExecutor::new(capacity));
    let (handle, worker) = start(config, executor, Metrics::new().scheduler).unwrap();
    let client = |client: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        for round in 0..20 {
            let mut request = request(1 + (client + round) % 7, 9);
            request.n = 1 + (round % 3) as u32;
            request.sampling = Arc::new(SamplingParams {
                seed: client as u64,
                ..SamplingParams::greedy()
            });
            request.stop.stop_token_ids = Arc::new([STOP]);
            let mut stream = handle.submit(request.clone()).unwrap();
            if (client + round).is_multiple_of(4) {
                // Some go away: at once, or after a few events.
                for _ in 0..round {
                    runtime.block_on(stream.next());
                }
                continue;
            }
            let mut outputs = vec![Vec::new(); request.n as usize];
            let events = runtime.block_on(events(stream));
            for event in &events {
                if let TokenEvent::Token { index, token, .. } = event {
                    outputs[*index as usize].push(*token);
                }
            }
            assert!(matches!(events.last(), Some(TokenEvent::Finished(_))));
            for (index, output) in (0..).zip(&outputs) {
                assert_eq!(*output, alone(&request, index).0);
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..8 {
            let client = &client;
            scope.spawn(move || client(number));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(handle.drained());
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
    handle.stop();
    worker.join().unwrap();
}

#[tokio::test]
async fn a_request_that_waits_too_long_fails_and_one_that_runs_does_not() {
    let mut config = config();
    config.max_num_seqs = 1;
    config.queue_timeout = Some(Duration::from_millis(300));
    let rig = Rig::new(config);
    let running = rig.handle.submit(request(1, 3)).unwrap();
    rig.step();
    let waiting = rig.handle.submit(request(1, 3)).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let _fresh = rig.handle.submit(request(1, 3)).unwrap();
    rig.act(Act::Draw);
    rig.step();
    let timeout = RequestError::QueueTimeout { limit_ms: 300 };
    assert_eq!(events(waiting).await, [TokenEvent::Failed(timeout)]);
    let (handle, ..) = rig.let_go();
    assert!(matches!(last_event(running).await, TokenEvent::Finished(_)));
    handle.stop();
}

#[tokio::test]
async fn draining_finishes_what_was_accepted_and_refuses_the_rest() {
    let rig = Rig::new(config());
    let stream = rig.handle.submit(request(4, 2)).unwrap();
    rig.step();
    rig.handle.drain();
    let refused = rig.handle.submit(request(4, 2)).unwrap_err();
    assert_eq!(refused, SubmitError::ShuttingDown);
    let pending = tokio::time::timeout(Duration::from_millis(10), rig.handle.drained()).await;
    assert!(pending.is_err(), "a request is still running");
    let (handle, worker, _) = rig.let_go();
    assert!(matches!(last_event(stream).await, TokenEvent::Finished(_)));
    handle.drained().await;
    handle.stop();
    worker.join().unwrap();
}

#[tokio::test]
async fn stopping_fails_what_is_left() {
    let mut config = config();
    config.max_num_seqs = 1;
    let rig = Rig::new(config);
    let running = rig.handle.submit(request(4, 9)).unwrap();
    let waiting = rig.handle.submit(request(4, 9)).unwrap();
    rig.step();
    rig.handle.stop();
    rig.act(Act::Draw);
    let (handle, worker, _) = rig.let_go();
    let down = TokenEvent::Failed(RequestError::ShuttingDown);
    assert_eq!(events(running).await, [token(0, 100), down.clone()]);
    assert_eq!(events(waiting).await, [down]);
    worker.join().unwrap();
    handle.drained().await;
    let refused = handle.submit(request(4, 2)).unwrap_err();
    assert_eq!(refused, SubmitError::ShuttingDown);
}

#[tokio::test]
async fn stopping_in_the_step_that_ends_the_last_request_ends_the_worker() {
    for max_tokens in [1, 9] {
        let rig = Rig::new(config());
        let stream = rig.handle.submit(request(4, max_tokens)).unwrap();
        rig.step();
        // Both reach the worker while it is in the step: nothing is left to run, and no further command will come.
        drop(stream);
        rig.handle.stop();
        let (_handle, worker, _) = rig.let_go();
        worker.join().unwrap();
    }
}

#[tokio::test]
async fn a_failed_step_fails_its_requests_and_the_next_one_runs() {
    let rig = Rig::new(config());
    let first = rig.handle.submit(request(4, 9)).unwrap();
    rig.step();
    rig.act(Act::Fail(ExecuteError::Step("out of luck".into())));
    assert_eq!(events(first).await, [engine_failed("out of luck")]);
    let (handle, ..) = rig.let_go();
    let second = handle.submit(request(4, 2)).unwrap();
    assert!(matches!(last_event(second).await, TokenEvent::Finished(_)));
    assert!(handle.is_ready());
    handle.stop();
}

#[tokio::test]
async fn a_panicking_executor_fails_the_step_and_readiness_returns_with_the_next_token() {
    let rig = Rig::new(config());
    let first = rig.handle.submit(request(4, 1)).unwrap();
    rig.step();
    rig.act(Act::Draw);
    last_event(first).await;
    assert!(rig.handle.is_ready());
    let second = rig.handle.submit(request(4, 9)).unwrap();
    rig.step();
    rig.act(Act::Panic);
    assert_eq!(
        events(second).await,
        [engine_failed("panic: scripted panic")]
    );
    assert!(!rig.handle.is_ready());
    let (handle, ..) = rig.let_go();
    let third = handle.submit(request(4, 2)).unwrap();
    assert!(matches!(last_event(third).await, TokenEvent::Finished(_)));
    assert!(handle.is_ready());
    handle.stop();
}

#[tokio::test]
async fn a_device_that_fails_is_not_ready_until_it_draws_again() {
    let rig = Rig::new(config());
    let first = rig.handle.submit(request(4, 1)).unwrap();
    rig.step();
    rig.act(Act::Draw);
    last_event(first).await;
    assert!(rig.handle.is_ready());
    let second = rig.handle.submit(request(4, 9)).unwrap();
    rig.step();
    rig.act(Act::Fail(ExecuteError::Device("out of memory".into())));
    assert_eq!(
        events(second).await,
        [engine_failed("the device failed: out of memory")]
    );
    assert!(!rig.handle.is_ready());
    let (handle, ..) = rig.let_go();
    let third = handle.submit(request(4, 2)).unwrap();
    assert!(matches!(last_event(third).await, TokenEvent::Finished(_)));
    assert!(handle.is_ready());
    handle.stop();
}

#[tokio::test]
async fn a_fatal_error_fails_everything_and_refuses_what_comes() {
    let mut config = config();
    config.max_num_seqs = 1;
    let rig = Rig::new(config);
    let running = rig.handle.submit(request(4, 9)).unwrap();
    let waiting = rig.handle.submit(request(4, 9)).unwrap();
    rig.step();
    let unheard = rig.handle.submit(request(4, 9)).unwrap();
    rig.act(Act::Fail(ExecuteError::Fatal("device lost".into())));
    assert_eq!(events(running).await, [engine_failed("device lost")]);
    assert_eq!(events(waiting).await, [engine_failed("device lost")]);
    assert_eq!(events(unheard).await, [engine_failed("device lost")]);
    assert!(!rig.handle.is_ready());
    let refused = rig.handle.submit(request(4, 2)).unwrap_err();
    assert_eq!(refused, SubmitError::ShuttingDown);
    rig.handle.drained().await;
    rig.handle.stop();
    rig.worker.join().unwrap();
}

#[test]
fn the_worker_ends_when_nobody_holds_a_handle_or_a_stream() {
    let (handle, worker, _) = free_running(config());
    let stream = handle.submit(request(4, 60)).unwrap();
    drop(handle);
    drop(stream);
    worker.join().unwrap();
}

#[test]
fn limits_of_zero_and_an_empty_pool_are_refused_at_start() {
    for field in ["max_num_batched_tokens", "max_num_seqs", "max_waiting"] {
        let mut config = config();
        match field {
            "max_num_batched_tokens" => config.max_num_batched_tokens = 0,
            "max_num_seqs" => config.max_num_seqs = 0,
            _ => config.max_waiting = 0,
        }
        let executor = Box::new(Scripted { script: None });
        let refused = start(config, executor, Metrics::new().scheduler).unwrap_err();
        assert_eq!(refused.to_string(), format!("{field} must be at least 1"));
    }

    struct Empty;
    impl Executor for Empty {
        fn capacity(&self) -> Capacity {
            Capacity {
                block_size: 4,
                max_model_len: 64,
                num_blocks: 0,
                block_bytes: 10,
                groups: vec![KvGroup::default()],
            }
        }
        fn execute(&mut self, _: &BatchPlan) -> Result<StepOutput, ExecuteError> {
            unreachable!("never started")
        }
    }
    let refused = start(config(), Box::new(Empty), Metrics::new().scheduler).unwrap_err();
    assert!(matches!(refused, StartError::NoCapacity { .. }));
}
