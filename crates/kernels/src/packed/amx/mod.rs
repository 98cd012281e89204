//! AMX: bf16 activations times weights that are made bf16 on the way, sixteen tokens by sixteen rows at a time.
//!
//! A tile product takes as long for one token as for sixteen, and needs no scaling afterwards: MXFP4 weights with their
//! power of two are bf16 numbers already, int8 weights with their scale are rounded to bf16. What remains is to decode,
//! which is done once for all tokens of a call, and for one token takes no longer than reading the weights from memory.
//!
//! ```text
//! up to two tiles of tokens                  more
//!   for a strip of two or four groups:         for a strip of two groups:     (several streams from memory: one alone
//!     for each block:                            for a panel of blocks:        leaves bandwidth unused)
//!       decode a later one, into a ring            decode the next panel
//!       multiply; sums stay in tiles               multiply this one by all tokens; sums go to memory and back
//! ```
//! Every output is one accumulator, to which pairs of columns are added in ascending order; the last tile of tokens
//! overlaps the one before it instead of being shorter, and computes the same numbers again.

mod decode;
mod tiles;

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::matmul::{Job, prefetch};
use super::pack::{Layout, PackedFormat};
use super::quantize::QuantBlock;
use crate::ColumnsMut;

pub(crate) use decode::round;
pub(crate) use tiles::is_permitted;
use tiles::{Configured, TILE_BYTES, TILE_ROWS};

/// Rows of a group of packed weights: the columns of a tile.
const ROWS: usize = 16;
/// Tokens that share a decoded panel.
const TOKENS: usize = 128;
/// Bytes ahead of which weights are prefetched, in each of the groups that are read side by side.
const AHEAD: usize = 1024;
/// The same for scales, of which a block has fewer.
const SCALES_AHEAD: usize = 2 * CACHE_LINE;
const CACHE_LINE: usize = 64;

/// Tiles of weights between decoding and multiplying, so that what is loaded was stored long before.
const LEAD_TILES: usize = 12;
/// Tiles of decoded weights that are kept: a power of two, more than the lead.
const RING_TILES: usize = 16;

/// Groups that are computed side by side for two tiles of tokens.
const MANY_GROUPS: usize = 2;
/// Blocks that are decoded at a time for them: two panels and the activations for one stay in the first cache.
const MANY_BLOCKS: usize = 5;

/// Room for decoded weights.
#[repr(C, align(64))]
struct Panel([[u8; TILE_BYTES]; 2 * MANY_GROUPS * MANY_BLOCKS]);

const _: () = assert!(RING_TILES <= 2 * MANY_GROUPS * MANY_BLOCKS);

/// Room for accumulators.
#[repr(C, align(64))]
struct Sums([f32; TOKENS * MANY_GROUPS * ROWS]);

thread_local! {
    /// Activations side by side, for tokens that are not.
    static GATHERED: RefCell<Vec<QuantBlock>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with the rows `tokens` of `x`, `[any, blocks]`, side by side: in place if they are so already.
pub(crate) fn with_adjacent<R>(
    x: &[QuantBlock],
    blocks: usize,
    tokens: &[u32],
    work: impl FnOnce(&[QuantBlock]) -> R,
) -> R {
    let first = tokens.first().map_or(0, |token| *token as usize);
    if (first..).zip(tokens).all(|(i, token)| i == *token as usize) {
        return work(&x[first * blocks..][..tokens.len() * blocks]);
    }
    GATHERED.with_borrow_mut(|gathered| {
        gathered.clear();
        for token in tokens {
            gathered.extend_from_slice(&x[*token as usize * blocks..][..blocks]);
        }
        work(gathered)
    })
}

/// The products of `job`.
///
/// # Safety
/// This machine has AMX, its use is permitted, and `out` is `[tokens, rows]` of the job.
pub(crate) unsafe fn multiply(job: &Job<'_>, out: &mut ColumnsMut<'_>) {
    if job.rows.is_empty() {
        return;
    }
    let blocks = job.weights.layout.blocks;
    for first in (0..job.tokens.len()).step_by(TOKENS) {
        let tokens = &job.tokens[first..job.tokens.len().min(first + TOKENS)];
        with_adjacent(job.x, blocks, tokens, |x| {
            let configured = Configured::for_tokens(tokens.len());
            // SAFETY: the caller's contract; `x` holds as many whole tokens.
            unsafe {
                match job.weights.format {
                    PackedFormat::Mxfp4 => run::<Mxfp4>(job, x, &configured, first, out),
                    PackedFormat::Int8 => run::<Int8>(job, x, &configured, first, out),
                }
            }
        });
    }
}

/// All outputs of the job for the tokens in `x`, at most [`TOKENS`], those from `first` on.
///
/// # Safety
/// As for [`multiply`]; there are rows, and `x` is `[tokens, blocks]`, of as many tokens as the tiles are configured for.
unsafe fn run<F: Format>(
    job: &Job<'_>,
    x: &[QuantBlock],
    tiles: &Configured,
    first: usize,
    out: &mut ColumnsMut<'_>,
) {
    let num_tokens = x.len() / job.weights.layout.blocks;
    // SAFETY: the caller's contract.
    unsafe {
        match num_tokens.div_ceil(TILE_ROWS) {
            0 => {}
            1 => few::<F, 1, 4>(job, x, tiles, first, out),
            2 => few::<F, 2, 2>(job, x, tiles, first, out),
            _ => many::<F>(job, x, tiles, first, out),
        }
    }
}

/// How a block of a group lies in memory, and becomes a tile.
trait Format {
    /// Bytes of a block of sixteen rows, and of its scales: those of [`Layout`], but constant.
    const BLOCK_BYTES: usize;
    const SCALE_BYTES: usize;
    /// # Safety
    /// There is a block and its scales to read and a tile to write, and the machine has what `decode.rs` needs.
    unsafe fn decode(block: *const u8, scales: *const u8, tile: *mut u8);
}

struct Mxfp4;

impl Format for Mxfp4 {
    const BLOCK_BYTES: usize = 256;
    const SCALE_BYTES: usize = 16;
    #[inline(always)]
    unsafe fn decode(block: *const u8, scales: *const u8, tile: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { decode::mxfp4(block, scales, tile) }
    }
}

struct Int8;

impl Format for Int8 {
    const BLOCK_BYTES: usize = 512;
    const SCALE_BYTES: usize = 32;
    #[inline(always)]
    unsafe fn decode(block: *const u8, scales: *const u8, tile: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { decode::int8(block, scales, tile) }
    }
}

/// Where a block of each group of a strip lies, from the beginning of the group: it, its scales, and what to ask for when it
/// is decoded.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    scales: usize,
    ahead: usize,
    scales_ahead: usize,
}

impl Place {
    /// Of block `b`, where the next strip begins `groups` groups on.
    #[inline(always)]
    fn new<F: Format>(layout: Layout, b: usize, groups: usize) -> Self {
        let (all_blocks, group) = (layout.scales(), layout.group_bytes());
        let (block, scales) = (b * F::BLOCK_BYTES, all_blocks + b * F::SCALE_BYTES);
        // Behind the last block and the last scales come the first of the next strip.
        let ahead = block + AHEAD;
        let scales_ahead = scales + SCALES_AHEAD;
        Self {
            block,
            scales,
            ahead: match ahead < all_blocks {
                true => ahead,
                false => ahead - all_blocks + groups * group,
            },
            scales_ahead: match scales_ahead < group {
                true => scales_ahead,
                false => scales_ahead - group + all_blocks + groups * group,
            },
        }
    }

    /// Decodes the block of the group that begins at `weights`.
    ///
    /// # Safety
    /// As for [`Format::decode`].
    #[inline(always)]
    unsafe fn decode<F: Format>(self, weights: *const u8, tile: *mut u8) {
        for line in (0..F::BLOCK_BYTES).step_by(CACHE_LINE) {
            prefetch(weights.wrapping_add(self.ahead + line));
        }
        prefetch(weights.wrapping_add(self.scales_ahead));
        // SAFETY: the caller's contract.
        unsafe { F::decode(weights.add(self.block), weights.add(self.scales), tile) }
    }
}

/// [`run`] for one tile of tokens and four groups at a time, or for two of each: four accumulators hide how long a product
/// takes.
///
/// Decoding and multiplying alternate tile by tile, because the processor does both at the same time if it sees both.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn few<F: Format, const TILES: usize, const GROUPS: usize>(
    job: &Job<'_>,
    x: &[QuantBlock],
    tiles: &Configured,
    first: usize,
    out: &mut ColumnsMut<'_>,
) {
    let layout = job.weights.layout;
    let num_tokens = x.len() / layout.blocks;
    let row_bytes = layout.blocks * size_of::<QuantBlock>();
    let second = first_of_tile(TILES - 1, num_tokens) * row_bytes;
    let mut panel = MaybeUninit::<Panel>::uninit();
    let panel: *mut u8 = panel.as_mut_ptr().cast();
    let mut sums = MaybeUninit::<Sums>::uninit();
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    let num_groups = job.rows.len().div_ceil(ROWS);
    let first_group = job.rows.start / ROWS;
    // Where there is no group, the last one stands in, and what comes of it is not looked at.
    let strip = |start: usize| -> [*const u8; GROUPS] {
        std::array::from_fn(|g| {
            job.weights
                .group(first_group + (start + g).min(num_groups - 1))
        })
    };
    let lead = (LEAD_TILES / GROUPS).min(layout.blocks);
    // SAFETY: the panel has room for every tile between decoding and multiplying, the sums for the tiles of tokens with every
    // group; whatever is read of either was written before. Tiles of tokens lie within `x`.
    unsafe {
        let ring = |n: usize| panel.add(n * GROUPS % RING_TILES * TILE_BYTES);
        let mut weights = strip(0);
        for b in 0..lead {
            let place = Place::new::<F>(layout, b, GROUPS);
            for (g, weights) in weights.iter().enumerate() {
                place.decode::<F>(*weights, ring(b).add(g * TILE_BYTES));
            }
        }
        // Blocks of all strips, counted through: at the end of one the first blocks of the next are decoded.
        let mut n = 0;
        for start in (0..num_groups).step_by(GROUPS) {
            tiles.clear();
            for b in 0..layout.blocks - lead {
                let place = Place::new::<F>(layout, b + lead, GROUPS);
                let later = ring(n + lead);
                products::<TILES>(tiles, x.as_ptr().add(b), second, row_bytes, ring(n), |g| {
                    place.decode::<F>(weights[g], later.add(g * TILE_BYTES));
                });
                n += 1;
            }
            let is_last = start + GROUPS >= num_groups;
            weights = strip(start + GROUPS);
            for b in 0..lead {
                let place = Place::new::<F>(layout, b, GROUPS);
                let later = ring(n + lead);
                let x = x.as_ptr().add(layout.blocks - lead + b);
                products::<TILES>(tiles, x, second, row_bytes, ring(n), |g| {
                    if !is_last {
                        place.decode::<F>(weights[g], later.add(g * TILE_BYTES));
                    }
                });
                n += 1;
            }
            tiles.store::<TILES>(sums);
            let row = job.rows.start + start * ROWS;
            let rows = row..row + GROUPS.min(num_groups - start) * ROWS;
            finish::<GROUPS>(job, sums, rows, num_tokens, first, out);
        }
    }
}

/// The products of one block with all groups of a strip; before each group's, `between` gets its turn.
///
/// # Safety
/// `x` is the first token's block, the second tile of tokens, if there is one, begins `second` bytes later; `weights` are the
/// tiles of the groups.
#[inline(always)]
unsafe fn products<const TILES: usize>(
    tiles: &Configured,
    x: *const QuantBlock,
    second: usize,
    row_bytes: usize,
    weights: *const u8,
    between: impl Fn(usize),
) {
    let x = x.cast::<u8>();
    // SAFETY: the caller's contract.
    unsafe {
        tiles.load_tokens::<0>(x, row_bytes);
        if TILES == 2 {
            tiles.load_tokens::<1>(x.add(second), row_bytes);
        }
        between(0);
        tiles.load_weights::<0>(weights);
        tiles.multiply::<0, 0, 0>();
        if TILES == 2 {
            tiles.multiply::<2, 1, 0>();
        }
        between(1);
        tiles.load_weights::<1>(weights.add(TILE_BYTES));
        tiles.multiply::<1, 0, 1>();
        if TILES == 2 {
            tiles.multiply::<3, 1, 1>();
            return;
        }
        between(2);
        tiles.load_weights::<0>(weights.add(2 * TILE_BYTES));
        tiles.multiply::<2, 0, 0>();
        between(3);
        tiles.load_weights::<1>(weights.add(3 * TILE_BYTES));
        tiles.multiply::<3, 0, 1>();
    }
}

/// [`run`] for more tokens than that.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512bf16")]
unsafe fn many<F: Format>(
    job: &Job<'_>,
    x: &[QuantBlock],
    tiles: &Configured,
    first: usize,
    out: &mut ColumnsMut<'_>,
) {
    const STRIDE: usize = MANY_GROUPS * ROWS;
    const PANEL_BYTES: usize = MANY_GROUPS * MANY_BLOCKS * TILE_BYTES;
    let layout = job.weights.layout;
    let num_tokens = x.len() / layout.blocks;
    let row_bytes = layout.blocks * size_of::<QuantBlock>();
    let num_tiles = num_tokens.div_ceil(TILE_ROWS);
    let mut panel = MaybeUninit::<Panel>::uninit();
    let panel: *mut u8 = panel.as_mut_ptr().cast();
    let mut sums = MaybeUninit::<Sums>::uninit();
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    for row in (job.rows.start..job.rows.end).step_by(STRIDE) {
        let groups = (job.rows.end - row).div_ceil(ROWS).min(MANY_GROUPS);
        let weights: [*const u8; MANY_GROUPS] =
            std::array::from_fn(|g| job.weights.group(row / ROWS + g.min(groups - 1)));
        // SAFETY: there is room for two panels, and for the sums of every tile of tokens; whatever is read of either was
        // written before. Tiles of tokens lie within `x`.
        unsafe {
            let panel = |start: usize| panel.add(start / MANY_BLOCKS % 2 * PANEL_BYTES);
            let decode = |start: usize| {
                for b in start..layout.blocks.min(start + MANY_BLOCKS) {
                    let place = Place::new::<F>(layout, b, MANY_GROUPS);
                    for (g, weights) in weights.iter().enumerate() {
                        let tile = panel(start).add((g * MANY_BLOCKS + b - start) * TILE_BYTES);
                        place.decode::<F>(*weights, tile);
                    }
                }
            };
            sums.write_bytes(0, num_tiles * TILE_ROWS * STRIDE);
            decode(0);
            for start in (0..layout.blocks).step_by(MANY_BLOCKS) {
                // One panel ahead: what is loaded into a tile was stored long before.
                decode(start + MANY_BLOCKS);
                let len = MANY_BLOCKS.min(layout.blocks - start);
                let columns =
                    [0, MANY_BLOCKS * TILE_BYTES].map(|at| panel(start).add(at).cast_const());
                let tokens = |tile: usize| {
                    let blocks = x
                        .as_ptr()
                        .add(first_of_tile(tile, num_tokens) * layout.blocks + start);
                    blocks.cast::<u8>()
                };
                for tile in (0..num_tiles).step_by(2) {
                    let to = sums.add(tile * TILE_ROWS * STRIDE);
                    if tile + 1 < num_tiles {
                        let x = [tokens(tile), tokens(tile + 1)];
                        tiles.two_by_two(x, row_bytes, columns, to, len);
                    } else {
                        tiles.one_by_two(tokens(tile), row_bytes, columns, to, len);
                    }
                }
            }
            finish::<MANY_GROUPS>(job, sums, row..row + groups * ROWS, num_tokens, first, out);
        }
    }
}

/// The first token of a tile. The last of several tiles is whole as well: what it shares with the one before it, each sums
/// for itself.
#[inline(always)]
fn first_of_tile(tile: usize, num_tokens: usize) -> usize {
    (tile * TILE_ROWS).min(num_tokens.saturating_sub(TILE_ROWS))
}

/// `sums + bias`, of as many of the rows as the job has, for all tokens.
///
/// # Safety
/// The sums are `[tiles * 16, GROUPS * 16]`, and `out` is the job's.
#[target_feature(enable = "avx512f")]
unsafe fn finish<const GROUPS: usize>(
    job: &Job<'_>,
    sums: *const f32,
    rows: Range<usize>,
    num_tokens: usize,
    first: usize,
    out: &mut ColumnsMut<'_>,
) {
    use std::arch::x86_64::*;
    for (g, row) in rows.step_by(ROWS).enumerate() {
        let mask = (u32::MAX >> (32 - (job.rows.end - row).min(ROWS))) as u16;
        // SAFETY: only rows that exist are read and written; a bias has all of them.
        unsafe {
            let mut bias = _mm512_setzero_ps();
            if !job.bias.is_empty() {
                bias = _mm512_maskz_loadu_ps(mask, job.bias.as_ptr().add(row));
            }
            for token in 0..num_tokens {
                let tile = token / TILE_ROWS;
                let place = tile * TILE_ROWS + token - first_of_tile(tile, num_tokens);
                let sum = _mm512_loadu_ps(sums.add((place * GROUPS + g) * ROWS));
                let to = out.element_ptr(first + token, row - job.rows.start);
                _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sum, bias));
            }
        }
    }
}
