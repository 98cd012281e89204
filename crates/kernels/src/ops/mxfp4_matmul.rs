//! `y = x Wᵀ + bias` for MXFP4 weights, decoded in registers or one cache tile at a time.
//!
//! A decoded weight is its E2M1 number times its block's scale. That product is exact (a power of two), so
//! scaling the weights and not the block's partial sums costs no accuracy, makes the accumulation the one of
//! `tiling.rs`, and pays as soon as four tokens share a block.

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by token and row, in several arrays at once"
)]

use std::ops::Range;

use crate::ops::tiling::{Decoded, F32Rows, Job, TILE_TOKENS, Tiles, check_shapes, finish, tiled};
use crate::vector::{LANES, Vector};
use crate::{Bf16Slice, ColumnsMut, Isa, Mxfp4Matrix};

const BLOCK: usize = Mxfp4Matrix::BLOCK;

/// E8M0: `2^(byte - 127)` for 0..=254, NaN for 255. The smallest is a subnormal f32.
static SCALES: [f32; 256] = {
    let mut scales = [f32::NAN; 256];
    scales[0] = f32::from_bits(1 << 22);
    let mut byte = 1;
    while byte < 255 {
        scales[byte] = f32::from_bits((byte as u32) << 23);
        byte += 1;
    }
    scales
};

/// `out[t, j] = bias[rows.start + j] + sum over k of x[t, k] * weights[rows.start + j, k]`.
///
/// `x` is `[num_tokens, weights.cols()]`, `out` `[num_tokens, rows.len()]`, `bias` (if any)
/// `[weights.rows()]`.
///
/// # Panics
/// If a shape does not fit.
pub fn mxfp4_matmul(
    isa: Isa,
    x: &[f32],
    weights: Mxfp4Matrix<'_>,
    rows: Range<usize>,
    bias: Option<Bf16Slice<'_>>,
    out: &mut ColumnsMut<'_>,
) {
    check_shapes(x, weights.rows(), weights.cols(), &rows, bias, out);
    let job = Job {
        x,
        cols: weights.cols(),
        first_row: rows.start,
        bias,
    };
    // SAFETY: the shapes are checked, and an `Mxfp4Matrix` holds all its rows.
    unsafe { mxfp4(isa, weights, &job, out) }
}

dispatch! { fn mxfp4 = mxfp4_generic(weights: Mxfp4Matrix<'_>, job: &Job<'_>, out: &mut ColumnsMut<'_>) }

#[inline(always)]
unsafe fn mxfp4_generic<V: Vector>(
    weights: Mxfp4Matrix<'_>,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    // SAFETY: the caller's contract is that of the callees.
    unsafe {
        match out.num_rows() {
            1 => straight::<V, 4, 1>(weights, job, out),
            2 => straight::<V, 2, 2>(weights, job, out),
            3 => straight::<V, 2, 3>(weights, job, out),
            TILE_TOKENS => straight::<V, 2, 4>(weights, job, out),
            _ => {
                let first_row = job.first_row;
                tiled::<V, _>(
                    Decoder {
                        weights,
                        first_row,
                        decoded: Decoded::new(),
                    },
                    job,
                    out,
                );
            }
        }
    }
}

/// Gives the weights one decoded cache tile at a time.
struct Decoder<'a> {
    weights: Mxfp4Matrix<'a>,
    first_row: usize,
    decoded: Decoded,
}

impl Tiles for Decoder<'_> {
    type Tile = F32Rows;

    #[inline(always)]
    unsafe fn tile<V: Vector>(
        &mut self,
        row: usize,
        height: usize,
        col: usize,
        width: usize,
    ) -> F32Rows {
        for r in 0..height {
            let out = &mut self.decoded.row_mut(r)[..width];
            // SAFETY: the caller vouches for the instruction set; everything else is a slice.
            unsafe { decode_row::<V>(self.weights, self.first_row + row + r, col, out) };
        }
        self.decoded.rows()
    }
}

/// The columns from `col` of one row. `col` and `out.len()` are whole blocks.
///
/// With pointers: an iterator that fails to be inlined here is called once a block, without AVX.
#[inline(always)]
unsafe fn decode_row<V: Vector>(weights: Mxfp4Matrix<'_>, row: usize, col: usize, out: &mut [f32]) {
    let blocks = weights.row_blocks(row)[col / 2..][..out.len() / 2].as_ptr();
    let scales = weights.row_scales(row)[col / BLOCK..][..out.len() / BLOCK].as_ptr();
    for b in 0..out.len() / BLOCK {
        // SAFETY: there are as many blocks of 16 bytes, and as many scales, as blocks of 32 numbers in `out`.
        unsafe {
            let scale = V::splat(SCALES[usize::from(*scales.add(b))]);
            let [w0, w1, w2, w3] = V::load_e2m1(blocks.add(b * BLOCK / 2));
            let out = out.as_mut_ptr().add(b * BLOCK);
            w0.mul(scale).store(out);
            w1.mul(scale).store(out.add(LANES));
            w2.mul(scale).store(out.add(2 * LANES));
            w3.mul(scale).store(out.add(3 * LANES));
        }
    }
}

/// `N` tokens, few enough that each block is decoded in registers and used at once.
#[inline(always)]
unsafe fn straight<V: Vector, const R: usize, const N: usize>(
    weights: Mxfp4Matrix<'_>,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let num_rows = out.width();
    let mut row = 0;
    // SAFETY: the caller's contract; there are N tokens.
    unsafe {
        while row + R <= num_rows {
            straight_rows::<V, R, N>(weights, job, out, row);
            row += R;
        }
        while row < num_rows {
            straight_rows::<V, 1, N>(weights, job, out, row);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn straight_rows<V: Vector, const R: usize, const N: usize>(
    weights: Mxfp4Matrix<'_>,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
    row: usize,
) {
    let num_blocks = job.cols / BLOCK;
    let first = job.first_row + row;
    let mut blocks = [weights.row_blocks(first).as_ptr(); R];
    let mut scales = [weights.row_scales(first).as_ptr(); R];
    for r in 1..R {
        blocks[r] = weights.row_blocks(first + r).as_ptr();
        scales[r] = weights.row_scales(first + r).as_ptr();
    }
    // SAFETY: every row has `num_blocks` blocks of 16 bytes and as many scales, every token `job.cols` numbers.
    unsafe {
        let mut sums = [[V::splat(0.0); R]; N];
        for b in 0..num_blocks {
            for r in 0..R {
                let scale = V::splat(SCALES[usize::from(*scales[r].add(b))]);
                let w = V::load_e2m1(blocks[r].add(b * BLOCK / 2));
                for (i, w) in w.into_iter().enumerate() {
                    let w = w.mul(scale);
                    for n in 0..N {
                        let x = V::load(job.x.as_ptr().add(n * job.cols + b * BLOCK + i * LANES));
                        sums[n][r] = w.mul_add(x, sums[n][r]);
                    }
                }
            }
        }
        finish(sums, job, out, 0, row);
    }
}
