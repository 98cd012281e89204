//! Attention of one sequence over its paged KV cache, with sinks and a window.
//!
//! Online softmax (Milakov and Gimelshein, arXiv:1805.02867): keep the maximum `m` of the logits so far, the
//! sum `l` of `exp(logit - m)`, and the values weighted by the same; when a larger logit comes, scale both
//! down. The sink is simply the first logit, with no value: `m = sink, l = 1`.
//!
//! Positions are taken in tiles of `TILE` aligned to absolute positions, whatever the block size, and everything
//! about a (query, head) pair in a tile depends on that pair alone. So results do not depend on the blocks' size and
//! place, nor on the queries and heads of the same call, which merely share the reading of keys and values.
//!
//! ```text
//! keys, of one head in one block:    for each eight slots, for each two elements: [slot 0: e, e+1] [slot 1: e, e+1] ...
//! values:                            for each slot, for each sixteen elements: [e, e+8] [e+1, e+9] ...
//! ```
//! Keys lie such that lanes are positions, and a logit is never summed across lanes; values such that lanes are
//! elements. Both are pairs of bf16 in 32 bits, widened by a shift and by a mask.

use std::ops::Range;

use crate::ops::elementwise::to_bf16;
use crate::vector::{LANES, Vector, exp};
use crate::{ColumnsMut, Isa};

/// Elements per attention head. Fixed: every published GPT-OSS has it.
pub const HEAD_DIM: usize = 64;

/// Positions per step of the online softmax.
const TILE: usize = 256;
/// Positions whose logits are computed at once.
const CHUNK: usize = 2 * LANES;
/// (query, head) pairs per pass over a tile.
const PAIRS: usize = 16;

/// Where a layer's cached keys (or values) lie: bf16 bits, `[num_blocks, num_kv_heads, block_size * HEAD_DIM]`, the slots
/// of a head in a block in the order that the head of this file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key-value heads of the model.
    pub num_kv_heads: usize,
    /// Token slots per block, a multiple of 8.
    pub block_size: usize,
}

impl KvLayout {
    /// Elements (of 2 bytes) that one block takes in the keys of one layer, and again in its values.
    pub fn block_len(&self) -> usize {
        self.num_kv_heads * self.block_size * HEAD_DIM
    }

    /// Where the keys of one head in the eight slots around one begin.
    #[inline(always)]
    fn key_offset(&self, block: usize, slot_in_block: usize, kv_head: usize) -> usize {
        self.value_offset(block, slot_in_block / LANES * LANES, kv_head)
    }

    /// Where the values of one head in one slot begin.
    #[inline(always)]
    fn value_offset(&self, block: usize, slot_in_block: usize, kv_head: usize) -> usize {
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
        layout.num_kv_heads > 0 && layout.block_size > 0 && layout.block_size.is_multiple_of(LANES),
        "blocks of eights: {layout:?}"
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

/// What the online softmax carries from tile to tile, besides the weighted values, which are summed in the output
/// itself.
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
    let mut states = [Softmax { max: 0.0, sum: 0.0 }; PAIRS];
    let mut weights = Weights([0.0; PAIRS * TILE]);
    for (column, kv_head) in kv_heads.enumerate() {
        for first_head in (0..group).step_by(PAIRS) {
            let heads = PAIRS.min(group - first_head);
            let queries_at_once = PAIRS / heads;
            for first in (0..num_queries).step_by(queries_at_once) {
                let last = num_queries.min(first + queries_at_once);
                let mut part = Part {
                    cache,
                    queries,
                    kv_head,
                    first_head: kv_head * group + first_head,
                    heads,
                    column: (column * group + first_head) * HEAD_DIM,
                    weights: &mut weights,
                };
                // SAFETY: the caller's contract; these queries, heads and columns exist.
                unsafe { part.run::<V>(first..last, &mut states, out) };
            }
        }
    }
}

/// Logits of some pairs over a tile of positions, then their exponentials.
#[repr(align(64))]
struct Weights([f32; PAIRS * TILE]);

/// Some query heads of one key-value head.
struct Part<'a> {
    cache: KvCache<'a>,
    queries: PagedQueries<'a>,
    kv_head: usize,
    /// Of the model's query heads.
    first_head: usize,
    heads: usize,
    /// Where the first head's output begins.
    column: usize,
    weights: &'a mut Weights,
}

impl Part<'_> {
    /// Attends the queries `rows`, at most `PAIRS` pairs with the heads.
    #[inline(always)]
    unsafe fn run<V: Vector>(
        &mut self,
        rows: Range<usize>,
        states: &mut [Softmax; PAIRS],
        out: &mut ColumnsMut<'_>,
    ) {
        let columns = self.column..self.column + self.heads * HEAD_DIM;
        let sinks = &self.queries.sinks[self.first_head..][..self.heads];
        for (row, states) in rows.clone().zip(states.chunks_exact_mut(self.heads)) {
            out.row(row)[columns.clone()].fill(0.0);
            for (state, sink) in states.iter_mut().zip(sinks) {
                *state = Softmax {
                    max: *sink,
                    sum: 1.0,
                };
            }
        }
        let seen = self.queries.seen(rows.start).start..self.queries.seen(rows.end - 1).end;
        for start in (seen.start / TILE * TILE..seen.end).step_by(TILE) {
            // Row after row of the same tile: its keys and values come from L1 or L2 but for the first.
            for (row, states) in rows.clone().zip(states.chunks_exact_mut(self.heads)) {
                let seen = self.queries.seen(row);
                let visible = seen.start.max(start)..seen.end.min(start + TILE);
                if visible.is_empty() {
                    continue;
                }
                let out = &mut out.row(row)[columns.clone()];
                // SAFETY: all `visible` positions have a block; `out` has `heads` heads.
                unsafe {
                    self.logits::<V>(row, start, visible.clone());
                    let mut kept = [0.0; PAIRS];
                    for (head, state) in states.iter_mut().enumerate() {
                        kept[head] = self.softmax::<V>(head, start, visible.clone(), state);
                    }
                    self.values::<V>(&kept, start, visible, out);
                }
            }
        }
        for (row, states) in rows.zip(states.chunks_exact(self.heads)) {
            let out = out.row(row)[columns.clone()].chunks_exact_mut(HEAD_DIM);
            for (out, state) in out.zip(states) {
                for x in out {
                    *x /= state.sum;
                }
            }
        }
    }

    /// Scaled query-key products of one row with all chunks that `visible` touches, for all heads.
    #[inline(always)]
    unsafe fn logits<V: Vector>(&mut self, row: usize, start: usize, visible: Range<usize>) {
        let num_heads = self.queries.sinks.len();
        let q = &self.queries.q[(row * num_heads + self.first_head) * HEAD_DIM..];
        let q = q[..self.heads * HEAD_DIM].as_ptr();
        for chunk in (visible.start / CHUNK * CHUNK..visible.end).step_by(CHUNK) {
            // SAFETY: a chunk has a visible position in one of its halves; a half that has none is read as the other,
            // and its logits are masked. All heads have queries, and room for a tile.
            unsafe {
                let half = |first: usize| {
                    let visible = first < visible.end && first + LANES > visible.start;
                    let first = if visible { first } else { first ^ LANES };
                    self.keys(first)
                };
                let keys = [half(chunk), half(chunk + LANES)];
                let weights = self.weights.0.as_mut_ptr().add(chunk - start);
                let mut head = 0;
                while head < self.heads {
                    let (q, to) = (q.add(head * HEAD_DIM), weights.add(head * TILE));
                    head += match self.heads - head {
                        1 => products::<V, 1>(keys, q, self.queries.scale, to),
                        2 | 3 => products::<V, 2>(keys, q, self.queries.scale, to),
                        _ => products::<V, 4>(keys, q, self.queries.scale, to),
                    };
                }
            }
        }
    }

    /// The keys of the eight positions from `first` on.
    #[inline(always)]
    unsafe fn keys(&self, first: usize) -> *const u16 {
        let layout = self.cache.layout;
        // SAFETY: the caller vouches for the positions.
        unsafe {
            let table = self.queries.block_table;
            let block = *table.get_unchecked(first / layout.block_size) as usize;
            let at = layout.key_offset(block, first % layout.block_size, self.kv_head);
            self.cache.keys.as_ptr().add(at)
        }
    }

    /// Turns one head's logits into weights; what is summed so far is to be scaled by the result.
    #[inline(always)]
    unsafe fn softmax<V: Vector>(
        &mut self,
        head: usize,
        start: usize,
        visible: Range<usize>,
        state: &mut Softmax,
    ) -> f32 {
        let whole = visible.start / CHUNK * CHUNK..visible.end.next_multiple_of(CHUNK);
        let row = &mut self.weights.0[head * TILE..][whole.start - start..whole.end - start];
        row[..visible.start - whole.start].fill(f32::NEG_INFINITY);
        row[visible.end - whole.start..].fill(f32::NEG_INFINITY);
        // SAFETY: loads and stores of whole vectors in a slice that is a multiple of CHUNK long.
        unsafe {
            let (first, second) = (row.as_mut_ptr(), row.as_mut_ptr().add(LANES));
            let mut largest = V::splat(state.max);
            for i in (0..row.len()).step_by(CHUNK) {
                let chunk = V::load(first.add(i)).max(V::load(second.add(i)));
                largest = largest.max(chunk);
            }
            let max = largest.max_lane();
            let splat = V::splat(max);
            let mut sum = V::splat(0.0);
            for i in (0..row.len()).step_by(CHUNK) {
                let low = exp(V::load(first.add(i)).sub(splat));
                let high = exp(V::load(second.add(i)).sub(splat));
                low.store(first.add(i));
                high.store(second.add(i));
                sum = sum.add(low.add(high));
            }
            let mut kept = [0.0; LANES];
            exp(V::splat(state.max - max)).store(kept.as_mut_ptr());
            *state = Softmax {
                max,
                sum: state.sum * kept[0] + sum.sum(),
            };
            kept[0]
        }
    }

    /// Adds the weighted values of the `visible` positions to all heads of `out`, scaled by `kept` before.
    #[inline(always)]
    unsafe fn values<V: Vector>(
        &mut self,
        kept: &[f32; PAIRS],
        start: usize,
        visible: Range<usize>,
        out: &mut [f32],
    ) {
        let mut head = 0;
        while head < self.heads {
            let out = out[head * HEAD_DIM..].as_mut_ptr();
            let kept = &kept[head..];
            let visible = visible.clone();
            // SAFETY: the caller's contract. Eight accumulators in each case.
            unsafe {
                head += match self.heads - head {
                    1 => self.weighted::<V, 1, 4>(kept, head, start, visible, out),
                    2 | 3 => self.weighted::<V, 2, 2>(kept, head, start, visible, out),
                    _ => self.weighted::<V, 4, 1>(kept, head, start, visible, out),
                };
            }
        }
    }

    /// `H` heads, `D` pairs of vectors of the head at a time. Returns `H`.
    #[inline(always)]
    unsafe fn weighted<V: Vector, const H: usize, const D: usize>(
        &self,
        kept: &[f32],
        head: usize,
        start: usize,
        visible: Range<usize>,
        out: *mut f32,
    ) -> usize {
        let layout = self.cache.layout;
        for column in (0..HEAD_DIM).step_by(2 * D * LANES) {
            // SAFETY: all `visible` positions have a block, and all heads a row of weights and an output.
            unsafe {
                let mut sums = [[V::splat(0.0); 2]; 4];
                for h in 0..H {
                    for d in 0..D {
                        let out = out.add(h * HEAD_DIM + column + 2 * d * LANES);
                        let kept = V::splat(kept[h]);
                        sums[h * D + d] =
                            [V::load(out).mul(kept), V::load(out.add(LANES)).mul(kept)];
                    }
                }
                let mut position = visible.start;
                while position < visible.end {
                    let block_end = (position / layout.block_size + 1) * layout.block_size;
                    let end = visible.end.min(block_end);
                    let block = *self
                        .queries
                        .block_table
                        .get_unchecked(position / layout.block_size);
                    let at = layout.value_offset(
                        block as usize,
                        position % layout.block_size,
                        self.kv_head,
                    );
                    let values = self.cache.values.as_ptr().add(at + column);
                    let weights = self.weights.0.as_ptr().add(head * TILE + position - start);
                    for i in 0..end - position {
                        let mut value = [[V::splat(0.0); 2]; D];
                        for (d, value) in value.iter_mut().enumerate() {
                            *value = V::load_bf16_pairs(values.add(i * HEAD_DIM + 2 * d * LANES));
                        }
                        for h in 0..H {
                            let weight = V::splat(*weights.add(h * TILE + i));
                            for d in 0..D {
                                for half in 0..2 {
                                    let sum = &mut sums[h * D + d][half];
                                    *sum = value[d][half].mul_add(weight, *sum);
                                }
                            }
                        }
                    }
                    position = end;
                }
                for h in 0..H {
                    for d in 0..D {
                        let out = out.add(h * HEAD_DIM + column + 2 * d * LANES);
                        sums[h * D + d][0].store(out);
                        sums[h * D + d][1].store(out.add(LANES));
                    }
                }
            }
        }
        H
    }
}

/// Sixteen logits for each of `H` heads: lanes are positions, so nothing is added across lanes. Returns `H`.
#[inline(always)]
unsafe fn products<V: Vector, const H: usize>(
    keys: [*const u16; 2],
    q: *const f32,
    scale: f32,
    to: *mut f32,
) -> usize {
    // SAFETY: the caller vouches for two halves of keys, `H` queries, and room for sixteen logits in `H` rows.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; H];
        for pair in 0..HEAD_DIM / 2 {
            let keys = keys.map(|keys| V::load_bf16_pairs(keys.add(pair * 2 * LANES)));
            for (h, sums) in sums.iter_mut().enumerate() {
                let q = q.add(h * HEAD_DIM + 2 * pair);
                let (even, odd) = (V::splat(*q), V::splat(*q.add(1)));
                for half in 0..2 {
                    sums[half] = keys[half][0].mul_add(even, sums[half]);
                    sums[half] = keys[half][1].mul_add(odd, sums[half]);
                }
            }
        }
        for (h, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                sum.mul(V::splat(scale))
                    .store(to.add(h * TILE + half * LANES));
            }
        }
    }
    H
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
    for kv_head in 0..layout.num_kv_heads {
        let head = kv_head * HEAD_DIM..(kv_head + 1) * HEAD_DIM;
        let at = layout.key_offset(block, slot_in_block, kv_head);
        let eight = &mut keys[at..][..LANES * HEAD_DIM];
        for (pair, x) in k[head.clone()].as_chunks::<2>().0.iter().enumerate() {
            let to = 2 * (pair * LANES + slot_in_block % LANES);
            eight[to..to + 2].copy_from_slice(&x.map(to_bf16));
        }
        let at = layout.value_offset(block, slot_in_block, kv_head);
        let slot = values[at..][..HEAD_DIM].as_chunks_mut::<CHUNK>().0;
        for (to, x) in slot.iter_mut().zip(v[head].as_chunks::<CHUNK>().0) {
            for i in 0..LANES {
                to[2 * i] = to_bf16(x[i]);
                to[2 * i + 1] = to_bf16(x[i + LANES]);
            }
        }
    }
}
