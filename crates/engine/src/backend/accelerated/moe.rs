//! The experts on the device: routing, two products with MXFP4 matrices by index, the weighted sum.
//!
//! Knows the published layout, which `MXFP4Layer` takes as it is. Routing is in f32: a rounding error in it would change
//! which experts a token goes to.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use mistralrs_quant::{MXFP4Layer, QuantMethod, QuantMethodConfig};

use super::device;
use super::linear::{Linear, bf16, bytes};
use crate::backend::{ExpertWeights, Mxfp4Weight};

/// The experts of one layer.
pub struct Experts {
    gate_up: Arc<dyn QuantMethod>,
    down: Arc<dyn QuantMethod>,
    swiglu_limit: f32,
}

impl Experts {
    /// Puts them on the device; `dtype` is that of the activations.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(weights: &ExpertWeights, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            gate_up: mxfp4(&weights.gate_up, dtype, device)?,
            down: mxfp4(&weights.down, dtype, device)?,
            swiglu_limit: weights.swiglu_limit,
        })
    }

    /// Each row of `x`, `[t, hidden]`, through its `top_k` best experts.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward(&self, x: &Tensor, router: &Linear, top_k: usize) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let logits = router.forward(x)?; // [t, num_experts]
        let indices = logits.arg_sort_last_dim(false)?;
        let indices = indices.narrow(D::Minus1, 0, top_k)?.contiguous()?; // [t, k]
        let weights = softmax_last_dim(&logits.gather(&indices, D::Minus1)?)?; // [t, k]

        let gate_up = self.gate_up.gather_forward(x, &indices)?; // [t, k, 2 * inner]
        let inner = gate_up.dim(2)? / 2;
        let pairs = gate_up.reshape((rows * top_k, inner, 2))?;
        let activated = device::swiglu(&pairs, self.swiglu_limit)?; // [t * k, inner]
        let activated = activated.reshape((rows, top_k, inner))?;
        let out = self.down.gather_forward(&activated, &indices)?; // [t, k, hidden]
        let weighted = out
            .to_dtype(DType::F32)?
            .broadcast_mul(&weights.unsqueeze(2)?)?;
        weighted.sum(1)?.to_dtype(x.dtype())
    }
}

/// What `MXFP4Layer::packed_gptoss_linear` makes, of weights that are read already.
fn mxfp4(weight: &Mxfp4Weight, dtype: DType, device: &Device) -> Result<Arc<dyn QuantMethod>> {
    let blocks = bytes(&weight.blocks, device)?;
    let (experts, rows, groups, half) = blocks.dims4()?;
    let layer = MXFP4Layer::new(QuantMethodConfig::MXFP4 {
        blocks: blocks.reshape((experts, rows, groups * half))?,
        scales: bytes(&weight.scales, device)?,
        bias: Some(bf16(&weight.bias, device)?.to_dtype(dtype)?),
    })?;
    Ok(Arc::new(layer))
}
