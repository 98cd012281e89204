//! One thin [`Vector`](crate::vector::Vector) per instruction set.

pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) mod neon;
