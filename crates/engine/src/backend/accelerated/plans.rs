//! Random steps for tests: sequences anywhere in their prompts, blocks anywhere in the pool.
//!
//! Knows what the scheduler promises of a plan, and keeps it: a group with a window has no blocks behind it.

use std::sync::Arc;

use gossamer_scheduler::{
    BatchPlan, BlockCopy, BlockId, Capacity, KvGroup, SampleSpec, SamplingParams, SeqId, SeqSlice,
};
use proptest::prelude::*;

/// A sequence: its tokens, and how many blocks it may hold of each group.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Prompt and what is to come.
    pub tokens: Vec<u32>,
    /// Tokens computed so far.
    pub computed: usize,
    /// A block per `block_size` tokens, by group.
    pub tables: Vec<Vec<BlockId>>,
}

/// Sequences and the pool that they live in.
#[derive(Clone, Debug)]
pub struct World {
    pub capacity: Capacity,
    pub sequences: Vec<Sequence>,
    /// Blocks that no sequence has.
    pub free: Vec<BlockId>,
}

/// Sequences of the given lengths, in a pool of `num_blocks` that are dealt out by `seed`; `window` for a second group.
///
/// # Panics
/// If the pool is too small.
pub fn world(
    lens: &[usize],
    pool: (usize, usize),
    window: Option<usize>,
    seed: u64,
    vocab: u32,
) -> World {
    let (num_blocks, block_size) = pool;
    let mut groups = vec![KvGroup { window: None }];
    groups.extend(window.map(|_| KvGroup { window }));
    let mut random = Random::new(seed);
    let mut free: Vec<u32> = (0..num_blocks as u32).collect();
    for index in (1..free.len()).rev() {
        free.swap(index, random.below(index + 1));
    }
    let mut sequences = Vec::new();
    for &len in lens {
        let mut deal = || {
            let rest = free.len().checked_sub(len.div_ceil(block_size));
            let dealt = free.split_off(rest.expect("a pool that is large enough"));
            dealt.into_iter().map(BlockId).collect()
        };
        sequences.push(Sequence {
            tables: groups.iter().map(|_| deal()).collect(),
            computed: 0,
            tokens: (0..len)
                .map(|_| random.below(vocab as usize) as u32)
                .collect(),
        });
    }
    World {
        capacity: Capacity {
            block_size,
            max_model_len: 1 << 20,
            num_blocks,
            block_bytes: 1,
            groups,
        },
        sequences,
        free: free.into_iter().map(BlockId).collect(),
    }
}

/// Numbers that look random: xorshift64.
pub struct Random(u64);

impl Random {
    /// A stream of its own for every seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(2);
        random
    }

    /// The next number, less than `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }
}

impl World {
    /// A step that computes `counts[i]` tokens of sequence `i`, as far as it has them, and samples greedily after each.
    pub fn plan(&self, counts: &[usize]) -> BatchPlan {
        let mut plan = BatchPlan::default();
        for (index, (sequence, count)) in self.sequences.iter().zip(counts).enumerate() {
            let query_len = (*count).min(sequence.tokens.len() - sequence.computed);
            if query_len == 0 {
                continue;
            }
            let context_len = sequence.computed + query_len;
            let tables = sequence.tables.iter().zip(&self.capacity.groups);
            let block_tables = tables.map(|(table, group)| {
                let first = group.first_block(sequence.computed, self.capacity.block_size);
                let mut table = table.clone();
                table[..first].fill(BlockId::BEHIND_WINDOW);
                table
            });
            plan.slices.push(SeqSlice {
                seq: SeqId(index as u64),
                query_start: plan.tokens.len(),
                query_len,
                context_len,
                num_drafts: 0,
                block_tables: block_tables.collect(),
                samples: vec![SampleSpec {
                    seq: SeqId(index as u64),
                    choice: 0,
                    output_len: context_len,
                    params: Arc::new(SamplingParams::greedy()),
                    banned: None,
                    history: None,
                    constraint: None,
                }],
                scores: None,
            });
            let range = sequence.computed..context_len;
            plan.tokens.extend_from_slice(&sequence.tokens[range]);
        }
        plan
    }

    /// Moves a block of sequence `index` that its next token sees elsewhere, as copy on write does; `None` where there is
    /// none.
    pub fn move_block(&mut self, index: usize, random: &mut Random) -> Option<BlockCopy> {
        let sequence = &mut self.sequences[index];
        let group = random.below(sequence.tables.len());
        let block_size = self.capacity.block_size;
        let first = self.capacity.groups[group].first_block(sequence.computed, block_size);
        let written = sequence.computed.div_ceil(block_size);
        if first >= written {
            return None;
        }
        let place = first + random.below(written - first);
        let src = sequence.tables[group][place];
        let dst = self.free.pop()?;
        sequence.tables[group][place] = dst;
        Some(BlockCopy { src, dst })
    }

    /// The plan was run.
    pub fn advance(&mut self, counts: &[usize]) {
        for (sequence, count) in self.sequences.iter_mut().zip(counts) {
            let left = sequence.tokens.len() - sequence.computed;
            sequence.computed += (*count).min(left);
        }
    }
}

/// For each of up to `most` sequences, tokens computed before a step, and tokens in it: decodes and chunks in any order.
pub fn steps(most: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    let count = prop_oneof![3 => Just(1usize), 2 => 2usize..40, 1 => Just(0usize)];
    prop::collection::vec((0usize..90, count), 1..=most)
}
