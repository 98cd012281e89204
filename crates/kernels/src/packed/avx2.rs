//! AVX2: eight rows; `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours in sixteen bits.
//!
//! MXFP4 weights, made unsigned, are at most 24: the products of a block, plus the start that undoes the offset, are
//! within 12 x 16 x 127, so that sixteen bits hold the sum, whatever wraps on the way. Int8 takes the magnitude of the
//! weight times the activation with the weight's sign: 2 x 127 x 127 fits as well, but only one pair of them.

use std::arch::x86_64::*;

use super::lanes::{E2M1_UNSIGNED, Int8, Mxfp4, Products};
use super::quantize::QuantBlock;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

const ROWS: usize = 8;

/// Four activations for every row.
#[inline(always)]
pub(super) unsafe fn four(x: *const i8) -> __m256i {
    // SAFETY: the caller vouches for AVX2 and four activations.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// Eight columns of eight rows from their codes, unsigned.
#[inline(always)]
pub(super) unsafe fn codes(block: *const u8, part: usize) -> [__m256i; 2] {
    // SAFETY: the caller vouches for AVX2 and a whole block.
    unsafe {
        let table = _mm_loadu_si128(E2M1_UNSIGNED.as_ptr().cast());
        let table = _mm256_broadcastsi128_si256(table);
        let low = _mm256_set1_epi8(15);
        let codes = _mm256_loadu_si256(block.add(part * 4 * ROWS).cast());
        [
            _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low)),
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low)),
        ]
    }
}

/// The same register, of which the compiler knows nothing any more. Not always inlined, because `asm!` wants the feature
/// where it stands.
#[target_feature(enable = "avx2")]
#[inline]
fn opaque(mut register: __m256i) -> __m256i {
    // SAFETY: there is no instruction in it.
    unsafe {
        core::arch::asm!("/* {0} */", inout(ymm_reg) register, options(pure, nomem, nostack, preserves_flags));
    }
    register
}

/// Eight E8M0 scales.
#[inline(always)]
pub(super) unsafe fn e8m0(from: *const u8) -> __m256 {
    // SAFETY: the caller vouches for AVX2 and eight scales.
    unsafe {
        let scales = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(scales))
    }
}

/// Eight bf16 scales.
#[inline(always)]
pub(super) unsafe fn bf16(from: *const u8) -> __m256 {
    // SAFETY: the caller vouches for AVX2 and eight scales.
    unsafe {
        let scales = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(scales))
    }
}

/// [`Lanes`] of eight rows in one register of AVX2.
macro_rules! eight_rows {
    ($lanes:ty, $int8_offset:expr) => {
        // SAFETY, for every block below: the caller of `Lanes` vouches for AVX2, FMA and the pointers.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl crate::packed::lanes::Lanes for $lanes {
            const ROWS: usize = 8;
            const INT8_OFFSET: u8 = $int8_offset;
            type Floats = __m256;

            #[inline(always)]
            unsafe fn zeros() -> __m256 {
                unsafe { _mm256_setzero_ps() }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m256 {
                unsafe { _mm256_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(floats: __m256, to: *mut f32) {
                unsafe { _mm256_storeu_ps(to, floats) }
            }

            #[inline(always)]
            unsafe fn add_scaled(
                sum: __m256,
                term: __m256,
                factor: f32,
                factors: __m256,
            ) -> __m256 {
                unsafe {
                    _mm256_fmadd_ps(_mm256_mul_ps(term, _mm256_set1_ps(factor)), factors, sum)
                }
            }

            #[inline(always)]
            unsafe fn mul_add(sum: __m256, factor: f32, term: __m256) -> __m256 {
                unsafe { _mm256_fmadd_ps(sum, _mm256_set1_ps(factor), term) }
            }
        }
    };
}
pub(super) use eight_rows;

eight_rows!(Avx2, 0);

// SAFETY, for every block below: the caller of `Products` vouches for AVX2, FMA and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Mxfp4> for Avx2 {
    const PANELS: bool = true;
    type Weights = __m256i;
    /// Sixteen bits: two sums per row.
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [__m256i; 2] {
        unsafe { codes(block, part) }
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m256 {
        unsafe { e8m0(from) }
    }

    #[inline(always)]
    unsafe fn start(x: *const QuantBlock) -> __m256i {
        unsafe { _mm256_set1_epi32((&raw const (*x).mxfp4_pairs).cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256i, weights: [__m256i; 2], x: *const i8) -> __m256i {
        unsafe {
            let first = _mm256_maddubs_epi16(weights[0], four(x));
            let sums = _mm256_add_epi16(sums, first);
            let second = _mm256_maddubs_epi16(weights[1], four(x.add(4)));
            _mm256_add_epi16(sums, second)
        }
    }

    #[inline(always)]
    unsafe fn in_order(sums: __m256i) -> __m256i {
        unsafe { opaque(sums) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1))) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Int8> for Avx2 {
    /// The weights and their magnitudes.
    type Weights = [__m256i; 2];
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [[__m256i; 2]; 2] {
        [0, 1].map(|half| unsafe {
            let weights = block.add((2 * part + half) * 4 * ROWS);
            let weights = _mm256_loadu_si256(weights.cast());
            [weights, _mm256_abs_epi8(weights)]
        })
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> __m256 {
        unsafe { bf16(from) }
    }

    #[inline(always)]
    unsafe fn start(_: *const QuantBlock) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn dot(sums: __m256i, weights: [[__m256i; 2]; 2], x: *const i8) -> __m256i {
        let product = |half: usize| unsafe {
            let [weights, magnitudes] = weights[half];
            let signed = _mm256_sign_epi8(four(x.add(4 * half)), weights);
            _mm256_madd_epi16(
                _mm256_maddubs_epi16(magnitudes, signed),
                _mm256_set1_epi16(1),
            )
        };
        unsafe { _mm256_add_epi32(_mm256_add_epi32(sums, product(0)), product(1)) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(sums) }
    }
}
