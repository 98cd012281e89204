//! The online softmax over tiles of a paged cache, generic over instruction set and storage.
//!
//! Checks nothing: `paged_attention` did. Invariant: everything about a (query, head) pair in a tile depends on that pair
//! and on what is stored for the positions that it sees, never on the other pairs of the pass.

use std::ops::Range;

use super::PagedQueries;
use super::storage::{Bf16, HEAD_DIM, Int8, KvCache, Storage};
use crate::ColumnsMut;
use crate::vector::{LANES, Vector, exp};

/// Positions per step of the online softmax.
const TILE: usize = 256;
/// Positions whose logits are computed at once.
const CHUNK: usize = 2 * LANES;
/// (query, head) pairs per pass over a tile.
const PAIRS: usize = 16;

dispatch! {
    pub(super) fn attend_bf16 = bf16_generic(
        cache: KvCache<'_>,
        queries: PagedQueries<'_>,
        kv_heads: Range<usize>,
        out: &mut ColumnsMut<'_>,
    )
}

dispatch! {
    pub(super) fn attend_int8 = int8_generic(
        cache: KvCache<'_>,
        queries: PagedQueries<'_>,
        kv_heads: Range<usize>,
        out: &mut ColumnsMut<'_>,
    )
}

#[inline(always)]
unsafe fn bf16_generic<V: Vector>(
    cache: KvCache<'_>,
    queries: PagedQueries<'_>,
    kv_heads: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    // SAFETY: the caller's contract.
    unsafe { attend_generic::<V, Bf16>(cache, queries, kv_heads, out) }
}

#[inline(always)]
unsafe fn int8_generic<V: Vector>(
    cache: KvCache<'_>,
    queries: PagedQueries<'_>,
    kv_heads: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    // SAFETY: the caller's contract.
    unsafe { attend_generic::<V, Int8>(cache, queries, kv_heads, out) }
}

/// What the online softmax carries from tile to tile, besides the weighted values, which are summed in the output
/// itself.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f32,
}

#[inline(always)]
unsafe fn attend_generic<V: Vector, S: Storage>(
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
                unsafe { part.run::<V, S>(first..last, &mut states, out) };
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
    unsafe fn run<V: Vector, S: Storage>(
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
                    self.logits::<V, S>(row, start, visible.clone());
                    let mut kept = [0.0; PAIRS];
                    for (head, state) in states.iter_mut().enumerate() {
                        kept[head] = self.softmax::<V>(head, start, visible.clone(), state);
                    }
                    if S::IS_SCALED {
                        self.scale_weights::<V, S>(start, visible.clone());
                    }
                    self.values::<V, S>(&kept, start, visible, out);
                }
            }
        }
        for (row, states) in rows.zip(states.chunks_exact(self.heads)) {
            let out = out.row(row)[columns.clone()].chunks_exact_mut(HEAD_DIM);
            for (out, state) in out.zip(states) {
                let divisor = state.sum * S::UNIT;
                for x in out {
                    *x /= divisor;
                }
            }
        }
    }

    /// Scaled query-key products of one row with all chunks that `visible` touches, for all heads.
    #[inline(always)]
    unsafe fn logits<V: Vector, S: Storage>(
        &mut self,
        row: usize,
        start: usize,
        visible: Range<usize>,
    ) {
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
                    self.keys::<V, S>(first)
                };
                let [(first, a), (second, b)] = [half(chunk), half(chunk + LANES)];
                let (keys, scales) = ([first, second], [a, b]);
                let weights = self.weights.0.as_mut_ptr().add(chunk - start);
                let mut head = 0;
                while head < self.heads {
                    let (q, to) = (q.add(head * HEAD_DIM), weights.add(head * TILE));
                    head += match self.heads - head {
                        1 => products::<V, S, 1>(keys, q, scales, to),
                        2 | 3 => products::<V, S, 2>(keys, q, scales, to),
                        _ => products::<V, S, 4>(keys, q, scales, to),
                    };
                }
            }
        }
    }

    /// The keys of the eight positions from `first` on, and what their products with a query are multiplied with.
    #[inline(always)]
    unsafe fn keys<V: Vector, S: Storage>(&self, first: usize) -> (*const u8, V) {
        let layout = self.cache.layout;
        // SAFETY: the caller vouches for the positions.
        unsafe {
            let block = self.block(first);
            let slot = first % layout.block_size;
            let at = layout.key_offset::<S>(block, slot, self.kv_head);
            let mut scales = V::splat(self.queries.scale / S::UNIT);
            if S::IS_SCALED {
                scales = scales.mul(self.scales::<V, S>(self.cache.keys, first));
            }
            (self.cache.keys.as_ptr().add(at), scales)
        }
    }

    /// The scales of the keys, or of the values, of the eight positions from `first` on.
    #[inline(always)]
    unsafe fn scales<V: Vector, S: Storage>(&self, cache: &[u8], first: usize) -> V {
        let layout = self.cache.layout;
        // SAFETY: the caller vouches for the positions; blocks are of eights.
        unsafe {
            let slot = first % layout.block_size;
            let at = layout.scale_offset::<S>(self.block(first), slot, self.kv_head);
            V::load_bf16(cache.as_ptr().add(at))
        }
    }

    /// The block that holds a position.
    #[inline(always)]
    unsafe fn block(&self, position: usize) -> usize {
        let index = position / self.cache.layout.block_size;
        // SAFETY: the caller vouches for the position.
        unsafe { *self.queries.block_table.get_unchecked(index) as usize }
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

    /// Multiplies the weights of all heads with the scales of the values that they are for.
    #[inline(always)]
    unsafe fn scale_weights<V: Vector, S: Storage>(&mut self, start: usize, visible: Range<usize>) {
        for first in (visible.start / LANES * LANES..visible.end).step_by(LANES) {
            // SAFETY: these eight positions have a block and all heads room for them in the tile. Scales of slots that
            // nobody wrote meet weights that nobody reads.
            unsafe {
                let scales = self.scales::<V, S>(self.cache.values, first);
                for head in 0..self.heads {
                    let weights = self.weights.0.as_mut_ptr();
                    let weights = weights.add(head * TILE + first - start);
                    V::load(weights).mul(scales).store(weights);
                }
            }
        }
    }

    /// Adds the weighted values of the `visible` positions to all heads of `out`, scaled by `kept` before.
    #[inline(always)]
    unsafe fn values<V: Vector, S: Storage>(
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
                    1 => self.weighted::<V, S, 1, 4>(kept, head, start, visible, out),
                    2 | 3 => self.weighted::<V, S, 2, 2>(kept, head, start, visible, out),
                    _ => self.weighted::<V, S, 4, 1>(kept, head, start, visible, out),
                };
            }
        }
    }

    /// `H` heads, `D` pairs of vectors of the head at a time. Returns `H`.
    #[inline(always)]
    unsafe fn weighted<V: Vector, S: Storage, const H: usize, const D: usize>(
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
                    let at = layout.value_offset::<S>(
                        self.block(position),
                        position % layout.block_size,
                        self.kv_head,
                    );
                    let values = self.cache.values.as_ptr();
                    let values = values.add(at + column * S::ELEMENT_BYTES);
                    let weights = self.weights.0.as_ptr().add(head * TILE + position - start);
                    for i in 0..end - position {
                        let mut value = [[V::splat(0.0); 2]; D];
                        for (d, value) in value.iter_mut().enumerate() {
                            let at = i * HEAD_DIM + 2 * d * LANES;
                            *value = S::load(values.add(at * S::ELEMENT_BYTES));
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
unsafe fn products<V: Vector, S: Storage, const H: usize>(
    keys: [*const u8; 2],
    q: *const f32,
    scales: [V; 2],
    to: *mut f32,
) -> usize {
    // SAFETY: the caller vouches for two halves of keys, `H` queries, and room for sixteen logits in `H` rows.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; H];
        for pair in 0..HEAD_DIM / 2 {
            let at = pair * 2 * LANES * S::ELEMENT_BYTES;
            let keys: [[V; 2]; 2] = keys.map(|keys| S::load(keys.add(at)));
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
                sum.mul(scales[half]).store(to.add(h * TILE + half * LANES));
            }
        }
    }
    H
}
