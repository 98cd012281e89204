//! Products of rounded activations with packed weights: the fast way through GPT-OSS's matrices.
//!
//! Weights are repacked once, at load, into the order in which one instruction set reads them: groups of rows side by
//! side ([`PackedMatrix`]). Activations are rounded to eight bits with one scale per 32 numbers ([`QuantBlock`]), as
//! llama.cpp's Q8_0 does; products are summed exactly in integers within such a block, and in f32, in ascending order,
//! over the blocks. AMX (`amx/`) has bf16 activations instead, and sums in f32 alone. Nothing about an output depends on the
//! tile it is computed in: that is how batch invariance holds.
//!
//! ```text
//! one group of R rows, one block of 32 columns          R = 8 (AVX2, NEON, portable) or 16 (AVX-512, AMX)
//!   MXFP4:  4 x R x 4 bytes; byte c of row r in part i has the code of column 8i + c below, of 8i + 4 + c above
//!   int8:   8 x R x 4 bytes; byte c of row r in part i is column 4i + c
//!   for AMX the same bytes in the order of `amx/decode.rs`
//! a group: its blocks in order, then R scales per block (E8M0, or bf16 for int8), padded to whole cache lines
//! ```

#[macro_use]
mod lanes;
mod matmul;
mod pack;
mod portable;
mod quantize;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::is_permitted as tiles_are_permitted;
pub use matmul::{packed_matmul, packed_swiglu};
pub use pack::{PackedFormat, PackedMatrix, pack_int8, pack_mxfp4, packed_len};
pub use quantize::{QuantBlock, quantize};

/// Columns that share a scale, in weights and in activations.
pub const QUANT_BLOCK: usize = 32;
