//! The tiling of `y = x Wᵀ + bias`, shared by both weight formats.
//!
//! Each output is one dot product, kept in one vector accumulator that takes the columns eight at a time
//! in ascending order, its lanes added at the end by `Vector::sum4`. Nothing else about an output depends
//! on where it lies, so tiles may have any shape: that is how batch invariance holds here.
//!
//! ```text
//! few tokens                           many tokens
//!   for R rows at a time:                for ROWS rows, for COLS columns: (weights stay in L1)
//!     for all columns:                     for N tokens, for R rows of them:
//!       R x N accumulators                   R x N accumulators, parked in `sums` between column chunks
//! ```
//! With few tokens a weight is used once or a few times: read it in order, at the speed of memory. With many
//! it is used from cache, and R x N = 4 x 3 accumulators keep two FMA units busy with 7 loads per 12 FMAs;
//! their lanes are then added four rows at a time and stored as four neighbours.
//!
//! Left out: several accumulators per output (faster for one token in cache, but a 4 x 3 tile has no registers
//! for them), software prefetch of the next rows (no gain within the noise for rows of 256 bytes, and a loss for
//! long ones), 3 x 4 tiles (the sums of three rows cost as much as those of four).

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by token and row, in several arrays at once"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::vector::{LANES, Vector};
use crate::{Bf16Slice, ColumnsMut};

/// Up to this many tokens, weights are read straight through.
pub(crate) const TILE_TOKENS: usize = 4;
/// Rows of a cache tile: a multiple of the 4 of a register tile.
const ROWS: usize = 12;
/// Tokens of a cache tile.
const TOKENS: usize = 64;
/// Columns of a cache tile: 12 rows of decoded MXFP4 take 12 KiB of L1. A multiple of 32.
const COLS: usize = 256;

/// The contract shared by both matrix multiplications.
pub(crate) fn check_shapes(
    x: &[f32],
    weight_rows: usize,
    cols: usize,
    rows: &Range<usize>,
    bias: Option<Bf16Slice<'_>>,
    out: &ColumnsMut<'_>,
) {
    assert!(
        rows.start <= rows.end && rows.end <= weight_rows,
        "rows {rows:?} of {weight_rows}"
    );
    assert_eq!(x.len(), out.num_rows() * cols, "x is [num_tokens, {cols}]");
    assert_eq!(out.width(), rows.len(), "one output column per weight row");
    assert!(
        bias.is_none_or(|bias| bias.len() == weight_rows),
        "one bias per weight row"
    );
}

/// What a multiplication reads besides the weights.
pub(crate) struct Job<'a> {
    /// `[num_tokens, cols]`.
    pub x: &'a [f32],
    pub cols: usize,
    /// The weight row of output column 0.
    pub first_row: usize,
    /// `[weight rows]`.
    pub bias: Option<Bf16Slice<'a>>,
}

/// Weights that can be read one cache tile after the other.
pub(crate) trait Tiles {
    type Tile: Rows;

    /// The part that starts at `(row, col)` (row 0 is output column 0), addressed from 0.
    unsafe fn tile<V: Vector>(
        &mut self,
        row: usize,
        height: usize,
        col: usize,
        width: usize,
    ) -> Self::Tile;
}

/// Rows of weights that can be read eight columns at a time.
pub(crate) trait Rows: Copy {
    unsafe fn load<V: Vector>(self, row: usize, col: usize) -> V;
}

/// Decoded weights, `[_, COLS]`.
#[derive(Clone, Copy)]
pub(crate) struct F32Rows {
    first: *const f32,
}

impl Rows for F32Rows {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, row: usize, col: usize) -> V {
        // SAFETY: the caller asks for rows and columns that exist.
        unsafe { V::load(self.first.add(row * COLS + col)) }
    }
}

/// Room for one cache tile of decoded weights.
pub(crate) struct Decoded([f32; ROWS * COLS]);

impl Decoded {
    pub(crate) fn new() -> Self {
        Decoded([0.0; ROWS * COLS])
    }

    /// Where the columns of `row` go.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32; COLS] {
        let row = self.0[row * COLS..].first_chunk_mut();
        row.expect("a cache tile has ROWS rows of COLS columns")
    }

    #[inline(always)]
    pub(crate) fn rows(&self) -> F32Rows {
        F32Rows {
            first: self.0.as_ptr(),
        }
    }
}

/// The accumulators of a register tile: `N` tokens by `R` rows.
type Tile<V, const R: usize, const N: usize> = [[V; R]; N];

#[inline(always)]
unsafe fn zeros<V: Vector, const R: usize, const N: usize>() -> Tile<V, R, N> {
    // SAFETY: no pointers; the caller vouches for the instruction set.
    unsafe { [[V::splat(0.0); R]; N] }
}

/// Adds `cols` columns of `R` rows times those of `N` tokens to their accumulators.
///
/// `x` points at the first of these columns in the first of these tokens.
#[inline(always)]
unsafe fn accumulate<V: Vector, W: Rows, const R: usize, const N: usize>(
    mut sums: Tile<V, R, N>,
    weights: W,
    row: usize,
    x: *const f32,
    x_stride: usize,
    cols: usize,
) -> Tile<V, R, N> {
    // SAFETY: the caller vouches for the rows, tokens and columns.
    unsafe {
        let mut col = 0;
        while col < cols {
            // A tile has no more tokens than rows: with R x N = 4 x 3, twelve sums, three x and one w
            // are exactly the sixteen registers of AVX2.
            let mut tokens = [V::splat(0.0); N];
            for n in 0..N {
                tokens[n] = V::load(x.add(n * x_stride + col));
            }
            for r in 0..R {
                let w: V = weights.load(row + r, col);
                for n in 0..N {
                    sums[n][r] = w.mul_add(tokens[n], sums[n][r]);
                }
            }
            col += LANES;
        }
    }
    sums
}

/// Adds up the lanes of finished accumulators, and writes them with their bias.
///
/// # Safety
/// `out` must have the tokens `token..token + N` and the columns `column..column + R`, and `job.bias` (if any)
/// their numbers.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector, const R: usize, const N: usize>(
    sums: Tile<V, R, N>,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
    token: usize,
    column: usize,
) {
    // SAFETY: the caller vouches for the tokens and columns; `count` is at most 4.
    unsafe {
        for n in 0..N {
            for start in (0..R).step_by(4) {
                let count = if R - start < 4 { R - start } else { 4 };
                let mut four = [V::splat(0.0); 4];
                four[..count].copy_from_slice(&sums[n][start..start + count]);
                let mut values = V::sum4(four);
                if let Some(bias) = job.bias {
                    for r in 0..count {
                        values[r] += bias.get_unchecked(job.first_row + column + start + r);
                    }
                }
                let to = out.element_ptr(token + n, column + start);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
            }
        }
    }
}

/// At most `TILE_TOKENS` tokens: every weight is read from memory once, in order.
///
/// # Safety
/// `weights` must have `out.width()` rows of `job.cols` columns.
#[inline(always)]
pub(crate) unsafe fn straight<V: Vector, W: Rows>(
    weights: W,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    // SAFETY: the caller's contract is that of the callees, and the tokens exist.
    unsafe {
        match out.num_rows() {
            1 => straight_tiles::<V, W, 8, 1, 0>(weights, job, out),
            2 => straight_tiles::<V, W, 4, 2, 0>(weights, job, out),
            3 => straight_tiles::<V, W, 4, 3, 0>(weights, job, out),
            _ => straight_tiles::<V, W, 4, 2, 2>(weights, job, out),
        }
    }
}

/// `N + M` tokens, the weights of the latter from L1.
#[inline(always)]
unsafe fn straight_tiles<V: Vector, W: Rows, const R: usize, const N: usize, const M: usize>(
    weights: W,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let num_rows = out.width();
    let mut row = 0;
    // SAFETY: the caller's contract.
    unsafe {
        while row + R <= num_rows {
            straight_tile::<V, W, R, N>(weights, job, out, row, 0);
            if M > 0 {
                straight_tile::<V, W, R, M>(weights, job, out, row, N);
            }
            row += R;
        }
        while row < num_rows {
            straight_tile::<V, W, 1, N>(weights, job, out, row, 0);
            if M > 0 {
                straight_tile::<V, W, 1, M>(weights, job, out, row, N);
            }
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn straight_tile<V: Vector, W: Rows, const R: usize, const N: usize>(
    weights: W,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
    row: usize,
    token: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = job.x.as_ptr().add(token * job.cols);
        let sums = accumulate::<V, W, R, N>(zeros(), weights, row, x, job.cols, job.cols);
        finish(sums, job, out, token, row);
    }
}

/// Many tokens: cache tiles of weights, each used by all tokens of a cache tile before the next.
///
/// # Safety
/// `weights` must be able to give any rows below `out.width()` and columns below `job.cols`.
#[inline(always)]
pub(crate) unsafe fn tiled<V: Vector, W: Tiles>(
    mut weights: W,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let (num_tokens, num_rows) = (out.num_rows(), out.width());
    let mut sums = [const { MaybeUninit::<V>::uninit() }; ROWS * TOKENS];
    for token in (0..num_tokens).step_by(TOKENS) {
        let end = num_tokens.min(token + TOKENS);
        for row in (0..num_rows).step_by(ROWS) {
            let height = ROWS.min(num_rows - row);
            for col in (0..job.cols).step_by(COLS) {
                let width = COLS.min(job.cols - col);
                // SAFETY: the rows and columns exist.
                let weights = unsafe { weights.tile::<V>(row, height, col, width) };
                let mut tile = CacheTile {
                    weights,
                    row,
                    height,
                    col,
                    width,
                    sums: &mut sums,
                };
                let mut next = token;
                // SAFETY: the tile's rows, tokens and columns exist; columns come in order.
                unsafe {
                    while next < end {
                        // Threes, but rather two twos at the end than a three and a slow one.
                        match end - next {
                            1 => tile.tokens::<4, 1>(job, out, next, next - token),
                            2 | 4 => tile.tokens::<4, 2>(job, out, next, next - token),
                            _ => tile.tokens::<4, 3>(job, out, next, next - token),
                        }
                        next += match end - next {
                            1 => 1,
                            2 | 4 => 2,
                            _ => 3,
                        };
                    }
                }
            }
        }
    }
}

/// `height` rows by `width` columns of weights, and the accumulators of a tile of tokens on these rows.
struct CacheTile<'s, V, W> {
    weights: W,
    row: usize,
    height: usize,
    col: usize,
    width: usize,
    sums: &'s mut [MaybeUninit<V>; ROWS * TOKENS],
}

impl<V: Vector, W: Rows> CacheTile<'_, V, W> {
    /// Multiplies `N` tokens, starting with `token`, the `index`-th of this cache tile.
    #[inline(always)]
    unsafe fn tokens<const R: usize, const N: usize>(
        &mut self,
        job: &Job<'_>,
        out: &mut ColumnsMut<'_>,
        token: usize,
        index: usize,
    ) {
        let mut row = 0;
        // SAFETY: the caller's contract.
        unsafe {
            while row + R <= self.height {
                self.step::<R, N>(job, out, token, index, row);
                row += R;
            }
            while row < self.height {
                self.step::<1, N>(job, out, token, index, row);
                row += 1;
            }
        }
    }

    /// One register tile: continue where the columns before left off, and finish or park it.
    #[inline(always)]
    unsafe fn step<const R: usize, const N: usize>(
        &mut self,
        job: &Job<'_>,
        out: &mut ColumnsMut<'_>,
        token: usize,
        index: usize,
        row: usize,
    ) {
        // SAFETY: the caller's contract; the accumulators of this tile were parked by the columns before,
        // which cover exactly the same rows and tokens in the same tiles.
        unsafe {
            let mut sums = zeros::<V, R, N>();
            if self.col > 0 {
                for n in 0..N {
                    for r in 0..R {
                        let parked = self.sums.get_unchecked((index + n) * ROWS + row + r);
                        sums[n][r] = parked.assume_init();
                    }
                }
            }
            let x = job.x.as_ptr().add(token * job.cols + self.col);
            let sums = accumulate(sums, self.weights, row, x, job.cols, self.width);
            if self.col + self.width == job.cols {
                finish(sums, job, out, token, self.row + row);
            } else {
                for n in 0..N {
                    for r in 0..R {
                        let place = self.sums.get_unchecked_mut((index + n) * ROWS + row + r);
                        place.write(sums[n][r]);
                    }
                }
            }
        }
    }
}
