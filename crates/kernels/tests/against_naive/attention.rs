//! Paged attention: against contiguous attention in f64 over the same rounded keys and values, and the same bits however
//! it is paged and split.

use gossamer_kernels::*;
use proptest::prelude::*;

use crate::support::*;

/// One sequence's attention problem, free of any paging.
#[derive(Debug, Clone)]
struct Problem {
    dtype: KvDtype,
    num_kv_heads: usize,
    group: usize,
    context: usize,
    num_queries: usize,
    window: Option<usize>,
    /// `[num_queries, num_heads, HEAD_DIM]`
    q: Vec<f32>,
    /// `[context, num_kv_heads, HEAD_DIM]`, as written to the cache.
    keys: Vec<f32>,
    values: Vec<f32>,
    sinks: Vec<f32>,
}

impl Problem {
    fn new(
        dtype: KvDtype,
        seed: u64,
        num_kv_heads: usize,
        group: usize,
        context: usize,
        num_queries: usize,
        window: Option<usize>,
    ) -> Self {
        let mut random = Random::new(seed);
        let num_heads = num_kv_heads * group;
        Problem {
            dtype,
            num_kv_heads,
            group,
            context,
            num_queries: num_queries.min(context),
            window,
            q: random.numbers(num_queries.min(context) * num_heads * HEAD_DIM),
            keys: Self::cached(&mut random, context * num_kv_heads),
            values: Self::cached(&mut random, context * num_kv_heads),
            sinks: random.numbers(num_heads),
        }
    }

    /// Some heads of some tokens are a thousand times smaller than others: each has its own scale.
    fn cached(random: &mut Random, heads: usize) -> Vec<f32> {
        let mut x = random.numbers(heads * HEAD_DIM);
        for head in x.chunks_exact_mut(HEAD_DIM) {
            let scale = [1.0, 1.0, 0.3, 1e-3][random.next() as usize % 4];
            head.iter_mut().for_each(|x| *x *= scale);
        }
        x
    }

    fn num_heads(&self) -> usize {
        self.num_kv_heads * self.group
    }

    /// Runs it over a cache of blocks in random places, `step` queries a call, one call per kv head if `split`.
    fn paged(&self, isa: Isa, seed: u64, block_size: usize, step: usize, split: bool) -> Vec<f32> {
        let mut random = Random::new(seed);
        let layout = KvLayout {
            num_kv_heads: self.num_kv_heads,
            block_size,
            dtype: self.dtype,
        };
        let num_used = self.context.div_ceil(block_size);
        let num_blocks = num_used + 3;
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        let mut block_table: Vec<u32> = vec![];
        for _ in 0..num_used {
            block_table.push(free.swap_remove(random.next() as usize % free.len()));
        }
        // Unwritten slots are NaN, or have scales that are: reading one would show.
        let mut keys = [0xc0, 0x7f].repeat(num_blocks * layout.block_bytes() / 2);
        let mut values = keys.clone();
        let token_len = self.num_kv_heads * HEAD_DIM;
        let first_position = self.context - self.num_queries;
        let hidden = self
            .window
            .map_or(0, |window| (first_position + 1).saturating_sub(window));
        for position in hidden..self.context {
            let slot =
                block_table[position / block_size] as usize * block_size + position % block_size;
            let token = position * token_len..(position + 1) * token_len;
            write_kv(
                layout,
                &mut keys,
                &mut values,
                slot,
                &self.keys[token.clone()],
                &self.values[token],
            );
        }
        // Blocks wholly before the window may have been given back.
        block_table[..hidden / block_size].fill(u32::MAX);

        let cache = KvCache {
            keys: &keys,
            values: &values,
            layout,
        };
        let row_len = self.num_heads() * HEAD_DIM;
        let mut out = vec![f32::NAN; self.q.len()];
        for first in (0..self.num_queries).step_by(step) {
            let rows = first * row_len..self.num_queries.min(first + step) * row_len;
            let queries = PagedQueries {
                q: &self.q[rows.clone()],
                sinks: &self.sinks,
                first_position: first_position + first,
                window: self.window,
                block_table: &block_table,
                scale: 0.125,
            };
            let out = ColumnsMut::new(&mut out[rows.clone()], rows.len() / row_len);
            let parts = if split { self.num_kv_heads } else { 1 };
            for (columns, mut out) in out.split_even(parts, self.group * HEAD_DIM) {
                let unit = self.group * HEAD_DIM;
                paged_attention(
                    isa,
                    cache,
                    queries,
                    columns.start / unit..columns.end / unit,
                    &mut out,
                );
            }
        }
        out
    }

    fn naive(&self) -> Vec<f64> {
        let token_len = self.num_kv_heads * HEAD_DIM;
        let mut out = vec![];
        for query in 0..self.num_queries {
            let position = self.context - self.num_queries + query;
            let start = self
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window));
            for head in 0..self.num_heads() {
                let contiguous = |cache: &[f32]| -> Vec<f32> {
                    (start..=position)
                        .flat_map(|p| {
                            let at = p * token_len + head / self.group * HEAD_DIM;
                            naive::stored(self.dtype, &cache[at..][..HEAD_DIM])
                        })
                        .collect()
                };
                let q = &self.q[(query * self.num_heads() + head) * HEAD_DIM..][..HEAD_DIM];
                out.extend(naive::attention(
                    q,
                    &contiguous(&self.keys),
                    &contiguous(&self.values),
                    self.sinks[head],
                    0.125,
                ));
            }
        }
        out
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let window = prop_oneof![Just(None), (1usize..300).prop_map(Some)];
    (
        prop_oneof![Just(KvDtype::Bf16), Just(KvDtype::Int8)],
        any::<u64>(),
        1usize..3,
        1usize..8,
        prop_oneof![1usize..120, 200usize..600],
        1usize..40,
        window,
    )
        .prop_map(
            |(dtype, seed, num_kv_heads, group, context, num_queries, window)| {
                Problem::new(
                    dtype,
                    seed,
                    num_kv_heads,
                    group,
                    context,
                    num_queries,
                    window,
                )
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    #[test]
    fn paged_attention_is_attention(problem in problems(), seed: u64, block_eights in 1usize..5) {
        let expect = problem.naive();
        for isa in Isa::available() {
            let out = problem.paged(isa, seed, 8 * block_eights, problem.num_queries, false);
            // Values are below 4; logits (below 128) carry an error of their f32 dot product into the weights.
            assert_close(&format!("{isa}"), &out, &expect, &vec![4.0; expect.len()], 2e-5);
        }
    }

    #[test]
    fn attention_does_not_depend_on_paging_or_company(
        problem in problems(), seed: u64, block_eights in (1usize..5, 1usize..5), step in 1usize..10,
    ) {
        for isa in Isa::available() {
            let whole = problem.paged(isa, seed, 8 * block_eights.0, problem.num_queries, false);
            let split = problem.paged(isa, !seed, 8 * block_eights.1, step, true);
            prop_assert_eq!(bits(&whole), bits(&split));
        }
    }
}

#[test]
fn more_pairs_than_are_taken_at_once_change_nothing() {
    // 20 heads a group and 40 queries: several passes over a tile, of parts of a group.
    for dtype in [KvDtype::Bf16, KvDtype::Int8] {
        let problem = Problem::new(dtype, 1, 1, 20, 300, 40, None);
        for isa in Isa::available() {
            let whole = problem.paged(isa, 1, 16, 40, false);
            assert_eq!(bits(&whole), bits(&problem.paged(isa, 2, 16, 1, false)));
            assert_close(
                "two runs",
                &whole,
                &problem.naive(),
                &vec![4.0; whole.len()],
                2e-5,
            );
        }
    }
}

#[test]
fn a_value_that_is_not_finite_is_not_hidden() {
    for dtype in [KvDtype::Bf16, KvDtype::Int8] {
        let mut problem = Problem::new(dtype, 3, 2, 2, 40, 40, None);
        // Head 1 of position 17.
        problem.values[(17 * 2 + 1) * HEAD_DIM + 5] = f32::NAN;
        for isa in Isa::available() {
            let out = problem.paged(isa, 1, 8, 40, false);
            for (index, head) in out.chunks_exact(HEAD_DIM).enumerate() {
                let (query, kv_head) = (index / 4, index % 4 / 2);
                assert_eq!(
                    head.iter().any(|x| x.is_nan()),
                    query >= 17 && kv_head == 1,
                    "{isa}, {dtype:?}, query {query}, head {kv_head}"
                );
            }
        }
    }
}

#[test]
fn a_block_has_the_bytes_that_its_format_says() {
    // Keys of one layer of GPT-OSS-20B: 16 tokens of 8 heads of 64 numbers of 2 bytes; or of 1 byte, and a scale.
    for (dtype, bytes) in [(KvDtype::Bf16, 16 * 8 * 128), (KvDtype::Int8, 16 * 8 * 66)] {
        let layout = KvLayout {
            num_kv_heads: 8,
            block_size: 16,
            dtype,
        };
        assert_eq!(layout.block_bytes(), bytes);
    }
}

#[test]
#[should_panic(expected = "a block past")]
fn a_block_outside_the_cache_is_refused() {
    let layout = KvLayout {
        num_kv_heads: 1,
        block_size: 8,
        dtype: KvDtype::Bf16,
    };
    let cache = vec![0; 2 * layout.block_bytes()];
    let queries = PagedQueries {
        q: &[0.0; HEAD_DIM],
        sinks: &[0.0],
        first_position: 9,
        window: None,
        block_table: &[0, 2],
        scale: 0.125,
    };
    let mut out = [0.0; HEAD_DIM];
    let cache = KvCache {
        keys: &cache,
        values: &cache,
        layout,
    };
    paged_attention(
        Isa::SCALAR,
        cache,
        queries,
        0..1,
        &mut ColumnsMut::new(&mut out, 1),
    );
}
