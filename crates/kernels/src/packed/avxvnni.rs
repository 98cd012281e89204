//! AVX2 with AVX-VNNI: eight rows; `vpdpbusd` adds four products of unsigned and signed bytes to each row.

use std::arch::x86_64::*;

use super::avx2::{bf16, codes, e8m0, eight_rows, four};
use super::lanes::{Int8, Lanes, Mxfp4, Products};
use super::quantize::QuantBlock;

#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

eight_rows!(AvxVnni, 128);

/// Adds eight columns times eight activations.
#[inline(always)]
unsafe fn dot(sums: [__m256i; 2], weights: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
    // SAFETY: the caller vouches for AVX-VNNI and eight activations.
    unsafe {
        [
            _mm256_dpbusd_avx_epi32(sums[0], weights[0], four(x)),
            _mm256_dpbusd_avx_epi32(sums[1], weights[1], four(x.add(4))),
        ]
    }
}

/// Two chains of additions, for the instruction takes several cycles: the first from `start`.
#[inline(always)]
unsafe fn chains(start: i32) -> [__m256i; 2] {
    // SAFETY: the caller vouches for AVX2.
    unsafe { [_mm256_set1_epi32(start), _mm256_setzero_si256()] }
}

#[inline(always)]
unsafe fn total(sums: [__m256i; 2]) -> __m256 {
    // SAFETY: the caller vouches for AVX2.
    unsafe { _mm256_cvtepi32_ps(_mm256_add_epi32(sums[0], sums[1])) }
}

// SAFETY, for every block below: the caller of `Products` vouches for the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Mxfp4> for AvxVnni {
    type Weights = __m256i;
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [__m256i; 2] {
        unsafe { codes(block, part) }
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m256 {
        unsafe { e8m0(from) }
    }

    #[inline(always)]
    unsafe fn start(x: *const QuantBlock) -> [__m256i; 2] {
        unsafe { chains((*x).mxfp4) }
    }

    #[inline(always)]
    unsafe fn dot(sums: [__m256i; 2], weights: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [__m256i; 2]) -> __m256 {
        unsafe { total(sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Int8> for AvxVnni {
    type Weights = __m256i;
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [__m256i; 2] {
        [0, 1].map(|half| unsafe {
            _mm256_loadu_si256(block.add((2 * part + half) * 4 * Self::ROWS).cast())
        })
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m256 {
        unsafe { bf16(from) }
    }

    #[inline(always)]
    unsafe fn start(x: *const QuantBlock) -> [__m256i; 2] {
        unsafe { chains((*x).int8) }
    }

    #[inline(always)]
    unsafe fn dot(sums: [__m256i; 2], weights: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [__m256i; 2]) -> __m256 {
        unsafe { total(sums) }
    }
}
