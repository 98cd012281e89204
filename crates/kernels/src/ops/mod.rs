//! One kernel family per file: the safe function with its shape contract, then the loop behind it.

pub(crate) mod attention;
pub(crate) mod bf16_matmul;
pub(crate) mod elementwise;
pub(crate) mod mxfp4_matmul;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod router;
pub(crate) mod sampling;
mod tiling;
