//! The scheduler's metrics: queue, running set, KV blocks, steps, tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge};

use crate::catalog::Catalog;
use crate::rate::RateWindow;
use crate::to_i64;

/// KV blocks by state; the sum is the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Held by at least one sequence.
    pub used: usize,
    /// Held by none, but reusable by a matching prefix.
    pub cached: usize,
    /// Held by none.
    pub free: usize,
}

/// Handle for the scheduler's worker. Cheap to clone.
#[derive(Clone)]
pub struct SchedulerMetrics {
    waiting: IntGauge,
    running: IntGauge,
    preemptions: IntCounter,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    rate_in: Gauge,
    rate_out: Gauge,
    rates: Arc<Rates>,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    queue_time: Histogram,
    step_duration: Histogram,
    step_tokens: Histogram,
    step_failures: IntCounter,
    constrained_draws: IntCounterVec,
    drafts: IntCounter,
    draft_tokens: IntCounter,
    accepted_tokens: IntCounter,
    blocks_used: IntGauge,
    blocks_cached: IntGauge,
    blocks_free: IntGauge,
    blocks_total: IntGauge,
    usage: Gauge,
    used_bytes: IntGauge,
    pool_bytes: IntGauge,
}

struct Rates {
    start: Instant,
    prompt: RateWindow,
    generation: RateWindow,
}

impl SchedulerMetrics {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        let direction = |name| catalog.tokens_per_second.with_label_values(&[name]);
        let state = |name| catalog.kv_blocks.with_label_values(&[name]);
        Self {
            waiting: catalog.requests_waiting.clone(),
            running: catalog.sequences_running.clone(),
            preemptions: catalog.preemptions.clone(),
            prompt_tokens: catalog.prompt_tokens.clone(),
            generation_tokens: catalog.generation_tokens.clone(),
            rate_in: direction("in"),
            rate_out: direction("out"),
            rates: Arc::new(Rates {
                start: Instant::now(),
                prompt: RateWindow::default(),
                generation: RateWindow::default(),
            }),
            prefix_queries: catalog.prefix_cache_queries.clone(),
            prefix_hits: catalog.prefix_cache_hits.clone(),
            queue_time: catalog.queue_time.clone(),
            step_duration: catalog.step_duration.clone(),
            step_tokens: catalog.step_tokens.clone(),
            step_failures: catalog.step_failures.clone(),
            constrained_draws: catalog.constrained_draws.clone(),
            drafts: catalog.spec_drafts.clone(),
            draft_tokens: catalog.spec_draft_tokens.clone(),
            accepted_tokens: catalog.spec_accepted_tokens.clone(),
            blocks_used: state("used"),
            blocks_cached: state("cached"),
            blocks_free: state("free"),
            blocks_total: catalog.kv_blocks_total.clone(),
            usage: catalog.kv_cache_usage.clone(),
            used_bytes: catalog.kv_used_bytes.clone(),
            pool_bytes: catalog.kv_pool_bytes.clone(),
        }
    }

    /// How many sequences wait and run now.
    pub fn set_queue(&self, waiting: usize, running: usize) {
        self.waiting.set(to_i64(waiting));
        self.running.set(to_i64(running));
    }

    /// The KV blocks by state, and the bytes of one block.
    pub fn set_blocks(&self, blocks: BlockCounts, block_bytes: usize) {
        let total = blocks.used + blocks.cached + blocks.free;
        self.blocks_used.set(to_i64(blocks.used));
        self.blocks_cached.set(to_i64(blocks.cached));
        self.blocks_free.set(to_i64(blocks.free));
        self.blocks_total.set(to_i64(total));
        self.usage.set(blocks.used as f64 / total.max(1) as f64);
        self.used_bytes.set(to_i64(blocks.used * block_bytes));
        self.pool_bytes.set(to_i64(total * block_bytes));
    }

    /// A request's prompt was started: its length, and how much of it the prefix cache served.
    pub fn prompt_started(&self, prompt_len: usize, cached_len: usize, waited: Duration) {
        self.prompt_tokens.inc_by(prompt_len as u64);
        self.rates
            .prompt
            .add(self.rates.start.elapsed().as_secs(), prompt_len as u64);
        self.prefix_queries.inc_by(prompt_len as u64);
        self.prefix_hits.inc_by(cached_len as u64);
        self.queue_time.observe(waited.as_secs_f64());
    }

    /// A step ended well: rows computed, tokens drawn, time taken.
    pub fn step(&self, num_tokens: usize, generated: usize, took: Duration) {
        self.step_duration.observe(took.as_secs_f64());
        self.step_tokens.observe(num_tokens as f64);
        self.generated(generated);
    }

    /// Tokens were drawn; [`SchedulerMetrics::step`] says so too.
    pub fn generated(&self, generated: usize) {
        self.generation_tokens.inc_by(generated as u64);
        self.rates
            .generation
            .add(self.rates.start.elapsed().as_secs(), generated as u64);
    }

    /// A token was drawn under a constraint.
    pub fn constrained(&self, part: &'static str, outcome: &'static str) {
        self.constrained_draws
            .with_label_values(&[part, outcome])
            .inc();
    }

    /// So many decodes came with drafts: so many tokens, of which so many were accepted.
    pub fn drafted(&self, drafts: u64, tokens: u64, accepted: u64) {
        self.drafts.inc_by(drafts);
        self.draft_tokens.inc_by(tokens);
        self.accepted_tokens.inc_by(accepted);
    }

    /// The engine failed a step.
    pub fn step_failed(&self) {
        self.step_failures.inc();
    }

    /// A sequence was preempted.
    pub fn preempted(&self) {
        self.preemptions.inc();
    }

    pub(crate) fn refresh(&self) {
        let now = self.rates.start.elapsed().as_secs();
        self.rate_in.set(self.rates.prompt.per_second(now));
        self.rate_out.set(self.rates.generation.per_second(now));
    }
}
