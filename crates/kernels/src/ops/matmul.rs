//! `y = x Wᵀ + bias` for bf16 weights.

use std::ops::Range;

use crate::{Bf16Matrix, Bf16Slice, ColumnsMut, Isa};

/// `out[t, j] = bias[rows.start + j] + sum over k of x[t, k] * weights[rows.start + j, k]`.
///
/// `x` is `[num_tokens, weights.cols()]`, `out` `[num_tokens, rows.len()]`, `bias` (if any) `[weights.rows()]`.
///
/// # Panics
/// If a shape does not fit.
pub fn bf16_matmul(
    _isa: Isa,
    x: &[f32],
    weights: Bf16Matrix<'_>,
    rows: Range<usize>,
    bias: Option<Bf16Slice<'_>>,
    out: &mut ColumnsMut<'_>,
) {
    check_shapes(x, weights.rows(), weights.cols(), &rows, bias, out);
    for (t, x) in x.chunks_exact(weights.cols()).enumerate() {
        for (y, r) in out.row(t).iter_mut().zip(rows.clone()) {
            let row = weights.row(r);
            let sum: f32 = x.iter().enumerate().map(|(k, x)| x * row.get(k)).sum();
            *y = sum + bias.map_or(0.0, |bias| bias.get(r));
        }
    }
}

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
