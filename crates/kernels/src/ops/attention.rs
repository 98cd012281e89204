//! Attention of one sequence over its paged KV cache, with sinks and a window.
//!
//! Online softmax (Milakov and Gimelshein, arXiv:1805.02867): keep the maximum `m` of the logits so far, the
//! sum `l` of `exp(logit - m)`, and the values weighted by the same; when a larger logit comes, scale both
//! down. The sink is simply the first logit, with no value: `m = sink, l = 1`.
//!
//! Positions are taken in chunks of `CHUNK` aligned to absolute positions, whatever the block size, and
//! everything about a (query, head) pair in a chunk depends on that pair alone. So results do not depend on
//! the blocks' size and place, nor on the queries of the same call, which merely share the widening of a
//! chunk's keys and values to f32.

use std::ops::Range;

use crate::ops::elementwise::to_bf16;
use crate::vector::{LANES, Vector, exp};
use crate::{ColumnsMut, Isa};

/// Elements per attention head. Fixed: every published GPT-OSS has it.
pub const HEAD_DIM: usize = 64;

/// Positions per step of the online softmax.
const CHUNK: usize = 16;
/// Vectors per head.
const HEAD_VECTORS: usize = HEAD_DIM / LANES;
/// (query, head) pairs that share one widening of a chunk.
const PAIRS: usize = 128;

/// Where a layer's cached keys (or values) lie: bf16 bits, `[num_blocks, num_kv_heads, block_size, HEAD_DIM]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key-value heads of the model.
    pub num_kv_heads: usize,
    /// Token slots per block.
    pub block_size: usize,
}

impl KvLayout {
    /// Elements (of 2 bytes) that one block takes in the keys of one layer, and again in its values.
    pub fn block_len(&self) -> usize {
        self.num_kv_heads * self.block_size * HEAD_DIM
    }

    /// Where the `HEAD_DIM` elements of one head in one slot begin.
    #[inline(always)]
    fn offset(&self, block: usize, slot_in_block: usize, kv_head: usize) -> usize {
        ((block * self.num_kv_heads + kv_head) * self.block_size + slot_in_block) * HEAD_DIM
    }
}

/// One layer's cache, borrowed for reading.
#[derive(Clone, Copy)]
pub struct KvCache<'a> {
    /// bf16 bits, laid out as [`KvLayout`] says.
    pub keys: &'a [u16],
    /// bf16 bits, laid out as [`KvLayout`] says.
    pub values: &'a [u16],
    /// The shape of both.
    pub layout: KvLayout,
}

/// Consecutive query tokens of one sequence: one in decode, a chunk in prefill.
#[derive(Clone, Copy)]
pub struct PagedQueries<'a> {
    /// Rotated queries, `[num_queries, num_heads, HEAD_DIM]`.
    pub q: &'a [f32],
    /// One logit per query head that joins the softmax's denominator, `[num_heads]`.
    pub sinks: &'a [f32],
    /// Position of the first query. Query `i` sits at `first_position + i` and sees the positions up to
    /// its own.
    pub first_position: usize,
    /// If set, a query sees only the last `window` positions, its own included. At least 1.
    pub window: Option<usize>,
    /// The sequence's blocks in order. Entries wholly before the window are not read.
    pub block_table: &'a [u32],
    /// What query-key products are multiplied with, `1 / sqrt(HEAD_DIM)`.
    pub scale: f32,
}

impl PagedQueries<'_> {
    /// The positions that query `index` sees.
    #[inline(always)]
    fn seen(&self, index: usize) -> Range<usize> {
        let end = self.first_position + index + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }
}

/// Attends `queries` over the key-value heads `kv_heads`, whose keys and values (those of the queries'
/// own tokens included) must already be in the cache.
///
/// `out` is `[num_queries, kv_heads.len() * group, HEAD_DIM]` with `group = num_heads / num_kv_heads`:
/// query head `h` reads key-value head `h / group`.
/// Source: openai/gpt-oss `gpt_oss/torch/model.py::sdpa`.
///
/// # Panics
/// If a shape does not fit, or a position that is seen has no block.
pub fn paged_attention(
    isa: Isa,
    cache: KvCache<'_>,
    queries: PagedQueries<'_>,
    kv_heads: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    let KvCache {
        keys,
        values,
        layout,
    } = cache;
    let (num_queries, num_heads) = (out.num_rows(), queries.sinks.len());
    assert!(
        layout.num_kv_heads > 0 && layout.block_size > 0,
        "a cache without room: {layout:?}"
    );
    assert!(
        keys.len() == values.len() && keys.len().is_multiple_of(layout.block_len()),
        "whole blocks"
    );
    assert!(
        num_heads.is_multiple_of(layout.num_kv_heads),
        "{num_heads} heads over {layout:?}"
    );
    assert!(
        kv_heads.start <= kv_heads.end && kv_heads.end <= layout.num_kv_heads,
        "kv heads {kv_heads:?}"
    );
    let group = num_heads / layout.num_kv_heads;
    assert_eq!(
        queries.q.len(),
        num_queries * num_heads * HEAD_DIM,
        "q is [num_queries, num_heads, {HEAD_DIM}]"
    );
    assert_eq!(
        out.width(),
        kv_heads.len() * group * HEAD_DIM,
        "out is [num_queries, heads, {HEAD_DIM}]"
    );
    assert!(
        queries.window != Some(0),
        "a window that hides a token from itself"
    );
    let seen = queries.seen(0).start..queries.seen(num_queries - 1).end;
    let num_blocks = keys.len() / layout.block_len();
    let blocks = seen.start / layout.block_size..seen.end.div_ceil(layout.block_size);
    assert!(
        blocks.end <= queries.block_table.len(),
        "{} positions, {} blocks",
        seen.end,
        queries.block_table.len()
    );
    let table = &queries.block_table[blocks];
    assert!(
        table.iter().all(|block| (*block as usize) < num_blocks),
        "a block past the {num_blocks} of the cache"
    );
    // SAFETY: every position that a query sees has a block of the cache, and the shapes are checked.
    unsafe { attend(isa, cache, queries, kv_heads, out) }
}

dispatch! {
    fn attend = attend_generic(
        cache: KvCache<'_>,
        queries: PagedQueries<'_>,
        kv_heads: Range<usize>,
        out: &mut ColumnsMut<'_>,
    )
}

/// What the online softmax carries from chunk to chunk, besides the weighted values, which are summed in
/// the output itself.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f32,
}

#[inline(always)]
unsafe fn attend_generic<V: Vector>(
    cache: KvCache<'_>,
    queries: PagedQueries<'_>,
    kv_heads: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    let (num_queries, num_heads) = (out.num_rows(), queries.sinks.len());
    let group = num_heads / cache.layout.num_kv_heads;
    let queries_at_once = (PAIRS / group.max(1)).clamp(1, num_queries);
    let mut states = vec![Softmax { max: 0.0, sum: 0.0 }; queries_at_once * group];
    let mut chunk = Chunk {
        keys: [0.0; CHUNK * HEAD_DIM],
        values: [0.0; CHUNK * HEAD_DIM],
    };
    for (column, kv_head) in kv_heads.enumerate() {
        let heads = kv_head * group..(kv_head + 1) * group;
        let columns = column * group * HEAD_DIM..(column + 1) * group * HEAD_DIM;
        for first in (0..num_queries).step_by(queries_at_once) {
            let last = num_queries.min(first + queries_at_once);
            for query in first..last {
                out.row(query)[columns.clone()].fill(0.0);
                for (state, sink) in states[(query - first) * group..]
                    .iter_mut()
                    .zip(&queries.sinks[heads.clone()])
                {
                    *state = Softmax {
                        max: *sink,
                        sum: 1.0,
                    };
                }
            }
            let seen = queries.seen(first).start..queries.seen(last - 1).end;
            for start in (seen.start / CHUNK * CHUNK..seen.end).step_by(CHUNK) {
                let positions = start.max(seen.start)..(start + CHUNK).min(seen.end);
                // SAFETY: all `positions` are seen by some query.
                unsafe { chunk.fill::<V>(cache, queries.block_table, kv_head, positions) };
                for query in first..last {
                    let seen = queries.seen(query);
                    let visible = seen.start.max(start)..seen.end.min(start + CHUNK);
                    if visible.is_empty() {
                        continue;
                    }
                    let visible = visible.start - start..visible.end - start;
                    let q = &queries.q[(query * num_heads + heads.start) * HEAD_DIM..];
                    let out = &mut out.row(query)[columns.clone()];
                    let states = &mut states[(query - first) * group..][..group];
                    for (h, state) in states.iter_mut().enumerate() {
                        let q = q[h * HEAD_DIM..].first_chunk().expect("q has all heads");
                        let out = out[h * HEAD_DIM..]
                            .first_chunk_mut()
                            .expect("out has all heads");
                        // SAFETY: the caller vouches for the instruction set.
                        unsafe { chunk.attend::<V>(state, q, queries.scale, visible.clone(), out) };
                    }
                }
            }
            for query in first..last {
                let out = out.row(query)[columns.clone()].chunks_exact_mut(HEAD_DIM);
                for (out, state) in out.zip(&states[(query - first) * group..]) {
                    for x in out {
                        *x /= state.sum;
                    }
                }
            }
        }
    }
}

/// The keys and values of `CHUNK` aligned positions of one head, widened.
struct Chunk {
    keys: [f32; CHUNK * HEAD_DIM],
    values: [f32; CHUNK * HEAD_DIM],
}

impl Chunk {
    /// Widens `positions`, which lie in one chunk. The other positions keep what they had: any finite
    /// number or not, nothing of it reaches a result.
    #[inline(always)]
    unsafe fn fill<V: Vector>(
        &mut self,
        cache: KvCache<'_>,
        block_table: &[u32],
        kv_head: usize,
        positions: Range<usize>,
    ) {
        let block_size = cache.layout.block_size;
        for position in positions {
            let block = block_table[position / block_size] as usize;
            let from = cache.layout.offset(block, position % block_size, kv_head);
            let to = position % CHUNK * HEAD_DIM;
            let pairs = [
                (cache.keys, &mut self.keys),
                (cache.values, &mut self.values),
            ];
            for (cached, widened) in pairs {
                let (cached, widened) =
                    (&cached[from..][..HEAD_DIM], &mut widened[to..][..HEAD_DIM]);
                for i in (0..HEAD_DIM).step_by(LANES) {
                    // SAFETY: both slices have HEAD_DIM elements, a multiple of LANES.
                    unsafe {
                        V::load_bf16_bits(cached.as_ptr().add(i)).store(widened.as_mut_ptr().add(i))
                    };
                }
            }
        }
    }

    /// One step of the online softmax of one head of one query, over the positions `visible` of the chunk.
    #[inline(always)]
    unsafe fn attend<V: Vector>(
        &self,
        state: &mut Softmax,
        q: &[f32; HEAD_DIM],
        scale: f32,
        visible: Range<usize>,
        out: &mut [f32; HEAD_DIM],
    ) {
        // SAFETY: loads and stores are within arrays of constant size.
        unsafe {
            let mut weights = self.logits::<V>(q, scale);
            for (i, weight) in weights.iter_mut().enumerate() {
                if !visible.contains(&i) {
                    *weight = f32::NEG_INFINITY;
                }
            }
            let (low, high) = (
                V::load(weights.as_ptr()),
                V::load(weights.as_ptr().add(LANES)),
            );
            let max = state.max.max(low.max(high).max_lane());
            let rescale = exp(V::splat(state.max - max));
            let (low, high) = (exp(low.sub(V::splat(max))), exp(high.sub(V::splat(max))));
            low.store(weights.as_mut_ptr());
            high.store(weights.as_mut_ptr().add(LANES));
            let mut kept = [0.0; LANES];
            rescale.store(kept.as_mut_ptr());
            *state = Softmax {
                max,
                sum: state.sum * kept[0] + low.add(high).sum(),
            };

            let mut sums = [rescale; HEAD_VECTORS];
            for (d, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(out.as_ptr().add(d * LANES)).mul(rescale);
            }
            for i in visible {
                let weight = V::splat(weights[i]);
                let value = self.values.as_ptr().add(i * HEAD_DIM);
                for (d, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(value.add(d * LANES)).mul_add(weight, *sum);
                }
            }
            for (d, sum) in sums.into_iter().enumerate() {
                sum.store(out.as_mut_ptr().add(d * LANES));
            }
        }
    }

    /// `q` times each key of the chunk, scaled. Eight accumulators at once, enough for two FMA units.
    #[inline(always)]
    unsafe fn logits<V: Vector>(&self, q: &[f32; HEAD_DIM], scale: f32) -> [f32; CHUNK] {
        let mut logits = [0.0; CHUNK];
        // SAFETY: loads are within arrays of constant size.
        unsafe {
            for start in (0..CHUNK).step_by(8) {
                let mut sums = [V::splat(0.0); 8];
                for d in (0..HEAD_DIM).step_by(LANES) {
                    let q = V::load(q.as_ptr().add(d));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let key = V::load(self.keys.as_ptr().add((start + i) * HEAD_DIM + d));
                        *sum = key.mul_add(q, *sum);
                    }
                }
                let [a, b, c, d, e, f, g, h] = sums;
                let first = V::sum4([a, b, c, d]);
                let second = V::sum4([e, f, g, h]);
                for i in 0..4 {
                    logits[start + i] = first[i] * scale;
                    logits[start + 4 + i] = second[i] * scale;
                }
            }
        }
        logits
    }
}

/// Stores one token's rotated keys and its values, rounded to bf16, at `slot`.
///
/// slot = block * block_size + offset. `k` and `v` are `[num_kv_heads, HEAD_DIM]`; `keys` and `values` are
/// laid out as `layout` says.
///
/// # Panics
/// If a shape does not fit or the slot is outside the cache.
pub fn write_kv(
    layout: KvLayout,
    keys: &mut [u16],
    values: &mut [u16],
    slot: usize,
    k: &[f32],
    v: &[f32],
) {
    let token_len = layout.num_kv_heads * HEAD_DIM;
    assert!(
        k.len() == token_len && v.len() == token_len,
        "k and v are [{}, {HEAD_DIM}]",
        layout.num_kv_heads
    );
    let (block, slot_in_block) = (slot / layout.block_size, slot % layout.block_size);
    for (cache, token) in [(keys, k), (values, v)] {
        for (kv_head, head) in token.chunks_exact(HEAD_DIM).enumerate() {
            let cached = &mut cache[layout.offset(block, slot_in_block, kv_head)..][..HEAD_DIM];
            for (cached, x) in cached.iter_mut().zip(head) {
                *cached = to_bf16(*x);
            }
        }
    }
}
