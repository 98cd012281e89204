//! Root mean square normalization.

use crate::{Bf16Slice, Isa};

/// Each row of `x` divided by its root mean square and multiplied by `weight`:
/// `out[t, i] = x[t, i] / sqrt(mean over j of x[t, j]² + eps) * weight[i]`.
///
/// `x` and `out` are `[num_tokens, weight.len()]`.
///
/// # Panics
/// If a shape does not fit or `weight` is empty.
pub fn rms_norm(_isa: Isa, x: &[f32], weight: Bf16Slice<'_>, eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "x is [num_tokens, {width}]"
    );
    assert_eq!(x.len(), out.len(), "out is shaped like x");
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = x * scale * weight.get(i);
        }
    }
}
