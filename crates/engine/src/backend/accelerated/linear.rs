//! Weights on the device: matrices as published or in eight bits, and how they are applied.
//!
//! Knows the two formats of a dense matrix and that a bias is added by itself: the kernels' own ways of adding it differ
//! in shape and rounding. Invariant: what was copied to the device no longer holds pages of the file.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Linear as Dense;
use mistralrs_quant::{
    AfqBits, AfqGroupSize, AfqLayer, IsqType, QuantMethod, QuantMethodConfig, QuantizeOntoGuard,
    UnquantLinear,
};

use crate::config::WeightFormat;
use crate::weights::Weight;

/// Copies a bf16 weight to the device.
///
/// # Errors
/// The device has no room.
pub fn bf16(weight: &Weight, device: &Device) -> Result<Tensor> {
    copy(weight, DType::BF16, device)
}

/// Copies bytes to the device.
///
/// # Errors
/// The device has no room.
pub fn bytes(weight: &Weight, device: &Device) -> Result<Tensor> {
    copy(weight, DType::U8, device)
}

fn copy(weight: &Weight, dtype: DType, device: &Device) -> Result<Tensor> {
    let tensor = Tensor::from_raw_buffer(weight.bytes(), dtype, weight.shape(), device)?;
    weight.release();
    Ok(tensor)
}

/// A matrix and perhaps a bias.
pub struct Linear {
    matrix: Arc<dyn QuantMethod>,
    bias: Option<Tensor>,
    /// What the matrix is multiplied by.
    input: DType,
}

/// The form that eight-bit matrices have on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a build is for one device, and a device has one of them")]
pub enum EightBits {
    /// Groups of columns with a scale and an offset.
    Afq8,
    /// 32 columns with a scale.
    Q8_0,
}

/// What a matrix becomes.
#[derive(Clone, Copy)]
pub struct Form {
    /// As published or in eight bits.
    pub format: WeightFormat,
    /// Which eight bits.
    pub eight_bits: EightBits,
    /// Type of the activations that it is multiplied by.
    pub input: DType,
}

impl Linear {
    /// Puts a matrix `[outputs, inputs]` on the device, and its bias.
    ///
    /// # Errors
    /// The device has no room.
    pub fn new(
        weight: &Weight,
        bias: Option<&Weight>,
        form: Form,
        device: &Device,
    ) -> Result<Self> {
        let linear = Self::of_rows(weight, 0..weight.shape()[0], form, device)?;
        let bias = bias.map(|bias| bf16(bias, device)?.to_dtype(form.input));
        weight.release();
        Ok(Self {
            bias: bias.transpose()?,
            ..linear
        })
    }

    /// Some rows of a matrix, without a bias.
    ///
    /// # Errors
    /// The device has no room.
    pub fn of_rows(
        weight: &Weight,
        rows: Range<usize>,
        form: Form,
        device: &Device,
    ) -> Result<Self> {
        let shape = [rows.len(), weight.shape()[1]];
        let width = weight.bytes().len() / weight.shape()[0];
        let bytes = &weight.bytes()[rows.start * width..rows.end * width];
        let published = |device| Tensor::from_raw_buffer(bytes, DType::BF16, &shape, device);
        let Form {
            format,
            eight_bits,
            input,
        } = form;
        let matrix: Arc<dyn QuantMethod> = match (format, eight_bits) {
            (WeightFormat::Bf16, _) => plain(published(device)?.to_dtype(input)?)?,
            // Scales and offsets, and so the arithmetic, are of the type that the matrix had.
            (WeightFormat::Int8, EightBits::Afq8) => {
                let weight = published(device)?.to_dtype(input)?;
                let group_size = match weight.dim(1)? % AfqGroupSize::Med as usize {
                    0 => AfqGroupSize::Med,
                    _ => AfqGroupSize::Low,
                };
                Arc::new(AfqLayer::new(QuantMethodConfig::Afq {
                    weight,
                    bias: None,
                    bits: AfqBits::Eight,
                    group_size,
                })?)
            }
            // Rounded on the host: the device never holds the matrix in another form.
            (WeightFormat::Int8, EightBits::Q8_0) => {
                let host = published(&Device::Cpu)?;
                let count = AtomicUsize::new(0);
                plain(host)?.apply_isq(
                    Some(IsqType::Q8_0),
                    device.clone(),
                    &count,
                    None,
                    QuantizeOntoGuard::new(),
                )?
            }
        };
        Ok(Self {
            matrix,
            bias: None,
            input,
        })
    }

    /// `x Wᵀ + bias` for `x` of `[rows, inputs]`, in the type of the matrix's activations.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = self.matrix.forward_autocast(&x.to_dtype(self.input)?)?;
        match &self.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(bias),
        }
    }
}

fn plain(weight: Tensor) -> Result<Arc<dyn QuantMethod>> {
    let dense = Dense::new(weight, None);
    let config = QuantMethodConfig::Unquantized(dense);
    Ok(Arc::new(UnquantLinear::new(config)?))
}
