//! The least that can stand in for a scheduler: rows with block tables, put into plans by hand.

use std::sync::Arc;

use gossamer_engine::EngineExecutor;
use gossamer_scheduler::{
    BatchPlan, BlockId, Executor, SampleSpec, SamplingParams, SeqId, SeqSlice,
};

pub const BLOCK_SIZE: usize = 16;

/// One sequence.
#[derive(Clone)]
pub struct Row {
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub blocks: Vec<BlockId>,
    pub params: Arc<SamplingParams>,
}

impl Row {
    /// A greedy sequence whose blocks are `blocks`, enough for all it will hold.
    pub fn new(tokens: &[u32], blocks: impl IntoIterator<Item = u32>) -> Self {
        Self {
            tokens: tokens.to_vec(),
            computed: 0,
            blocks: blocks.into_iter().map(BlockId).collect(),
            params: Arc::new(SamplingParams::greedy()),
        }
    }

    pub fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// A plan that computes the next `query_len` tokens of each row; a row that catches up with its tokens samples.
pub fn plan(rows: &[(&Row, usize)]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for (index, (row, query_len)) in rows.iter().enumerate() {
        let context_len = row.computed + query_len;
        let samples = match context_len == row.tokens.len() {
            true => vec![SampleSpec {
                seq: SeqId(index as u64),
                choice: 0,
                output_len: row.tokens.len(),
                params: Arc::clone(&row.params),
                banned: None,
                history: None,
                constraint: None,
            }],
            false => Vec::new(),
        };
        plan.slices.push(SeqSlice {
            seq: SeqId(index as u64),
            query_start: plan.tokens.len(),
            query_len: *query_len,
            context_len,
            num_drafts: 0,
            block_tables: vec![row.blocks.clone()],
            samples,
            scores: None,
        });
        plan.tokens
            .extend_from_slice(&row.tokens[row.computed..context_len]);
    }
    plan
}

/// Runs a step over rows of `(row, query_len)`: appends the drawn tokens, and returns the raw logits of each row that
/// sampled, by index.
pub fn step(engine: &mut EngineExecutor, rows: &mut [(&mut Row, usize)]) -> Vec<(usize, Vec<f32>)> {
    let shared: Vec<(&Row, usize)> = rows.iter().map(|(row, len)| (&**row, *len)).collect();
    let plan = plan(&shared);
    // Computing the logits first writes the same keys and values to the same slots: running the plan again is harmless.
    let logits = engine.logits(&plan).unwrap();
    let output = engine.execute(&plan).unwrap();
    let vocab = engine.info().vocab_size;
    let mut logits = logits.chunks_exact(vocab);
    let mut samples = output.samples.into_iter();
    let mut sampled = Vec::new();
    for (index, (row, query_len)) in rows.iter_mut().enumerate() {
        row.computed += *query_len;
        if row.computed == row.tokens.len() {
            let own = logits.next().unwrap();
            let token = samples.next().unwrap().token;
            assert_eq!(
                token as usize,
                largest(own),
                "greedy takes the largest logit"
            );
            row.tokens.push(token);
            sampled.push((index, own.to_vec()));
        }
    }
    assert!(logits.next().is_none() && samples.next().is_none());
    sampled
}

/// Prefills in one chunk and decodes `count` tokens, alone; the logits of every step.
pub fn generate(engine: &mut EngineExecutor, row: &mut Row, count: usize) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let left = row.left();
        all.extend(
            step(engine, &mut [(row, left)])
                .into_iter()
                .map(|(_, logits)| logits),
        );
    }
    all
}

pub fn largest(logits: &[f32]) -> usize {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).unwrap()
}

/// Tokens that look like nothing in particular.
pub fn prompt(seed: u64, len: usize, vocab: usize) -> Vec<u32> {
    let mut state = seed;
    let tokens = (0..len).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as u32
    });
    tokens.collect()
}
