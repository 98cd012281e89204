//! The oracle: every kernel the obvious way, in f64, one output at a time.
//!
//! Written from the formulas and not from the fast code, with which it shares only the views that carry
//! arguments. Compiled for tests and under the feature `oracle`; never on a serving path.

use crate::{
    Bf16Matrix, Bf16Slice, HEAD_DIM, Mxfp4Matrix, PackedMatrix, QUANT_BLOCK, QuantBlock, YarnParams,
};

/// The number a bf16 bit pattern stands for.
pub fn bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// The bf16 nearest to `x`, the even one of two equally near: found by trying both neighbours.
pub fn to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let below = (x.to_bits() >> 16) as u16; // towards zero
    let above = below + 1;
    if x.is_infinite() {
        return below;
    }
    // One past the largest finite bf16 stands for 2^128 here, though its bits mean infinity.
    let value = |bits: u16| {
        if bits & 0x7fff == 0x7f80 {
            2f64.powi(128)
        } else {
            bf16(bits).abs()
        }
    };
    let (down, up) = (
        f64::from(x).abs() - value(below),
        value(above) - f64::from(x).abs(),
    );
    if down < up || (down == up && below.is_multiple_of(2)) {
        below
    } else {
        above
    }
}

/// The number four E2M1 bits stand for: sign, two bits of exponent (bias 1), one of mantissa.
pub fn e2m1(bits: u8) -> f64 {
    let (sign, exponent, mantissa) = (bits >> 3, bits >> 1 & 3, f64::from(bits & 1));
    let magnitude = match exponent {
        0 => mantissa / 2.0,
        _ => (1.0 + mantissa / 2.0) * 2f64.powi(i32::from(exponent) - 1),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

/// Element `(row, col)` of an MXFP4 matrix.
pub fn mxfp4(weights: Mxfp4Matrix<'_>, row: usize, col: usize) -> f64 {
    let byte = weights.row_blocks(row)[col / 32 * 16 + col % 32 / 2];
    let nibble = if col.is_multiple_of(2) {
        byte & 15
    } else {
        byte >> 4
    };
    match weights.row_scales(row)[col / 32] {
        255 => f64::NAN,
        scale => e2m1(nibble) * 2f64.powi(i32::from(scale) - 127),
    }
}

/// `x Wᵀ + bias`, `[num_tokens, rows]`.
pub fn bf16_matmul(x: &[f32], weights: Bf16Matrix<'_>, bias: Option<Bf16Slice<'_>>) -> Vec<f64> {
    matmul(x, weights.rows(), weights.cols(), bias, |row, col| {
        f64::from(weights.row(row).get(col))
    })
}

/// `x Wᵀ + bias`, `[num_tokens, rows]`.
pub fn mxfp4_matmul(x: &[f32], weights: Mxfp4Matrix<'_>, bias: Option<Bf16Slice<'_>>) -> Vec<f64> {
    matmul(x, weights.rows(), weights.cols(), bias, |row, col| {
        mxfp4(weights, row, col)
    })
}

/// See [`crate::packed_matmul`]: the numbers that the blocks and the packed weights stand for, multiplied exactly.
pub fn packed_matmul(
    x: &[QuantBlock],
    tokens: &[u32],
    weights: PackedMatrix<'_>,
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let blocks = weights.cols() / QUANT_BLOCK;
    let mut out = Vec::with_capacity(tokens.len() * weights.rows());
    for token in tokens {
        let x = &x[*token as usize * blocks..][..blocks];
        for row in 0..weights.rows() {
            let product: f64 = (0..weights.cols())
                .map(|col| {
                    let x = x[col / QUANT_BLOCK].get(weights.isa, col % QUANT_BLOCK);
                    f64::from(x) * f64::from(weights.get(row, col))
                })
                .sum();
            out.push(product + bias.map_or(0.0, |bias| f64::from(bias[row])));
        }
    }
    out
}

fn matmul(
    x: &[f32],
    rows: usize,
    cols: usize,
    bias: Option<Bf16Slice<'_>>,
    weight: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len() / cols * rows);
    for token in x.chunks_exact(cols) {
        for row in 0..rows {
            let product: f64 = (0..cols)
                .map(|col| f64::from(token[col]) * weight(row, col))
                .sum();
            out.push(product + bias.map_or(0.0, |bias| f64::from(bias.get(row))));
        }
    }
    out
}

/// See [`crate::rms_norm`].
pub fn rms_norm(x: &[f32], weight: Bf16Slice<'_>, eps: f32) -> Vec<f64> {
    let width = weight.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        let rms = (squares / width as f64 + f64::from(eps)).sqrt();
        out.extend((0..width).map(|i| f64::from(row[i]) / rms * f64::from(weight.get(i))));
    }
    out
}

/// See [`crate::swiglu`].
pub fn swiglu(gate_up: &[f32], limit: f32) -> Vec<f64> {
    gate_up
        .chunks_exact(2)
        .map(|pair| {
            let gate = f64::from(pair[0].min(limit));
            let up = f64::from(pair[1].clamp(-limit, limit));
            (up + 1.0) * gate / (1.0 + (-1.702 * gate).exp())
        })
        .collect()
}

/// Radians per position of each pair, by the YaRN paper's formulas in f64. See [`YarnParams::inv_freq`].
pub fn yarn_inv_freq(params: &YarnParams) -> Vec<f64> {
    let dim = params.head_dim as f64;
    // The (fractional) pair that makes this many rotations over the original context.
    let pair = |rotations: f64| {
        let wavelength = params.original_context as f64 / rotations;
        dim / 2.0 * (wavelength / std::f64::consts::TAU).ln() / params.theta.ln()
    };
    let (low, high) = (pair(params.beta_fast), pair(params.beta_slow));
    (0..params.head_dim / 2)
        .map(|i| {
            let inv_freq = params.theta.powf(-2.0 * i as f64 / dim);
            let stretch = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            inv_freq * (1.0 - stretch) + inv_freq / params.factor * stretch
        })
        .collect()
}

/// One head rotated by one angle per pair (element `i` with element `i + half`), times `concentration`.
pub fn rope(head: &[f32], angles: &[f64], concentration: f64) -> Vec<f64> {
    let half = angles.len();
    let mut out = vec![0.0; 2 * half];
    for (i, angle) in angles.iter().enumerate() {
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        out[i] = (a * angle.cos() - b * angle.sin()) * concentration;
        out[i + half] = (b * angle.cos() + a * angle.sin()) * concentration;
    }
    out
}

/// The `k` largest logits in order, as `(expert, weight)`. See [`crate::router_topk`].
pub fn router_topk(logits: &[f32], k: usize) -> Vec<(u32, f64)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(k);
    let sum: f64 = order.iter().map(|&i| f64::from(logits[i]).exp()).sum();
    order
        .iter()
        .map(|&i| (i as u32, f64::from(logits[i]).exp() / sum))
        .collect()
}

/// One head's keys or values of a token, `[HEAD_DIM]`, as the cache gives them back.
pub fn stored(dtype: crate::KvDtype, x: &[f32]) -> Vec<f32> {
    let to_bf16 = |x| bf16(to_bf16(x)) as f32;
    match dtype {
        crate::KvDtype::Bf16 => x.iter().copied().map(to_bf16).collect(),
        crate::KvDtype::Int8 => {
            let largest = x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
            let scale = to_bf16(largest / 127.0);
            let divisor = if scale > 0.0 { scale } else { 1.0 };
            let stored = |x: &f32| (x / divisor).round_ties_even() * scale;
            x.iter().map(stored).collect()
        }
    }
}

/// One head's attention over contiguous keys and values, with a sink.
///
/// `q` is `[HEAD_DIM]`; `keys` and `values` are the visible positions, `[num_positions, HEAD_DIM]`.
pub fn attention(q: &[f32], keys: &[f32], values: &[f32], sink: f32, scale: f32) -> Vec<f64> {
    let logits: Vec<f64> = keys
        .chunks_exact(HEAD_DIM)
        .map(|key| {
            q.iter()
                .zip(key)
                .map(|(q, k)| f64::from(*q) * f64::from(*k))
                .sum::<f64>()
                * f64::from(scale)
        })
        .collect();
    let max = logits.iter().copied().fold(f64::from(sink), f64::max);
    let sum =
        (f64::from(sink) - max).exp() + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>();
    let mut out = vec![0.0; HEAD_DIM];
    for (logit, value) in logits.iter().zip(values.chunks_exact(HEAD_DIM)) {
        for (out, v) in out.iter_mut().zip(value) {
            *out += (logit - max).exp() / sum * f64::from(*v);
        }
    }
    out
}

/// See [`crate::softmax_in_place`].
pub fn softmax(x: &[f32], scale: f32) -> Vec<f64> {
    let max = x
        .iter()
        .copied()
        .map(f64::from)
        .fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = x
        .iter()
        .map(|x| ((f64::from(*x) - max) * f64::from(scale)).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
