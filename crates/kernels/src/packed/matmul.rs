//! `y = x Wᵀ + bias` with rounded activations and packed weights, and the gated form of it for experts.
//!
//! ```text
//! for TOKENS tokens at a time:        (their activations stay in L2)
//!   for each group of rows:           (its weights stay in L1)
//!     for N tokens at a time:         N accumulators; each block of weights is decoded once for all of them
//! ```
//! With one token that is one pass over the weights in the order they lie in memory, a little ahead of which they are
//! prefetched. With many, where decoding costs much beside multiplying ([`Products::PANELS`]), it is done once for all
//! tokens of the first loop, two groups at a time.
//! Invariant: an output does not depend on the way its token went, to the last bit.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::QUANT_BLOCK;
use super::lanes::{Format, Int8, Lanes, Mxfp4, Products};
use super::pack::{PackedFormat, PackedMatrix};
use super::quantize::{QuantBlock, quantize};
use crate::{ColumnsMut, swiglu};

/// Tokens whose activations are kept close: 2880 columns of 64 tokens are 276 KB.
const TOKENS: usize = 64;
/// Bytes ahead of which weights are prefetched; their scales are by a whole group.
const AHEAD: usize = 8192;
const CACHE_LINE: usize = 64;
/// Blocks that are decoded at a time where many tokens share them: with 16 rows they fill a quarter of the first cache.
const PANEL_BLOCKS: usize = 15;
/// Tokens of a tile of a panel.
const PANEL_TOKENS: usize = 4;
/// Tokens from which on a panel pays.
const PANEL_LEAST: usize = 12;
/// Blocks of gated outputs between two rounds of gating, where there are few tokens: pipelines run on from one to the next.
const BLOCKS_AT_ONCE: usize = 8;

/// Checked arguments.
pub(super) struct Job<'a> {
    /// `[any, blocks]`.
    pub x: &'a [QuantBlock],
    /// The rows of `x` to multiply.
    pub tokens: &'a [u32],
    pub weights: PackedMatrix<'a>,
    /// `[rows of the weights]`, or nothing.
    pub bias: &'a [f32],
    pub rows: Range<usize>,
}

impl<'a> Job<'a> {
    fn new(
        x: &'a [QuantBlock],
        tokens: &'a [u32],
        weights: PackedMatrix<'a>,
        bias: Option<&'a [f32]>,
        rows: Range<usize>,
    ) -> Self {
        let blocks = weights.layout.blocks;
        assert!(x.len().is_multiple_of(blocks), "x is [_, {blocks}]");
        let num_rows = x.len() / blocks;
        assert!(
            tokens.iter().all(|token| (*token as usize) < num_rows),
            "a token past the {num_rows} of x"
        );
        assert!(
            rows.start <= rows.end && rows.end <= weights.rows(),
            "rows {rows:?} of {}",
            weights.rows()
        );
        assert!(
            rows.start.is_multiple_of(PackedMatrix::ROW_UNIT),
            "rows {rows:?} start inside of a group"
        );
        assert!(
            bias.is_none_or(|bias| bias.len() == weights.rows()),
            "one bias per weight row"
        );
        Job {
            x,
            tokens,
            weights,
            bias: bias.unwrap_or(&[]),
            rows,
        }
    }

    /// # Safety
    /// `token` is an index of `tokens`.
    #[inline(always)]
    unsafe fn activations(&self, token: usize) -> *const QuantBlock {
        // SAFETY: `new` has checked every token.
        unsafe {
            let row = *self.tokens.get_unchecked(token) as usize;
            self.x.as_ptr().add(row * self.weights.layout.blocks)
        }
    }
}

/// `out[t, j] = bias[rows.start + j] + sum over k of x[tokens[t], k] * weights[rows.start + j, k]`.
///
/// `x` is `[any, weights.cols() / 32]`, `out` is `[tokens.len(), rows.len()]`, `bias` (if any) `[weights.rows()]`.
/// `rows` starts at a multiple of [`PackedMatrix::ROW_UNIT`].
///
/// # Panics
/// If a shape does not fit.
pub fn packed_matmul(
    x: &[QuantBlock],
    tokens: &[u32],
    weights: PackedMatrix<'_>,
    bias: Option<&[f32]>,
    rows: Range<usize>,
    out: &mut ColumnsMut<'_>,
) {
    assert!(
        out.num_rows() == tokens.len() && out.width() == rows.len(),
        "out is [{}, {}]",
        tokens.len(),
        rows.len()
    );
    let job = Job::new(x, tokens, weights, bias, rows);
    #[cfg(target_arch = "x86_64")]
    if weights.isa.is_amx() {
        // SAFETY: `Job::new` has checked the shapes, and an `Isa` with AMX exists only where it may be used.
        return unsafe { super::amx::multiply(&job, out) };
    }
    // SAFETY: `Job::new` has checked the shapes, and the weights were packed for this `Isa`.
    unsafe {
        match weights.format {
            PackedFormat::Mxfp4 => mxfp4(weights.isa, &job, out),
            PackedFormat::Int8 => int8(weights.isa, &job, out),
        }
    }
}

dispatch_lanes! { fn mxfp4 = mxfp4_generic(job: &Job<'_>, out: &mut ColumnsMut<'_>) }
dispatch_lanes! { fn int8 = int8_generic(job: &Job<'_>, out: &mut ColumnsMut<'_>) }

#[inline(always)]
unsafe fn mxfp4_generic<L: Products<Mxfp4>>(job: &Job<'_>, out: &mut ColumnsMut<'_>) {
    // SAFETY: the caller's contract.
    unsafe { multiply::<L, Mxfp4>(job, out) }
}

#[inline(always)]
unsafe fn int8_generic<L: Products<Int8>>(job: &Job<'_>, out: &mut ColumnsMut<'_>) {
    // SAFETY: the caller's contract.
    unsafe { multiply::<L, Int8>(job, out) }
}

/// # Safety
/// `out` is `[tokens, rows]` of the job, and the weights are packed for `L` and `F`.
#[inline(always)]
unsafe fn multiply<L: Products<F>, F: Format>(job: &Job<'_>, out: &mut ColumnsMut<'_>) {
    let num_tokens = job.tokens.len();
    for first in (0..num_tokens).step_by(TOKENS) {
        let last = num_tokens.min(first + TOKENS);
        let mut row = job.rows.start;
        let mut put = |row: usize, token: usize, sums: L::Floats| {
            // SAFETY: the token exists, and so do as many rows from `row` on as are written.
            unsafe {
                let to = out.element_ptr(token, row - job.rows.start);
                let rows = job.rows.end - row;
                if rows >= L::ROWS {
                    L::store(sums, to);
                } else {
                    let mut lanes = [0.0; PackedMatrix::ROW_UNIT];
                    L::store(sums, lanes.as_mut_ptr());
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, rows);
                }
            }
        };
        while row < job.rows.end {
            let groups = 1 + usize::from(row + L::ROWS < job.rows.end);
            let mut done = first;
            if L::PANELS && groups == 2 && last - first >= PANEL_LEAST {
                // SAFETY: two groups have the rows from `row` on, and the tokens exist.
                done = unsafe { panel::<L, F>(job, row, first..last, &mut put) };
            }
            for _ in 0..groups {
                let take = |token, sums| put(row, token, sums);
                // SAFETY: the group has the rows from `row` on, and the tokens exist.
                unsafe { group::<L, F>(job, row, done..last, take) };
                row += L::ROWS;
            }
        }
    }
}

/// Hands the outputs of the group of rows that starts at `row` to `take`, token by token.
///
/// # Safety
/// `row` starts a group of the weights, which are packed for `L` and `F`; `tokens` are indexes of the job's.
#[inline(always)]
unsafe fn group<L: Products<F>, F: Format>(
    job: &Job<'_>,
    row: usize,
    tokens: Range<usize>,
    mut take: impl FnMut(usize, L::Floats),
) {
    let weights = job.weights.group(row / L::ROWS);
    let mut token = tokens.start;
    // SAFETY: the caller's contract; the tiles cover exactly `tokens`.
    unsafe {
        let bias = bias::<L>(job, row);
        while token < tokens.end {
            match tokens.end - token {
                1 => token = tile::<L, F, 1>(job, weights, bias, token, &mut take),
                2 => token = tile::<L, F, 2>(job, weights, bias, token, &mut take),
                3 => token = tile::<L, F, 3>(job, weights, bias, token, &mut take),
                4..8 => token = tile::<L, F, 4>(job, weights, bias, token, &mut take),
                8..12 if L::ROWS > 8 => {
                    token = tile::<L, F, 8>(job, weights, bias, token, &mut take)
                }
                12.. if L::ROWS > 8 => {
                    token = tile::<L, F, 12>(job, weights, bias, token, &mut take)
                }
                _ => token = tile::<L, F, 4>(job, weights, bias, token, &mut take),
            }
        }
    }
}

/// The weights of two groups of rows in [`PANEL_BLOCKS`] blocks, ready to be multiplied.
struct Panel<W, S> {
    weights: [[[[W; 2]; 2]; QUANT_BLOCK / 8]; PANEL_BLOCKS],
    scales: [[S; 2]; PANEL_BLOCKS],
}

/// The two groups that start at `row`, as many whole tiles of the tokens as there are; returns the first token that is
/// left.
///
/// A [`Panel`] at a time is decoded for all tokens, and every activation that is loaded serves both groups. The sums in f32
/// find no room in registers beside those in sixteen bits, and wait in the first cache.
///
/// # Safety
/// As for [`group`], and there are two groups.
#[inline(always)]
unsafe fn panel<L: Products<F>, F: Format>(
    job: &Job<'_>,
    row: usize,
    tokens: Range<usize>,
    put: &mut impl FnMut(usize, usize, L::Floats),
) -> usize {
    let layout = job.weights.layout;
    let (block_bytes, scale_bytes) = (L::ROWS * F::ROW_BYTES, L::ROWS * F::SCALE_BYTES);
    let tiles = tokens.len() / PANEL_TOKENS;
    // Hidden from the compiler: unrolled, it wants more registers than there are.
    let parts = std::hint::black_box(QUANT_BLOCK / 8);
    // SAFETY: the caller's contract; of the panel that is read which was written just before.
    unsafe {
        let mut panel = MaybeUninit::<Panel<L::Weights, L::Floats>>::uninit();
        let panel = panel.as_mut_ptr();
        let mut sums = [[[L::zeros(); 2]; PANEL_TOKENS]; TOKENS / PANEL_TOKENS];
        for first in (0..layout.blocks).step_by(PANEL_BLOCKS) {
            let len = PANEL_BLOCKS.min(layout.blocks - first);
            for g in 0..2 {
                let weights = job.weights.group(row / L::ROWS + g);
                // What comes next, while this is multiplied: the blocks behind these, or the next two groups' first.
                let next = match first + len < layout.blocks {
                    true => len * block_bytes,
                    false => 2 * layout.group_bytes() - first * block_bytes,
                };
                let scales = weights.add(layout.scales() + first * scale_bytes);
                for b in 0..len {
                    let block = weights.add((first + b) * block_bytes);
                    for line in (0..block_bytes).step_by(CACHE_LINE) {
                        prefetch(block.wrapping_add(next + line));
                    }
                    for part in 0..QUANT_BLOCK / 8 {
                        (*panel).weights[b][part][g] = L::weights(block, part);
                    }
                    (*panel).scales[b][g] = L::scales(scales.add(b * scale_bytes));
                }
            }
            for (tile, sums) in sums[..tiles].iter_mut().enumerate() {
                let mut x = [std::ptr::null::<QuantBlock>(); PANEL_TOKENS];
                for (n, x) in x.iter_mut().enumerate() {
                    *x = (job.activations(tokens.start + tile * PANEL_TOKENS + n)).add(first);
                }
                for b in 0..len {
                    let mut products: [[L::Sums; 2]; PANEL_TOKENS] =
                        std::array::from_fn(|n| [L::start(x[n].add(b)); 2]);
                    for part in 0..parts {
                        let weights = &(*panel).weights[b][part];
                        for n in 0..PANEL_TOKENS {
                            let x = x[n].add(b).cast::<i8>().add(8 * part);
                            for g in 0..2 {
                                products[n][g] = L::dot(products[n][g], weights[g], x);
                            }
                        }
                    }
                    for n in 0..PANEL_TOKENS {
                        let scale = (*x[n].add(b)).scale;
                        for g in 0..2 {
                            let sum = &raw mut sums[n][g];
                            let total = L::total(products[n][g]);
                            let scales = (*panel).scales[b][g];
                            sum.write_volatile(L::add_scaled(
                                sum.read_volatile(),
                                total,
                                scale,
                                scales,
                            ));
                        }
                    }
                }
            }
        }
        for g in 0..2 {
            let row = row + g * L::ROWS;
            let bias = bias::<L>(job, row);
            for (tile, sums) in sums[..tiles].iter().enumerate() {
                for (n, sums) in sums.iter().enumerate() {
                    let token = tokens.start + tile * PANEL_TOKENS + n;
                    put(row, token, L::mul_add(sums[g], F::UNIT, bias));
                }
            }
        }
    }
    tokens.start + tiles * PANEL_TOKENS
}

/// The biases of the rows from `row` on, zero where there are none.
#[inline(always)]
unsafe fn bias<L: Lanes>(job: &Job<'_>, row: usize) -> L::Floats {
    // SAFETY: reads `L::ROWS` numbers, of the biases or of a copy of that length.
    unsafe {
        if job.bias.len() >= row + L::ROWS {
            return L::load(job.bias.as_ptr().add(row));
        }
        let mut lanes = [0.0; PackedMatrix::ROW_UNIT];
        if row < job.bias.len() {
            lanes[..job.bias.len() - row].copy_from_slice(&job.bias[row..]);
        }
        L::load(lanes.as_ptr())
    }
}

/// `N` tokens; returns the one after them.
#[inline(always)]
unsafe fn tile<L: Products<F>, F: Format, const N: usize>(
    job: &Job<'_>,
    weights: *const u8,
    bias: L::Floats,
    token: usize,
    take: &mut impl FnMut(usize, L::Floats),
) -> usize {
    let layout = job.weights.layout;
    let (block_bytes, scale_bytes) = (L::ROWS * F::ROW_BYTES, L::ROWS * F::SCALE_BYTES);
    // SAFETY: the group has `layout.blocks` blocks and as many times `ROWS` scales; every token as many blocks.
    unsafe {
        let scales = weights.add(layout.scales());
        let mut x = [std::ptr::null::<QuantBlock>(); N];
        for (n, x) in x.iter_mut().enumerate() {
            *x = job.activations(token + n);
        }
        let mut sums = [L::zeros(); N];
        for b in 0..layout.blocks {
            let block = weights.add(b * block_bytes);
            for line in (0..block_bytes).step_by(CACHE_LINE) {
                prefetch(block.wrapping_add(AHEAD + line));
            }
            // The next group's scales lie behind all of its blocks, and its first block needs them.
            if (b * scale_bytes) % CACHE_LINE < scale_bytes {
                prefetch(scales.wrapping_add(layout.group_bytes() + b * scale_bytes));
            }
            let mut products: [L::Sums; N] = std::array::from_fn(|n| L::start(x[n].add(b)));
            for part in 0..QUANT_BLOCK / 8 {
                let weights = L::weights(block, part);
                for n in 0..N {
                    let x = x[n].add(b).cast::<i8>().add(8 * part);
                    products[n] = L::in_order(L::dot(products[n], weights, x));
                }
            }
            let scales = L::scales(scales.add(b * scale_bytes));
            for n in 0..N {
                let scale = (*x[n].add(b)).scale;
                sums[n] = L::add_scaled(sums[n], L::total(products[n]), scale, scales);
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            take(token + n, L::mul_add(sums, F::UNIT, bias));
        }
    }
    token + N
}

/// Asks for a cache line. Any address will do: a prefetch never faults.
#[inline(always)]
pub(super) fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads nothing, and SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Gated expert projection: [`packed_matmul`] by interleaved gate and up rows, [`swiglu`], and rounding by [`quantize`].
///
/// Output `j` comes from the weight rows `2 j` and `2 j + 1`. `out` is `[tokens.len(), blocks.len()]`, the blocks of 32
/// outputs in `blocks`. Biases as in [`packed_matmul`].
///
/// # Panics
/// If a shape does not fit.
pub fn packed_swiglu(
    x: &[QuantBlock],
    tokens: &[u32],
    weights: PackedMatrix<'_>,
    bias: Option<&[f32]>,
    limit: f32,
    blocks: Range<usize>,
    out: &mut ColumnsMut<'_, QuantBlock>,
) {
    const WIDE: usize = 2 * QUANT_BLOCK;
    // What is computed between two rounds of gating: few tokens leave room for more than a block.
    const ROOM: usize = WIDE * TOKENS;
    assert!(
        out.num_rows() == tokens.len() && out.width() == blocks.len(),
        "out is [{}, {}]",
        tokens.len(),
        blocks.len()
    );
    assert!(
        blocks.end * WIDE <= weights.rows(),
        "blocks {blocks:?} of {} rows",
        weights.rows()
    );
    let isa = weights.isa;
    let mut gate_up = [0.0; ROOM];
    for first in (0..tokens.len()).step_by(TOKENS) {
        let tokens = &tokens[first..tokens.len().min(first + TOKENS)];
        let at_once = (ROOM / WIDE / tokens.len()).min(BLOCKS_AT_ONCE);
        let mut run = |x: &[QuantBlock], tokens: &[u32]| {
            for start in blocks.clone().step_by(at_once) {
                let some = start..blocks.end.min(start + at_once);
                let gate_up = &mut gate_up[..some.len() * WIDE * tokens.len()];
                let mut wide = ColumnsMut::new(gate_up, tokens.len());
                let rows = some.start * WIDE..some.end * WIDE;
                packed_matmul(x, tokens, weights, bias, rows, &mut wide);
                for (token, gate_up) in gate_up.chunks_exact(some.len() * WIDE).enumerate() {
                    let column = some.start - blocks.start;
                    let out = &mut out.row(first + token)[column..][..some.len()];
                    for (gate_up, out) in gate_up.as_chunks::<WIDE>().0.iter().zip(out) {
                        let mut gated = [0.0; QUANT_BLOCK];
                        swiglu(isa, gate_up, limit, &mut gated);
                        quantize(isa, &gated, std::slice::from_mut(out));
                    }
                }
            }
        };
        #[cfg(target_arch = "x86_64")]
        if isa.is_amx() {
            // Once for all blocks.
            let len = weights.layout.blocks;
            super::amx::with_adjacent(x, len, tokens, |x| run(x, &IN_ORDER[..tokens.len()]));
            continue;
        }
        run(x, tokens);
    }
}

/// 0, 1, 2, ...
#[cfg(target_arch = "x86_64")]
static IN_ORDER: [u32; TOKENS] = {
    let mut order = [0; TOKENS];
    let mut i = 0;
    while i < TOKENS {
        order[i] = i as u32;
        i += 1;
    }
    order
};
