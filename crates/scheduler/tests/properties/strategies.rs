//! Random setups, requests and operations: small pools and few tokens, so that everything collides.

use std::sync::Arc;

use gossamer_scheduler::*;
use proptest::prelude::*;

use crate::common::{Rule, STOP};

#[derive(Clone, Debug)]
pub enum Op {
    Submit(NewRequest),
    /// The argument picks one of the requests submitted so far.
    Cancel(usize),
    FinishSequence(usize, u32),
    QueueTimeout(usize),
    /// A step; the operations come between plan and commit.
    Step(Vec<Op>),
    FailStep(Vec<Op>),
    /// The executor answers with one sample too many.
    WrongOutput,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub config: SchedulerConfig,
    pub capacity: Capacity,
    /// Microseconds of a step, and more for each row.
    pub took: [u64; 2],
}

fn setup() -> impl Strategy<Value = Setup> {
    let window = || (1_usize..=6).prop_map(Some);
    // The pool grows with the groups, so that sequences are about as long.
    let pools = prop_oneof![
        3 => (2_usize..=8).prop_map(|blocks| (blocks, vec![None])),
        5 => (3_usize..=20, window()).prop_map(|(blocks, a)| (blocks, vec![None, a])),
        2 => (4_usize..=26, window(), prop_oneof![window(), Just(None)])
            .prop_map(|(blocks, a, b)| (blocks, vec![None, a, b])),
    ];
    let max_model_len = prop_oneof![3 => Just(1000_usize), 1 => 3_usize..12];
    (
        pools,
        1_usize..=4,
        max_model_len,
        1_usize..=9,
        1_usize..=4,
        1_usize..=6,
        (
            prop::bool::weighted(0.7),
            prop::bool::weighted(0.8),
            // Where rows are dear, drafts are few.
            prop_oneof![4 => Just([1000, 1]), 1 => Just([10, 1000])],
        ),
    )
        .prop_map(
            |((num_blocks, windows), block_size, max_model_len, budget, seqs, waiting, rest)| {
                let (caching, speculates, took) = rest;
                Setup {
                    took,
                    config: SchedulerConfig {
                        max_num_batched_tokens: budget,
                        max_num_seqs: seqs,
                        max_waiting: waiting,
                        enable_prefix_caching: caching,
                        speculation: speculation(speculates),
                        queue_timeout: None,
                    },
                    capacity: Capacity {
                        block_size,
                        max_model_len,
                        num_blocks,
                        block_bytes: 1,
                        groups: (windows.into_iter())
                            .map(|window| KvGroup { window })
                            .collect(),
                    },
                }
            },
        )
        .prop_map(|mut setup| {
            // Room for a prompt and its answer.
            while limit(&setup) < 2 {
                setup.capacity.num_blocks += 1;
            }
            setup
        })
}

fn speculation(speculates: bool) -> Speculation {
    match speculates {
        true => Speculation::Auto,
        false => Speculation::Off,
    }
}

/// The longest sequence that the setup allows: found by trying, block by block.
pub fn limit(setup: &Setup) -> usize {
    let Capacity {
        block_size,
        max_model_len,
        num_blocks,
        ref groups,
        ..
    } = setup.capacity;
    let chunk = setup.config.max_num_batched_tokens;
    let held = |blocks: usize| {
        let of_group = |group: &KvGroup| match group.window {
            None => blocks,
            // Whole blocks that hold what the first query of a chunk sees before it, the chunk, and a rest.
            Some(window) => {
                let tokens = window - 1 + chunk.min(blocks * block_size);
                let touched = (0..block_size).map(|offset| (offset + tokens).div_ceil(block_size));
                blocks.min(touched.max().unwrap())
            }
        };
        groups.iter().map(of_group).sum::<usize>()
    };
    let fits = (0..)
        .take_while(|&blocks| held(blocks) <= num_blocks)
        .last()
        .unwrap();
    max_model_len.min(fits * block_size)
}

/// Mostly requests that fit, often exactly; now and then one that is refused.
fn request(limit: usize) -> impl Strategy<Value = NewRequest> {
    // Few different prompts, so that prefixes are shared.
    let tokens = prop_oneof![
        3 => Just(vec![0; limit + 2]),
        1 => prop::collection::vec(0_u32..2, limit + 2),
    ];
    let prompt_len = prop_oneof![20 => 1..limit, 1 => Just(0), 1 => limit..=limit + 2];
    let n = prop_oneof![12 => Just(1_u32), 6 => 2_u32..=3, 1 => Just(0)];
    let max_tokens = prop_oneof![20 => 1..=limit, 1 => Just(0), 1 => Just(limit + 1)];
    let min_tokens = prop_oneof![4 => Just(0), 2 => 1_usize..=4, 1 => Just(limit)];
    let clamp = prop::bool::weighted(0.9);
    let rest = (
        0_u64..3,
        prop_oneof![4 => Just(0_u64), 1 => Just(1)],
        any::<bool>(),
        prop_oneof![3 => Just(0), 1 => -1..=1],
        prop_oneof![1 => Just(None), 1 => handover().prop_map(Some)],
        prop_oneof![1 => Just(None), 1 => (0_u8..=2).prop_map(Some)],
        (
            prop_oneof![3 => Just(None), 1 => (0_u64..3).prop_map(Some)],
            prop::bool::weighted(0.8),
            any::<bool>(),
        ),
    );
    (tokens, prompt_len, n, max_tokens, min_tokens, clamp, rest).prop_map(
        move |(mut prompt, prompt_len, n, max_tokens, min_tokens, clamp, rest)| {
            prompt.truncate(prompt_len);
            let (seed, cache_salt, penalties, priority, handover, prompt_logprobs, rest) = rest;
            let (rule, speculates, logprobs) = rest;
            let room = limit.saturating_sub(prompt_len).max(1);
            let max_tokens = if clamp {
                max_tokens.min(room)
            } else {
                max_tokens
            };
            NewRequest {
                prompt,
                n,
                sampling: Arc::new(SamplingParams {
                    seed,
                    presence_penalty: if penalties { 1.0 } else { 0.0 },
                    logprobs: logprobs.then_some(0),
                    ..SamplingParams::greedy()
                }),
                stop: StopConditions {
                    stop_token_ids: Arc::new([STOP]),
                    max_tokens,
                    min_tokens: if clamp {
                        min_tokens.min(max_tokens)
                    } else {
                        min_tokens
                    },
                },
                cache_salt,
                priority,
                handover: handover.map(Arc::new),
                prompt_logprobs,
                constraint: rule.map(|rule| Arc::new(Rule(rule)) as _),
                speculation: speculation(speculates),
            }
        },
    )
}

fn handover() -> impl Strategy<Value = Handover> {
    let tokens = |len| prop::collection::vec(0..=STOP, len);
    (tokens(1..=2), tokens(0..=1), 0_usize..=3, tokens(0..=4)).prop_map(
        |(opens, closes, max_tokens, tokens)| Handover {
            opens,
            closes,
            max_tokens,
            tokens,
        },
    )
}

fn interruption(limit: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => request(limit).prop_map(Op::Submit),
        2 => any::<usize>().prop_map(Op::Cancel),
        3 => (any::<usize>(), 0_u32..4).prop_map(|(which, index)| Op::FinishSequence(which, index)),
        1 => any::<usize>().prop_map(Op::QueueTimeout),
    ]
}

fn op(limit: usize) -> impl Strategy<Value = Op> {
    let interruptions = move || prop::collection::vec(interruption(limit), 0..3);
    prop_oneof![
        24 => request(limit).prop_map(Op::Submit),
        4 => interruption(limit),
        48 => prop_oneof![6 => Just(Vec::new()), 1 => interruptions()].prop_map(Op::Step),
        1 => interruptions().prop_map(Op::FailStep),
        1 => Just(Op::WrongOutput),
    ]
}

pub fn script() -> impl Strategy<Value = (Setup, Vec<Op>)> {
    setup().prop_flat_map(|setup| {
        let ops = prop::collection::vec(op(limit(&setup)), 1..80);
        (Just(setup), ops)
    })
}
