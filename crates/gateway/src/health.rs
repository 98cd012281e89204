//! Whether the engine still answers: one token at start, and again whenever the scheduler is not ready.
//!
//! Knows the scheduler's face only. A step that failed once may be followed by one that works, so only two things are
//! final: the scheduler accepts nothing more although nobody asked it to stop, and the end of its worker.

use std::sync::Arc;
use std::time::Duration;

use gossamer_scheduler::{
    NewRequest, RequestError, SamplingParams, SchedulerHandle, Speculation, StopConditions,
    SubmitError, TokenEvent, Worker,
};
use tokio::sync::oneshot;
use tracing::{info, warn};

/// How often the scheduler is looked at.
pub const WATCH: Duration = Duration::from_secs(1);

/// Why no token came.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The request was not accepted.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The request was accepted and failed.
    #[error(transparent)]
    Failed(#[from] RequestError),
}

/// Draws one token through everything below HTTP.
///
/// # Errors
/// There was none.
pub async fn probe(scheduler: &SchedulerHandle) -> Result<(), ProbeError> {
    let mut tokens = scheduler.submit(NewRequest {
        prompt: vec![0],
        n: 1,
        sampling: Arc::new(SamplingParams::greedy()),
        stop: StopConditions {
            stop_token_ids: Arc::new([]),
            max_tokens: 1,
            min_tokens: 0,
        },
        cache_salt: 0,
        priority: 0,
        handover: None,
        prompt_logprobs: None,
        constraint: None,
        speculation: Speculation::Off,
    })?;
    // Ends with `Finished` or `Failed`, and only then gives nothing more.
    while let Some(event) = tokens.next().await {
        if let TokenEvent::Failed(error) = event {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Resolves when the engine will never answer again, with what is known of the reason.
pub async fn unusable(scheduler: &SchedulerHandle) -> String {
    loop {
        tokio::time::sleep(WATCH).await;
        if scheduler.is_ready() {
            continue;
        }
        match probe(scheduler).await {
            Ok(()) => info!("the engine answers again"),
            Err(ProbeError::Refused(SubmitError::ShuttingDown)) => {
                return "it failed fatally, see the log above".to_owned();
            }
            Err(error) => warn!(%error, "the engine does not answer"),
        }
    }
}

/// Waits for the worker on a thread of its own; what it ended with arrives here.
pub fn end_of(worker: Worker) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let ended = worker.join();
        let message = ended.map_or_else(|error| error.to_string(), |()| "the worker ended".into());
        // An error means that nobody waits any more.
        let _ = sender.send(message);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use gossamer_metrics::Metrics;
    use gossamer_scheduler::{
        BatchPlan, Capacity, ExecuteError, Executor, KvGroup, SampledToken, SchedulerConfig,
        StepOutput,
    };

    use super::*;

    /// Answers each step with the next of these; `None` is a token, and so is everything after them.
    struct Scripted(std::vec::IntoIter<Option<ExecuteError>>);

    impl Executor for Scripted {
        fn capacity(&self) -> Capacity {
            Capacity {
                block_size: 8,
                max_model_len: 64,
                num_blocks: 8,
                block_bytes: 1,
                groups: vec![KvGroup::default()],
            }
        }

        fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
            if let Some(Some(error)) = self.0.next() {
                return Err(error);
            }
            let token = SampledToken {
                token: 1,
                logprobs: None,
                constrained: None,
            };
            let samples = plan.sample_specs().map(|_| token.clone()).collect();
            Ok(StepOutput {
                samples,
                scores: Vec::new(),
            })
        }
    }

    fn start(script: Vec<Option<ExecuteError>>) -> (SchedulerHandle, Worker) {
        let config = SchedulerConfig {
            max_num_batched_tokens: 8,
            max_num_seqs: 2,
            max_waiting: 2,
            enable_prefix_caching: true,
            speculation: Speculation::Auto,
            queue_timeout: None,
        };
        let executor = Box::new(Scripted(script.into_iter()));
        gossamer_scheduler::start(config, executor, Metrics::new().scheduler).unwrap()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let bounded = tokio::time::timeout(Duration::from_secs(30), future);
            bounded.await.expect("bounded in time")
        })
    }

    #[test]
    fn a_probe_draws_one_token_and_makes_the_scheduler_ready() {
        let (scheduler, worker) = start(vec![]);
        assert!(!scheduler.is_ready());
        block_on(probe(&scheduler)).unwrap();
        assert!(scheduler.is_ready());
        scheduler.stop();
        assert_eq!(block_on(end_of(worker)).unwrap(), "the worker ended");
        let refused = block_on(probe(&scheduler)).unwrap_err();
        assert!(matches!(
            refused,
            ProbeError::Refused(SubmitError::ShuttingDown)
        ));
    }

    #[test]
    fn one_failed_step_is_no_reason_to_stop_and_a_fatal_one_is() {
        let (scheduler, _worker) = start(vec![
            Some(ExecuteError::Step("once".into())),
            None,
            Some(ExecuteError::Fatal("broken".into())),
        ]);
        block_on(async {
            let failed = probe(&scheduler).await.unwrap_err();
            assert!(matches!(failed, ProbeError::Failed(_)), "{failed}");
            assert!(!scheduler.is_ready());

            // Not ready: `unusable` tries again by itself, and finds it answering.
            let watch = tokio::time::timeout(WATCH * 2, unusable(&scheduler)).await;
            assert!(watch.is_err() && scheduler.is_ready());

            assert!(probe(&scheduler).await.is_err());
            assert!(unusable(&scheduler).await.contains("fatally"));
        });
    }
}
