//! Kernels that go over rows once: clamped SwiGLU, sums, widening.

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
pub fn swiglu(_isa: Isa, gate_up: &[f32], limit: f32, out: &mut [f32]) {
    assert_eq!(
        gate_up.len(),
        2 * out.len(),
        "one gate and one up per output"
    );
    for (pair, out) in gate_up.chunks_exact(2).zip(out) {
        let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
        *out = (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp());
    }
}

/// `sum[i] += x[i]`: the residual.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(_isa: Isa, sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len(), "summands of one shape");
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}

/// `sum[i] += scale * x[i]`: one expert's share of a token.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(_isa: Isa, sum: &mut [f32], scale: f32, x: &[f32]) {
    assert_eq!(sum.len(), x.len(), "summands of one shape");
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += scale * x;
    }
}

/// `out[i] = x[i]`, exactly: an embedding row, a bias.
///
/// # Panics
/// If the lengths differ.
pub fn widen_bf16(_isa: Isa, x: Bf16Slice<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many numbers out as in");
    for (i, out) in out.iter_mut().enumerate() {
        *out = x.get(i);
    }
}
