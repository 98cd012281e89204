//! Attention of one sequence over its paged KV cache, with sinks and a window.

use std::ops::Range;

use crate::{ColumnsMut, Isa};

/// Elements per attention head. Fixed: every published GPT-OSS has it.
pub const HEAD_DIM: usize = 64;

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

    /// Where the `HEAD_DIM` elements of one head in one slot begin; slot = block * block_size + offset.
    fn offset(&self, slot: usize, kv_head: usize) -> usize {
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        ((block * self.num_kv_heads + kv_head) * self.block_size + offset) * HEAD_DIM
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
    /// Position of the first query. Query `i` sits at `first_position + i` and sees the positions up to its own.
    pub first_position: usize,
    /// If set, a query sees only the last `window` positions, its own included.
    pub window: Option<usize>,
    /// The sequence's blocks in order. Entries wholly before the window are not read.
    pub block_table: &'a [u32],
    /// What query-key products are multiplied with, `1 / sqrt(HEAD_DIM)`.
    pub scale: f32,
}

/// Attends `queries` over the key-value heads `kv_heads`, whose keys and values (those of the queries'
/// own tokens included) must already be in the cache.
///
/// `out` is `[num_queries, kv_heads.len() * group * HEAD_DIM]` with `group = num_heads / num_kv_heads`:
/// query head `h` reads key-value head `h / group`.
/// Source: openai/gpt-oss `gpt_oss/torch/model.py::sdpa`.
///
/// # Panics
/// If a shape does not fit, or a position that is seen has no block.
pub fn paged_attention(
    _isa: Isa,
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
    let num_heads = queries.sinks.len();
    assert_eq!(keys.len(), values.len(), "keys and values of one shape");
    assert!(
        num_heads.is_multiple_of(layout.num_kv_heads),
        "{num_heads} heads over {}",
        layout.num_kv_heads
    );
    assert!(
        kv_heads.start <= kv_heads.end && kv_heads.end <= layout.num_kv_heads,
        "kv heads {kv_heads:?}"
    );
    let group = num_heads / layout.num_kv_heads;
    assert_eq!(
        queries.q.len(),
        out.num_rows() * num_heads * HEAD_DIM,
        "q is [num_queries, num_heads, {HEAD_DIM}]"
    );
    assert_eq!(
        out.width(),
        kv_heads.len() * group * HEAD_DIM,
        "out is [num_queries, heads, {HEAD_DIM}]"
    );
    for i in 0..out.num_rows() {
        let position = queries.first_position + i;
        let first = queries
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        for (column, head) in (kv_heads.start * group..kv_heads.end * group).enumerate() {
            let q = &queries.q[(i * num_heads + head) * HEAD_DIM..][..HEAD_DIM];
            let mut weights = vec![queries.sinks[head]];
            let mut offsets = vec![];
            for p in first..=position {
                let block = queries.block_table[p / layout.block_size] as usize;
                let offset = layout.offset(
                    block * layout.block_size + p % layout.block_size,
                    head / group,
                );
                let k = &keys[offset..][..HEAD_DIM];
                weights.push(
                    q.iter().zip(k).map(|(q, k)| q * from_bf16(*k)).sum::<f32>() * queries.scale,
                );
                offsets.push(offset);
            }
            let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = weights.iter().map(|weight| (weight - max).exp()).sum();
            let row = &mut out.row(i)[column * HEAD_DIM..][..HEAD_DIM];
            row.fill(0.0);
            for (weight, offset) in weights[1..].iter().zip(offsets) {
                for (out, v) in row.iter_mut().zip(&values[offset..]) {
                    *out += (weight - max).exp() / sum * from_bf16(*v);
                }
            }
        }
    }
}

/// Stores one token's rotated keys and its values, rounded to bf16, at `slot`.
///
/// `k` and `v` are `[num_kv_heads, HEAD_DIM]`; `keys` and `values` are laid out as `layout` says.
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
    for (cache, token) in [(keys, k), (values, v)] {
        for (kv_head, head) in token.chunks_exact(HEAD_DIM).enumerate() {
            let cached = &mut cache[layout.offset(slot, kv_head)..][..HEAD_DIM];
            for (cached, x) in cached.iter_mut().zip(head) {
                *cached = to_bf16(*x);
            }
        }
    }
}

/// Exactly.
fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest, ties to even; NaN stays NaN.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Keep it a NaN even if its payload is all in the half that is cut off.
        return (bits >> 16) as u16 | 0x40;
    }
    // Half an ulp of the kept half, less a bit if that half is even; overflow carries into infinity, rightly.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
