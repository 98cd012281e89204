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
//! `storage.rs` knows how keys and values lie in memory, `online.rs` is the loop; both are written once for every
//! instruction set and every [`KvDtype`].

mod online;
mod storage;

use std::ops::Range;

use crate::vector::LANES;
use crate::{ColumnsMut, Isa};

pub use storage::{HEAD_DIM, KvCache, KvDtype, KvLayout, write_kv};

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
        keys.len() == values.len() && keys.len().is_multiple_of(layout.block_bytes()),
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
    let num_blocks = keys.len() / layout.block_bytes();
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
    unsafe {
        match layout.dtype {
            KvDtype::Bf16 => online::attend_bf16(isa, cache, queries, kv_heads, out),
            KvDtype::Int8 => online::attend_int8(isa, cache, queries, kv_heads, out),
        }
    }
}
