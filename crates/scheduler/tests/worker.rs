//! The worker thread over small executors: events, cancellation, failures, the end.

use std::sync::Arc;
use std::time::Duration;

use gossamer_metrics::Metrics;
use gossamer_scheduler::*;

/// Draws 100, 101, ... for every sequence.
struct Counting;

impl Executor for Counting {
    fn capacity(&self) -> Capacity {
        Capacity {
            block_size: 4,
            max_model_len: 64,
            groups: vec![GroupCapacity {
                num_blocks: 16,
                block_bytes: 1,
            }],
        }
    }

    fn execute(&mut self, plan: &BatchPlan) -> Result<StepOutput, ExecuteError> {
        let draw = |spec: &SampleSpec| SampledToken {
            token: 100 + spec.output_len as u32,
            logprobs: None,
        };
        Ok(StepOutput {
            samples: plan.sample_specs().map(draw).collect(),
        })
    }
}

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 8,
        max_num_seqs: 4,
        max_waiting: 8,
        enable_prefix_caching: true,
        queue_timeout: Some(Duration::from_secs(60)),
    }
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
    }
}

#[tokio::test]
async fn a_request_yields_its_tokens_and_one_terminal_event() {
    let (handle, worker) = start(config(), Box::new(Counting), Metrics::new().scheduler).unwrap();
    assert!(!handle.is_ready());
    let mut stream = handle.submit(request(10, 3)).unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    let token = |token| TokenEvent::Token {
        index: 0,
        token,
        logprobs: None,
    };
    let expected = [
        token(100),
        token(101),
        token(102),
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
    assert_eq!(events, expected);
    assert!(handle.is_ready());
    handle.stop();
    worker.join().unwrap();
}
