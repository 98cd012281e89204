//! Kernels that go over numbers once: clamped SwiGLU, sums, widening, rounding to bf16.

use crate::vector::{LANES, Vector, exp};
use crate::{Bf16Slice, Isa};

/// GPT-OSS's clamped SwiGLU over interleaved pairs:
/// `out[i] = (up + 1) * gate * sigmoid(1.702 * gate)` with `gate = min(gate_up[2i], limit)` and
/// `up = clamp(gate_up[2i + 1], -limit, limit)`. The limit is 7 in the published models.
///
/// `gate_up` is `[num_tokens, 2 * intermediate]`, `out` `[num_tokens, intermediate]`.
/// Source: openai/gpt-oss `gpt_oss/torch/model.py::swiglu`.
///
/// # Panics
/// If a shape does not fit.
pub fn swiglu(isa: Isa, gate_up: &[f32], limit: f32, out: &mut [f32]) {
    assert_eq!(
        gate_up.len(),
        2 * out.len(),
        "one gate and one up per output"
    );
    // SAFETY: the lengths are checked.
    unsafe { swiglu_unchecked(isa, gate_up, limit, out) }
}

dispatch! { fn swiglu_unchecked = swiglu_generic(gate_up: &[f32], limit: f32, out: &mut [f32]) }

#[inline(always)]
unsafe fn swiglu_generic<V: Vector>(gate_up: &[f32], limit: f32, out: &mut [f32]) {
    let whole = out.len() / LANES * LANES;
    // SAFETY: `gate_up` is twice as long as `out`; the last pairs are copied to a buffer of full width.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            let pairs = gate_up.as_ptr().add(2 * i);
            gated::<V>(pairs, limit).store(out.as_mut_ptr().add(i));
        }
        let rest = out.len() - whole;
        if rest > 0 {
            let mut pairs = [0.0; 2 * LANES];
            pairs[..2 * rest].copy_from_slice(&gate_up[2 * whole..]);
            gated::<V>(pairs.as_ptr(), limit).store_partial(out.as_mut_ptr().add(whole), rest);
        }
    }
}

/// Eight gated numbers from eight pairs.
#[inline(always)]
unsafe fn gated<V: Vector>(pairs: *const f32, limit: f32) -> V {
    // SAFETY: the caller vouches for sixteen readable numbers.
    unsafe {
        let (gate, up) = V::load(pairs).deinterleave(V::load(pairs.add(LANES)));
        let (one, limit, lowest) = (V::splat(1.0), V::splat(limit), V::splat(-limit));
        let gate = gate.min(limit);
        let up = up.min(limit).max(lowest);
        let sigmoid_denominator = exp(gate.mul(V::splat(-1.702))).add(one);
        up.add(one).mul(gate).div(sigmoid_denominator)
    }
}

/// `sum[i] += x[i]`: the residual.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(isa: Isa, sum: &mut [f32], x: &[f32]) {
    add_scaled(isa, sum, 1.0, x);
}

/// `sum[i] += scale * x[i]`: one expert's share of a token.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(isa: Isa, sum: &mut [f32], scale: f32, x: &[f32]) {
    assert_eq!(sum.len(), x.len(), "summands of one shape");
    // SAFETY: the lengths are checked.
    unsafe { add_scaled_unchecked(isa, sum, scale, x) }
}

dispatch! { fn add_scaled_unchecked = add_scaled_generic(sum: &mut [f32], scale: f32, x: &[f32]) }

#[inline(always)]
unsafe fn add_scaled_generic<V: Vector>(sum: &mut [f32], scale: f32, x: &[f32]) {
    let whole = sum.len() / LANES * LANES;
    // SAFETY: the slices are equally long.
    unsafe {
        let scale = V::splat(scale);
        for i in (0..whole).step_by(LANES) {
            let sum = sum.as_mut_ptr().add(i);
            V::load(x.as_ptr().add(i))
                .mul_add(scale, V::load(sum))
                .store(sum);
        }
        let rest = sum.len() - whole;
        if rest > 0 {
            let (sum, x) = (sum.as_mut_ptr().add(whole), x.as_ptr().add(whole));
            V::load_partial(x, rest)
                .mul_add(scale, V::load_partial(sum, rest))
                .store_partial(sum, rest);
        }
    }
}

/// `out[i] = x[i]`, exactly: an embedding row, a bias, sinks.
///
/// # Panics
/// If the lengths differ.
pub fn widen_bf16(isa: Isa, x: Bf16Slice<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many numbers out as in");
    // SAFETY: the lengths are checked.
    unsafe { widen_unchecked(isa, x, out) }
}

dispatch! { fn widen_unchecked = widen_generic(x: Bf16Slice<'_>, out: &mut [f32]) }

#[inline(always)]
unsafe fn widen_generic<V: Vector>(x: Bf16Slice<'_>, out: &mut [f32]) {
    let whole = out.len() / LANES * LANES;
    // SAFETY: there are as many numbers in `x` as in `out`.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            V::load_bf16(x.as_ptr().add(2 * i)).store(out.as_mut_ptr().add(i));
        }
        let rest = out.len() - whole;
        if rest > 0 {
            let last = V::load_bf16_partial(x.as_ptr().add(2 * whole), rest);
            last.store_partial(out.as_mut_ptr().add(whole), rest);
        }
    }
}

/// To the nearest bf16, ties to even; NaN stays NaN.
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Keep it a NaN even if its payload is all in the half that is cut off.
        return (bits >> 16) as u16 | 0x40;
    }
    // Half an ulp of the kept half, less a bit if that half is even; overflow carries into infinity, rightly.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;

    #[test]
    fn rounding_to_bf16_takes_the_nearest() {
        // Around every bf16 number: itself, just above, just below half way, half way, just above.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                let rounded = to_bf16(x);
                if x.is_nan() {
                    assert!(naive::bf16(rounded).is_nan(), "{high:x} {low:x}");
                } else {
                    assert_eq!(rounded, naive::to_bf16(x), "{high:x} {low:x}");
                }
            }
        }
    }
}
