//! What a step costs besides the engine: `next_plan` and `commit` with many running sequences.
//!
//! `cargo bench -p gossamer-scheduler`. Prints medians, and the longest `next_plan`, which takes a prompt into the drafter;
//! nothing is asserted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gossamer_scheduler::*;

fn main() {
    for (num_seqs, prompt_len) in [(1, 2048), (1, 32768), (100, 256), (100, 2048), (100, 16384)] {
        for speculation in [Speculation::Off, Speculation::Auto] {
            let (plan, commit, longest) = measure(num_seqs, prompt_len, speculation);
            println!(
                "{num_seqs} sequences of {prompt_len} tokens, speculation {speculation:?}: plan {plan:?} \
                 (longest {longest:?}), commit {commit:?}"
            );
        }
    }
}

/// Median times of decode steps once all prompts are computed.
fn measure(
    num_seqs: usize,
    prompt_len: usize,
    speculation: Speculation,
) -> (Duration, Duration, Duration) {
    const STEPS: usize = 200;
    const BUDGET: usize = 8192;
    // The first sequences decode while the last prompts are still computed.
    let max_tokens = STEPS + 10 + 2 * num_seqs * prompt_len / BUDGET;
    let capacity = Capacity {
        block_size: 16,
        max_model_len: 131_072,
        num_blocks: num_seqs * ((prompt_len + max_tokens) / 16 + 2),
        block_bytes: 1,
        groups: vec![KvGroup::default()],
    };
    let config = SchedulerConfig {
        max_num_batched_tokens: BUDGET,
        max_num_seqs: num_seqs,
        max_waiting: num_seqs,
        enable_prefix_caching: true,
        speculation,
        queue_timeout: None,
    };
    let mut scheduler = Scheduler::new(&config, &capacity);
    for id in 0..num_seqs as u64 {
        let request = NewRequest {
            prompt: (0..prompt_len as u32)
                .map(|i| i ^ (id as u32) << 20)
                .collect(),
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
            speculation,
        };
        scheduler.submit(RequestId(id), request).expect("it fits");
    }
    let (mut plans, mut commits) = (Vec::new(), Vec::new());
    let mut longest = Duration::ZERO;
    while plans.len() < STEPS {
        let start = Instant::now();
        let plan = scheduler.next_plan().expect("sequences run");
        let planned = start.elapsed();
        longest = longest.max(planned);
        let draw = |_| SampledToken {
            // Not what a prompt says.
            token: u32::MAX - plans.len() as u32,
            logprobs: None,
            constrained: None,
        };
        let output = StepOutput {
            samples: plan.sample_specs().map(draw).collect(),
            scores: Vec::new(),
        };
        let start = Instant::now();
        scheduler.commit(output).expect("one token per spec");
        let committed = start.elapsed();
        scheduler.take_events();
        if plan.num_tokens() == num_seqs {
            plans.push(planned);
            commits.push(committed);
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    (median(&mut plans), median(&mut commits), longest)
}
