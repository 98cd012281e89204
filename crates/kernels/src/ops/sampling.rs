//! Reductions over a row of logits (201088 of them in GPT-OSS).
//!
//! Knows no sampling policy: the engine's sampler composes these. A NaN is never the maximum.

use crate::Isa;

/// The index of the largest number; the lowest index among equals. 0 if nothing is larger than -inf.
///
/// # Panics
/// If `x` is empty.
pub fn argmax(_isa: Isa, x: &[f32]) -> usize {
    assert!(!x.is_empty(), "the maximum of nothing");
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in x.iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0
}

/// The largest number, -inf for an empty slice.
pub fn max(_isa: Isa, x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `sum over i of exp((x[i] - shift) * scale)`, with `shift` the maximum and `scale` one over the temperature.
pub fn sum_exp(_isa: Isa, x: &[f32], shift: f32, scale: f32) -> f32 {
    x.iter().map(|x| ((x - shift) * scale).exp()).sum()
}

/// `x[i] = exp((x[i] - max) * scale) / sum`: probabilities at temperature `1 / scale`. -inf becomes exactly 0.
/// If no number is above -inf, everything becomes 0.
pub fn softmax_in_place(isa: Isa, x: &mut [f32], scale: f32) {
    let shift = max(isa, x);
    if shift == f32::NEG_INFINITY {
        return x.fill(0.0);
    }
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = ((*x - shift) * scale).exp();
        sum += *x;
    }
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// Appends to `indices`, in ascending order, every index with `x[i] >= threshold`.
pub fn collect_at_least(_isa: Isa, x: &[f32], threshold: f32, indices: &mut Vec<u32>) {
    for (i, &x) in x.iter().enumerate() {
        if x >= threshold {
            indices.push(i as u32);
        }
    }
}
