//! The CPU arithmetic of GPT-OSS: slices in, slices out.
//!
//! Owns every numeric loop and all `unsafe` arithmetic of the workspace. Knows no model, no file, no
//! thread: a caller that has several threads hands each a disjoint part of the output
//! ([`ColumnsMut`]) and calls the same function. Depends on nothing.
//!
//! Invariant (*batch invariance*): on one [`Isa`], the numbers computed for one token depend only on
//! that token's inputs. They are bit-identical whatever the number of tokens in the call, whichever
//! rows or heads the call covers, and wherever the sequence's blocks lie in memory.
//!
//! Shape contracts are `assert!`ed once per call at this border: a violation is a bug of the caller,
//! never the consequence of what a user sent.

#[macro_use]
mod dispatch;
mod arch;
mod ops;
mod packed;
mod vector;
mod views;

#[cfg(any(test, feature = "oracle"))]
pub mod naive;

pub use dispatch::Isa;
pub use ops::attention::{
    HEAD_DIM, KvCache, KvDtype, KvLayout, PagedQueries, paged_attention, write_kv,
};
pub use ops::bf16_matmul::bf16_matmul;
pub use ops::elementwise::{add_assign, add_scaled, swiglu, widen_bf16};
pub use ops::mxfp4_matmul::mxfp4_matmul;
pub use ops::rms_norm::rms_norm;
pub use ops::rope::{RopeTable, YarnParams, rope};
pub use ops::router::router_topk;
pub use ops::sampling::{
    argmax, collect_at_least, max, softmax_in_place, sum_exp, sum_exp_weighted,
};
pub use packed::{
    PackedFormat, PackedMatrix, QUANT_BLOCK, QuantBlock, pack_int8, pack_mxfp4, packed_len,
    packed_matmul, packed_swiglu, quantize,
};
pub use views::{Bf16Matrix, Bf16Slice, ColumnsMut, Mxfp4Matrix};
