//! A matrix on the CPU: bf16 in place, or rounded to eight bits and packed.

use gossamer_kernels::{Bf16Matrix, Bf16Slice, Isa, widen_bf16};

use super::packed::{Packed, Packer};
use crate::error::LoadError;
use crate::weights::Weight;

/// A matrix `[outputs, inputs]` and perhaps a bias `[outputs]`.
pub enum CpuLinear {
    /// As published.
    Bf16 {
        /// The matrix.
        weight: Weight,
        /// The bias.
        bias: Option<Weight>,
    },
    /// For rounded activations.
    Int8 {
        /// The matrix.
        matrix: Packed,
        /// The bias.
        bias: Option<Vec<f32>>,
    },
}

impl CpuLinear {
    /// Packs the matrix, whose published bytes are no longer needed.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn int8(
        packer: &mut Packer<'_>,
        weight: &Weight,
        bias: Option<&Weight>,
    ) -> Result<Self, LoadError> {
        let matrix = Packed::int8(packer, bf16_matrix(weight), weight.offset())?;
        weight.release();
        Ok(Self::Int8 {
            matrix,
            bias: bias.map(|bias| widened(packer.isa, bias.bytes())),
        })
    }
}

/// A two-dimensional bf16 weight.
pub fn bf16_matrix(weight: &Weight) -> Bf16Matrix<'_> {
    let shape = weight.shape();
    Bf16Matrix::new(Bf16Slice::new(weight.bytes()), shape[0], shape[1])
}

/// bf16 numbers as f32.
pub fn widened(isa: Isa, bf16: &[u8]) -> Vec<f32> {
    let mut widened = vec![0.0; bf16.len() / 2];
    widen_bf16(isa, Bf16Slice::new(bf16), &mut widened);
    widened
}
