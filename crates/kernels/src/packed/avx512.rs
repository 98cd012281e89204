//! AVX-512 with VNNI: sixteen rows; `vpdpbusd` adds four products of unsigned and signed bytes to each row.

use std::arch::x86_64::*;

use super::lanes::{E2M1_UNSIGNED, Int8, Lanes, Mxfp4, Products};
use super::quantize::QuantBlock;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

const ROWS: usize = 16;

// SAFETY, for every block below: the caller of `Lanes` and `Products` vouches for AVX-512 F, BW, VL and VNNI and for
// the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    const ROWS: usize = ROWS;
    const INT8_OFFSET: u8 = 128;
    type Floats = __m512;

    #[inline(always)]
    unsafe fn zeros() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, floats) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: __m512, term: __m512, factor: f32, factors: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(_mm512_mul_ps(term, _mm512_set1_ps(factor)), factors, sum) }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: __m512, factor: f32, term: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(sum, _mm512_set1_ps(factor), term) }
    }
}

/// Four activations for every row.
#[inline(always)]
unsafe fn four(x: *const i8) -> __m512i {
    // SAFETY: the caller vouches for AVX-512 and four activations.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// Adds eight columns times eight activations, in two chains: the instruction takes several cycles.
#[inline(always)]
unsafe fn dot(sums: [__m512i; 2], weights: [__m512i; 2], x: *const i8) -> [__m512i; 2] {
    // SAFETY: the caller vouches for AVX-512 VNNI and eight activations.
    unsafe {
        [
            _mm512_dpbusd_epi32(sums[0], weights[0], four(x)),
            _mm512_dpbusd_epi32(sums[1], weights[1], four(x.add(4))),
        ]
    }
}

#[inline(always)]
unsafe fn chains(start: i32) -> [__m512i; 2] {
    // SAFETY: the caller vouches for AVX-512.
    unsafe { [_mm512_set1_epi32(start), _mm512_setzero_si512()] }
}

#[inline(always)]
unsafe fn total(sums: [__m512i; 2]) -> __m512 {
    // SAFETY: the caller vouches for AVX-512.
    unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1])) }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Mxfp4> for Avx512 {
    type Weights = __m512i;
    type Sums = [__m512i; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [__m512i; 2] {
        unsafe {
            let table = _mm_loadu_si128(E2M1_UNSIGNED.as_ptr().cast());
            let table = _mm512_broadcast_i32x4(table);
            let low = _mm512_set1_epi8(15);
            let codes = _mm512_loadu_si512(block.add(part * 4 * ROWS).cast());
            [
                _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low)),
                _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m512 {
        unsafe {
            let scales = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(scales))
        }
    }

    #[inline(always)]
    unsafe fn start(x: *const QuantBlock) -> [__m512i; 2] {
        unsafe { chains((*x).mxfp4) }
    }

    #[inline(always)]
    unsafe fn dot(sums: [__m512i; 2], weights: [__m512i; 2], x: *const i8) -> [__m512i; 2] {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [__m512i; 2]) -> __m512 {
        unsafe { total(sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Int8> for Avx512 {
    type Weights = __m512i;
    type Sums = [__m512i; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [__m512i; 2] {
        [0, 1].map(|half| unsafe {
            _mm512_loadu_si512(block.add((2 * part + half) * 4 * ROWS).cast())
        })
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m512 {
        unsafe {
            let scales = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(scales))
        }
    }

    #[inline(always)]
    unsafe fn start(x: *const QuantBlock) -> [__m512i; 2] {
        unsafe { chains((*x).int8) }
    }

    #[inline(always)]
    unsafe fn dot(sums: [__m512i; 2], weights: [__m512i; 2], x: *const i8) -> [__m512i; 2] {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [__m512i; 2]) -> __m512 {
        unsafe { total(sums) }
    }
}
