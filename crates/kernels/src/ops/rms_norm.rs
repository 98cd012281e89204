//! Root mean square normalization.

use crate::vector::{LANES, Vector};
use crate::{Bf16Slice, Isa};

/// Each row of `x` divided by its root mean square and multiplied by `weight`:
/// `out[t, i] = x[t, i] / sqrt(mean over j of x[t, j]² + eps) * weight[i]`.
///
/// `x` and `out` are `[num_tokens, weight.len()]`.
///
/// # Panics
/// If a shape does not fit or `weight` is empty.
pub fn rms_norm(isa: Isa, x: &[f32], weight: Bf16Slice<'_>, eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(
        width > 0 && x.len().is_multiple_of(width),
        "x is [num_tokens, {width}]"
    );
    assert_eq!(x.len(), out.len(), "out is shaped like x");
    // SAFETY: the shapes are checked.
    unsafe { rows(isa, x, weight, eps, out) }
}

dispatch! { fn rows = rows_generic(x: &[f32], weight: Bf16Slice<'_>, eps: f32, out: &mut [f32]) }

#[inline(always)]
unsafe fn rows_generic<V: Vector>(x: &[f32], weight: Bf16Slice<'_>, eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let (whole, rest) = (width / LANES * LANES, width % LANES);
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let (x, weight, out) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
        // SAFETY: all three have `width` numbers.
        unsafe {
            let mut squares = V::splat(0.0);
            for i in (0..whole).step_by(LANES) {
                let x = V::load(x.add(i));
                squares = x.mul_add(x, squares);
            }
            if rest > 0 {
                let x = V::load_partial(x.add(whole), rest);
                squares = x.mul_add(x, squares);
            }
            let scale = V::splat(1.0 / (squares.sum() / width as f32 + eps).sqrt());
            for i in (0..whole).step_by(LANES) {
                let weight = V::load_bf16(weight.add(2 * i));
                V::load(x.add(i)).mul(scale).mul(weight).store(out.add(i));
            }
            if rest > 0 {
                let weight = V::load_bf16_partial(weight.add(2 * whole), rest);
                let x = V::load_partial(x.add(whole), rest);
                x.mul(scale).mul(weight).store_partial(out.add(whole), rest);
            }
        }
    }
}
