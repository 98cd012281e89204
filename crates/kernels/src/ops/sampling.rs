//! Reductions over a row of logits (201088 of them in GPT-OSS).
//!
//! Knows no sampling policy: the engine's sampler composes these. A NaN is never the maximum.

use crate::Isa;
use crate::vector::{LANES, Vector, exp};

/// Numbers looked at together when searching: a vectorized maximum first, one by one only in a hit.
const SEARCH: usize = 512;

/// The index of the largest number; the lowest index among equals. 0 if nothing is larger than -inf.
///
/// # Panics
/// If `x` is empty.
pub fn argmax(isa: Isa, x: &[f32]) -> usize {
    assert!(!x.is_empty(), "the maximum of nothing");
    let (mut best, mut best_run) = (f32::NEG_INFINITY, 0);
    for (run, numbers) in x.chunks(SEARCH).enumerate() {
        let max = max(isa, numbers);
        if max > best {
            (best, best_run) = (max, run);
        }
    }
    let first = best_run * SEARCH;
    // Nothing equals the best only if all numbers are NaN.
    first + x[first..].iter().position(|x| *x == best).unwrap_or(0)
}

/// The largest number, -inf for an empty slice.
pub fn max(isa: Isa, x: &[f32]) -> f32 {
    // SAFETY: a slice is valid.
    unsafe { max_unchecked(isa, x) }
}

dispatch! { fn max_unchecked = max_generic(x: &[f32]) -> f32 }

#[inline(always)]
unsafe fn max_generic<V: Vector>(x: &[f32]) -> f32 {
    let mut runs = x.chunks_exact(4 * LANES);
    // SAFETY: every load is within a run.
    let mut max = unsafe {
        // Four accumulators: a maximum takes four cycles, and two can start in each.
        let mut max = [V::splat(f32::NEG_INFINITY); 4];
        for run in &mut runs {
            for (i, max) in max.iter_mut().enumerate() {
                *max = V::load(run.as_ptr().add(i * LANES)).max(*max);
            }
        }
        let [a, b, c, d] = max;
        a.max(b).max(c.max(d)).max_lane()
    };
    for x in runs.remainder() {
        max = max.max(*x);
    }
    max
}

/// `sum over i of exp((x[i] - shift) * scale)`, with `shift` the maximum and `scale` one over the temperature.
pub fn sum_exp(isa: Isa, x: &[f32], shift: f32, scale: f32) -> f32 {
    // SAFETY: a slice is valid; nothing is written.
    unsafe { sum_exp_unchecked(isa, x, shift, scale) }
}

dispatch! { fn sum_exp_unchecked = sum_exp_generic(x: &[f32], shift: f32, scale: f32) -> f32 }

#[inline(always)]
unsafe fn sum_exp_generic<V: Vector>(x: &[f32], shift: f32, scale: f32) -> f32 {
    let whole = x.len() / LANES * LANES;
    // SAFETY: loads are within `x`.
    unsafe {
        let (shift, scale) = (V::splat(shift), V::splat(scale));
        let mut sum = V::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            sum = sum.add(exp(V::load(x.as_ptr().add(i)).sub(shift).mul(scale)));
        }
        let mut last = [0.0; LANES];
        let rest = x.len() - whole;
        if rest > 0 {
            let powers = exp(V::load_partial(x.as_ptr().add(whole), rest)
                .sub(shift)
                .mul(scale));
            powers.store_partial(last.as_mut_ptr(), rest);
        }
        sum.add(V::load(last.as_ptr())).sum()
    }
}

/// `sum over i of weights[i] * exp((x[i] - shift) * scale)`; as [`sum_exp`] where a number stands for several.
///
/// # Panics
/// If there is not one weight per number.
pub fn sum_exp_weighted(isa: Isa, x: &[f32], weights: &[f32], shift: f32, scale: f32) -> f32 {
    assert_eq!(x.len(), weights.len(), "one weight per number");
    // SAFETY: slices are valid and of one length; nothing is written.
    unsafe { sum_exp_weighted_unchecked(isa, x, weights, shift, scale) }
}

dispatch! { fn sum_exp_weighted_unchecked = sum_exp_weighted_generic(x: &[f32], weights: &[f32], shift: f32, scale: f32) -> f32 }

#[inline(always)]
unsafe fn sum_exp_weighted_generic<V: Vector>(
    x: &[f32],
    weights: &[f32],
    shift: f32,
    scale: f32,
) -> f32 {
    let whole = x.len() / LANES * LANES;
    let rest = x.len() - whole;
    // SAFETY: loads are within `x` and `weights`, which are equally long.
    unsafe {
        let (shift, scale) = (V::splat(shift), V::splat(scale));
        let mut sum = V::splat(0.0);
        for i in (0..whole).step_by(LANES) {
            let power = exp(V::load(x.as_ptr().add(i)).sub(shift).mul(scale));
            sum = power.mul_add(V::load(weights.as_ptr().add(i)), sum);
        }
        if rest > 0 {
            // Lanes beyond the end have the weight 0.
            let power = exp(V::load_partial(x.as_ptr().add(whole), rest)
                .sub(shift)
                .mul(scale));
            sum = power.mul_add(V::load_partial(weights.as_ptr().add(whole), rest), sum);
        }
        sum.sum()
    }
}

/// `x[i] = exp((x[i] - max) * scale) / sum`: probabilities at temperature `1 / scale`. -inf becomes exactly 0.
/// If no number is above -inf, everything becomes 0.
pub fn softmax_in_place(isa: Isa, x: &mut [f32], scale: f32) {
    let shift = max(isa, x);
    if shift == f32::NEG_INFINITY {
        return x.fill(0.0);
    }
    let factor = 1.0 / sum_exp(isa, x, shift, scale);
    // SAFETY: a slice is valid.
    unsafe { exp_in_place(isa, x, shift, scale, factor) }
}

dispatch! { fn exp_in_place = exp_in_place_generic(x: &mut [f32], shift: f32, scale: f32, factor: f32) }

/// `x[i] = exp((x[i] - shift) * scale) * factor`.
#[inline(always)]
unsafe fn exp_in_place_generic<V: Vector>(x: &mut [f32], shift: f32, scale: f32, factor: f32) {
    let whole = x.len() / LANES * LANES;
    let rest = x.len() - whole;
    // SAFETY: loads and stores are within `x`.
    unsafe {
        let (shift, scale, factor) = (V::splat(shift), V::splat(scale), V::splat(factor));
        for i in (0..whole).step_by(LANES) {
            let x = x.as_mut_ptr().add(i);
            exp(V::load(x).sub(shift).mul(scale)).mul(factor).store(x);
        }
        if rest > 0 {
            let x = x.as_mut_ptr().add(whole);
            exp(V::load_partial(x, rest).sub(shift).mul(scale))
                .mul(factor)
                .store_partial(x, rest);
        }
    }
}

/// Appends to `indices`, in ascending order, every index with `x[i] >= threshold`.
pub fn collect_at_least(isa: Isa, x: &[f32], threshold: f32, indices: &mut Vec<u32>) {
    for (run, numbers) in x.chunks(SEARCH).enumerate() {
        // Not `max < threshold`: a NaN threshold collects nothing.
        if max(isa, numbers) >= threshold {
            let hits = numbers.iter().enumerate().filter(|(_, x)| **x >= threshold);
            indices.extend(hits.map(|(i, _)| (run * SEARCH + i) as u32));
        }
    }
}
