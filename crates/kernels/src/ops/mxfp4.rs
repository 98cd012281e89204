//! `y = x Wᵀ + bias` for MXFP4 weights.

use std::ops::Range;

use crate::ops::matmul::check_shapes;
use crate::{Bf16Slice, ColumnsMut, Isa, Mxfp4Matrix};

/// E2M1 in order of its four bits: sign, two of exponent, one of mantissa.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// `out[t, j] = bias[rows.start + j] + sum over k of x[t, k] * weights[rows.start + j, k]`.
///
/// `x` is `[num_tokens, weights.cols()]`, `out` `[num_tokens, rows.len()]`, `bias` (if any) `[weights.rows()]`.
///
/// # Panics
/// If a shape does not fit.
pub fn mxfp4_matmul(
    _isa: Isa,
    x: &[f32],
    weights: Mxfp4Matrix<'_>,
    rows: Range<usize>,
    bias: Option<Bf16Slice<'_>>,
    out: &mut ColumnsMut<'_>,
) {
    check_shapes(x, weights.rows(), weights.cols(), &rows, bias, out);
    for (t, x) in x.chunks_exact(weights.cols()).enumerate() {
        for (y, r) in out.row(t).iter_mut().zip(rows.clone()) {
            let (blocks, scales) = (weights.row_blocks(r), weights.row_scales(r));
            let mut sum = 0.0;
            for (k, x) in x.iter().enumerate() {
                let nibble = blocks[k / 2] >> (4 * (k % 2)) & 15;
                sum += x * E2M1[usize::from(nibble)] * (f32::from(scales[k / 32]) - 127.0).exp2();
            }
            *y = sum + bias.map_or(0.0, |bias| bias.get(r));
        }
    }
}
