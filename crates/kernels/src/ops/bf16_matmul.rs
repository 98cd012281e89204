//! `y = x Wᵀ + bias` for bf16 weights: projections, router, language head.
//!
//! A bf16 is the upper half of an f32, so widening a weight costs one shift; every tile reads the weights as they
//! lie in the checkpoint. The order of the additions is that of `tiling.rs`.

use std::ops::Range;

use crate::ops::tiling::{Job, Rows, TILE_TOKENS, Tiles, check_shapes, straight, tiled};
use crate::vector::{LANES, Vector};
use crate::{Bf16Matrix, Bf16Slice, ColumnsMut, Isa};

/// `out[t, j] = bias[rows.start + j] + sum over k of x[t, k] * weights[rows.start + j, k]`.
///
/// `x` is `[num_tokens, weights.cols()]`, `out` `[num_tokens, rows.len()]`, `bias` (if any)
/// `[weights.rows()]`. The number of columns is a multiple of 8, as every width of GPT-OSS is.
///
/// # Panics
/// If a shape does not fit.
pub fn bf16_matmul(
    isa: Isa,
    x: &[f32],
    weights: Bf16Matrix<'_>,
    rows: Range<usize>,
    bias: Option<Bf16Slice<'_>>,
    out: &mut ColumnsMut<'_>,
) {
    check_shapes(x, weights.rows(), weights.cols(), &rows, bias, out);
    assert!(
        weights.cols().is_multiple_of(LANES),
        "{} columns",
        weights.cols()
    );
    let job = Job {
        x,
        cols: weights.cols(),
        first_row: rows.start,
        bias,
    };
    // SAFETY: the shapes are checked, and a `Bf16Matrix` holds all its rows.
    unsafe { bf16(isa, weights, &job, out) }
}

dispatch! { fn bf16 = bf16_generic(weights: Bf16Matrix<'_>, job: &Job<'_>, out: &mut ColumnsMut<'_>) }

#[inline(always)]
unsafe fn bf16_generic<V: Vector>(
    weights: Bf16Matrix<'_>,
    job: &Job<'_>,
    out: &mut ColumnsMut<'_>,
) {
    let stride = 2 * weights.cols();
    let first = weights.as_ptr().wrapping_add(job.first_row * stride);
    let rows = Bf16Rows { first, stride };
    // SAFETY: `rows` covers the rows and columns of the job, in both branches.
    unsafe {
        if out.num_rows() <= TILE_TOKENS {
            straight::<V, _>(rows, job, out);
        } else {
            tiled::<V, _>(rows, job, out);
        }
    }
}

#[derive(Clone, Copy)]
struct Bf16Rows {
    first: *const u8,
    /// In bytes.
    stride: usize,
}

impl Bf16Rows {
    #[inline(always)]
    fn at(self, row: usize, col: usize) -> *const u8 {
        self.first.wrapping_add(row * self.stride + 2 * col)
    }
}

impl Tiles for Bf16Rows {
    type Tile = Bf16Rows;

    #[inline(always)]
    unsafe fn tile<V: Vector>(&mut self, row: usize, _: usize, col: usize, _: usize) -> Bf16Rows {
        Bf16Rows {
            first: self.at(row, col),
            ..*self
        }
    }
}

impl Rows for Bf16Rows {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, row: usize, col: usize) -> V {
        // SAFETY: the caller asks for rows and columns that exist.
        unsafe { V::load_bf16(self.at(row, col)) }
    }
}
