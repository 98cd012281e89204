//! A bf16 matrix on the CPU, in place.

use gossamer_kernels::{Bf16Matrix, Bf16Slice};

use crate::weights::Weight;

/// A matrix and perhaps a bias.
pub struct CpuLinear {
    weight: Weight,
    bias: Option<Weight>,
}

impl CpuLinear {
    /// The matrix `[outputs, inputs]` and the bias `[outputs]`.
    pub fn new(weight: Weight, bias: Option<Weight>) -> Self {
        Self { weight, bias }
    }

    /// The matrix.
    pub fn matrix(&self) -> Bf16Matrix<'_> {
        let shape = self.weight.shape();
        Bf16Matrix::new(Bf16Slice::new(self.weight.bytes()), shape[0], shape[1])
    }

    /// The bias.
    pub fn bias(&self) -> Option<Bf16Slice<'_>> {
        self.bias.as_ref().map(|bias| Bf16Slice::new(bias.bytes()))
    }
}
