//! The engine under the real scheduler, to the end of all requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gossamer_engine::EngineExecutor;
use gossamer_scheduler::{
    DraftCounts, Executor, FinishReason, NewRequest, RequestId, SamplingParams, Scheduler,
    SchedulerConfig, SeqSlice, Speculation, StopConditions, TokenEvent, TokenLogprobs, invariants,
};

/// What one choice of a request got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<Option<Box<TokenLogprobs>>>,
    pub end: Option<FinishReason>,
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By request and choice.
    pub answers: BTreeMap<(u64, u32), Answer>,
    pub cached_len: usize,
    pub preemptions: u64,
    /// Most sequences that ran at a time.
    pub most_running: usize,
    /// Slices that came with fewer blocks than their context has.
    pub windowed: usize,
    pub drafts: DraftCounts,
    pub steps: usize,
}

impl Outcome {
    pub fn texts(&self) -> BTreeMap<(u64, u32), Vec<u32>> {
        let text = |(&id, answer): (&_, &Answer)| (id, answer.tokens.clone());
        self.answers.iter().map(text).collect()
    }
}

/// A greedy request that ends by its length.
pub fn greedy(prompt: &[u32], max_tokens: usize) -> NewRequest {
    NewRequest {
        prompt: prompt.to_vec(),
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

/// Runs requests in waves: the next one is submitted when the one before has ended.
pub fn run(
    engine: &mut EngineExecutor,
    waves: &[Vec<NewRequest>],
    reuse: bool,
    speculation: Speculation,
) -> Outcome {
    let config = SchedulerConfig {
        max_num_batched_tokens: 48,
        max_num_seqs: 16,
        max_waiting: 100,
        enable_prefix_caching: reuse,
        speculation,
        queue_timeout: None,
    };
    let mut scheduler = Scheduler::new(&config, &engine.capacity());
    let mut outcome = Outcome::default();
    let mut id = 0;
    for wave in waves {
        for request in wave {
            scheduler.submit(RequestId(id), request.clone()).unwrap();
            id += 1;
        }
        while let Some(plan) = scheduler.next_plan() {
            let behind = |slice: &&SeqSlice| {
                let mut blocks = slice.block_tables.iter().flatten();
                blocks.any(|block| !block.is_block())
            };
            outcome.windowed += plan.slices.iter().filter(behind).count();
            outcome.most_running = outcome.most_running.max(scheduler.stats().running);
            outcome.steps += 1;
            scheduler.commit(engine.execute(&plan).unwrap()).unwrap();
            // Rows that cost nearly nothing: many are drafted.
            let took = Duration::from_micros(1000 + plan.num_tokens() as u64);
            scheduler.observe_step(plan.num_tokens(), took);
            invariants::check(&scheduler).unwrap();
            for (id, event) in scheduler.take_events() {
                outcome.hear(id, event);
            }
        }
    }
    outcome.preemptions = scheduler.num_preemptions();
    outcome.drafts = scheduler.draft_counts();
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used), (0, 0, 0));
    outcome
}

impl Outcome {
    fn hear(&mut self, id: RequestId, event: TokenEvent) {
        let answers = &mut self.answers;
        match event {
            TokenEvent::Token {
                index,
                token,
                logprobs,
            } => {
                let answer = answers.entry((id.0, index)).or_default();
                answer.tokens.push(token);
                answer.logprobs.push(logprobs);
            }
            TokenEvent::SequenceFinished { index, reason } => {
                answers.entry((id.0, index)).or_default().end = Some(reason);
            }
            TokenEvent::Finished(summary) => self.cached_len += summary.cached_len,
            TokenEvent::Failed(error) => panic!("{error}"),
            TokenEvent::Prompt(_) => {}
        }
    }
}
