//! Rotary positions with YaRN scaling, as GPT-OSS uses them.
//!
//! Formulas: YaRN (arXiv:2309.00071, "NTK-by-parts"), constants and rounding as in openai/gpt-oss
//! `gpt_oss/torch/model.py` and transformers `_compute_yarn_parameters` with `truncate = false`.
//! Invariant: the angle is `position * inv_freq` rounded to f32, as in both references, so that far
//! positions see the same angle; only the cosine of it is taken more exactly.

use crate::Isa;
use crate::vector::{LANES, Vector};

/// How rotary frequencies are stretched from the trained context to the served one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnParams {
    /// Elements per head, even.
    pub head_dim: usize,
    /// Base of the frequencies (`rope_theta`), 150000 in GPT-OSS.
    pub theta: f64,
    /// Stretch factor, 32 in GPT-OSS. At 1 (or below) positions are plain RoPE.
    pub factor: f64,
    /// Rotations over the original context above which a frequency is kept, 32 in GPT-OSS.
    pub beta_fast: f64,
    /// Rotations below which a frequency is fully stretched, 1 in GPT-OSS.
    pub beta_slow: f64,
    /// Context length before the stretch, 4096 in GPT-OSS.
    pub original_context: usize,
    /// Whether the bounds of the ramp are rounded outwards to whole dimensions; false in GPT-OSS.
    pub truncate: bool,
}

impl YarnParams {
    /// What cosines and sines are multiplied with: `0.1 ln(factor) + 1`.
    pub fn concentration(&self) -> f32 {
        if self.factor > 1.0 {
            (0.1 * self.factor.ln() + 1.0) as f32
        } else {
            1.0
        }
    }

    /// Radians per position of each rotated pair, `[head_dim / 2]`.
    pub fn inv_freq(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        let (low, high) = self.ramp_bounds();
        (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / self.head_dim as f32;
                let freq = self.theta.powf(f64::from(exponent)) as f32;
                let kept = 1.0 / freq;
                if self.factor <= 1.0 {
                    return kept;
                }
                let stretched = 1.0 / (self.factor as f32 * freq);
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let mask = 1.0 - ramp;
                stretched * (1.0 - mask) + kept * mask
            })
            .collect()
    }

    /// Pairs below the first bound are kept, above the second fully stretched, between them blended.
    fn ramp_bounds(&self) -> (f64, f64) {
        let pair_with_rotations = |rotations: f64| {
            let context = self.original_context as f64;
            self.head_dim as f64 * (context / (rotations * std::f64::consts::TAU)).ln()
                / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (
            pair_with_rotations(self.beta_fast),
            pair_with_rotations(self.beta_slow),
        );
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(self.head_dim as f64 - 1.0));
        // transformers widens an empty ramp by the same amount, to avoid dividing by zero.
        if low == high {
            (low, high + 0.001)
        } else {
            (low, high)
        }
    }
}

/// Cosines and sines of every position, already multiplied by the concentration.
pub struct RopeTable {
    half: usize,
    /// `[num_positions, half]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// The table of positions `0..num_positions`: `4 * head_dim` bytes each.
    ///
    /// # Panics
    /// If `head_dim` is odd or 0.
    pub fn new(params: &YarnParams, num_positions: usize) -> Self {
        assert!(
            params.head_dim > 0 && params.head_dim.is_multiple_of(2),
            "pairs of {} elements",
            params.head_dim
        );
        let half = params.head_dim / 2;
        let inv_freq = params.inv_freq();
        let concentration = params.concentration();
        let mut table = RopeTable {
            half,
            cos: Vec::new(),
            sin: Vec::new(),
        };
        table.cos.reserve_exact(num_positions * half);
        table.sin.reserve_exact(num_positions * half);
        for position in 0..num_positions {
            for inv_freq in &inv_freq {
                let angle = f64::from(position as f32 * inv_freq);
                table.cos.push(angle.cos() as f32 * concentration);
                table.sin.push(angle.sin() as f32 * concentration);
            }
        }
        table
    }

    /// How many positions the table covers.
    pub fn num_positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Cosines and sines of `position`, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// If `position` is not covered.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates every head of one token in place: element `i` of a head's first half pairs with element `i`
/// of its second half.
///
/// `heads` is `[num_heads, 2 * cos.len()]`; `cos` and `sin` are the token's row of a [`RopeTable`].
///
/// # Panics
/// If a shape does not fit.
pub fn rope(isa: Isa, heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(
        half > 0 && half == sin.len(),
        "{half} cosines and {} sines",
        sin.len()
    );
    assert!(
        heads.len().is_multiple_of(2 * half),
        "heads of {} elements",
        2 * half
    );
    // SAFETY: the shapes are checked.
    unsafe { rotate(isa, heads, cos, sin) }
}

dispatch! { fn rotate = rotate_generic(heads: &mut [f32], cos: &[f32], sin: &[f32]) }

#[inline(always)]
unsafe fn rotate_generic<V: Vector>(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (whole, rest) = (half / LANES * LANES, half % LANES);
    for head in heads.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
        // SAFETY: `first`, `second`, `cos` and `sin` have `half` numbers each.
        unsafe {
            for i in (0..whole).step_by(LANES) {
                let (cos, sin) = (V::load(cos.as_ptr().add(i)), V::load(sin.as_ptr().add(i)));
                let (a, b) = rotated(V::load(first.add(i)), V::load(second.add(i)), cos, sin);
                a.store(first.add(i));
                b.store(second.add(i));
            }
            if rest > 0 {
                let cos = V::load_partial(cos.as_ptr().add(whole), rest);
                let sin = V::load_partial(sin.as_ptr().add(whole), rest);
                let (first, second) = (first.add(whole), second.add(whole));
                let (a, b) = rotated(
                    V::load_partial(first, rest),
                    V::load_partial(second, rest),
                    cos,
                    sin,
                );
                a.store_partial(first, rest);
                b.store_partial(second, rest);
            }
        }
    }
}

#[inline(always)]
unsafe fn rotated<V: Vector>(a: V, b: V, cos: V, sin: V) -> (V, V) {
    // SAFETY: no pointers; the caller vouches for the instruction set.
    unsafe { (a.mul(cos).sub(b.mul(sin)), b.mul(cos).add(a.mul(sin))) }
}
