//! AVX2 with FMA: eight lanes in one register.

use std::arch::x86_64::*;

use crate::vector::{E2M1_HIGH, E2M1_LOW, Vector};

#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

/// A 16-byte table in both halves of a register.
#[inline(always)]
unsafe fn both_halves(table: &[u8; 16]) -> __m256i {
    // SAFETY: reads exactly the sixteen bytes of `table`.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) }
}

// SAFETY, for every block below: the caller of `Vector` vouches for AVX2 and FMA and for the pointers; all
// loads and stores are the unaligned kind.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Avx2 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Avx2(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // A bf16 is the upper half of the f32 it stands for.
        unsafe {
            let widened = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(widened)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> [Self; 2] {
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))),
                Avx2(_mm256_castsi256_ps(odd)),
            ]
        }
    }

    /// One shuffle per vector puts each byte on top of zeros; extending the sign would take two instructions, or more.
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> [Self; 2] {
        unsafe {
            let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast()));
            let first = _mm256_setr_epi8(
                -1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, // lower half
                -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7, // upper half
            );
            let last = _mm256_setr_epi8(
                -1, -1, -1, 8, -1, -1, -1, 9, -1, -1, -1, 10, -1, -1, -1, 11, // lower half
                -1, -1, -1, 12, -1, -1, -1, 13, -1, -1, -1, 14, -1, -1, -1, 15, // upper half
            );
            [
                Avx2(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, first))),
                Avx2(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, last))),
            ]
        }
    }

    /// Looks up the two bytes of each element's bf16 form, then interleaves them with zeros below.
    ///
    /// Interleaving works within register halves, so `SPREAD` first deals the bytes out such that element
    /// groups 0..4, 8..12, 16..20, 24..28 lie in the lower half and the others in the upper one; each byte
    /// twice, for its two nibbles.
    #[inline(always)]
    unsafe fn load_e2m1(from: *const u8) -> [Self; 4] {
        unsafe {
            let spread = _mm256_setr_epi8(
                0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13, // lower half
                2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15, // upper half
            );
            let packed = _mm256_loadu2_m128i(from.cast(), from.cast());
            let twice = _mm256_shuffle_epi8(packed, spread);
            // In each pair of equal bytes: the low nibble of the first, the high nibble of the second.
            let shifted = _mm256_srli_epi16::<4>(twice);
            let second = _mm256_set1_epi16(0xff00u16 as i16);
            let nibbles = _mm256_and_si256(
                _mm256_blendv_epi8(twice, shifted, second),
                _mm256_set1_epi8(15),
            );

            let high = _mm256_shuffle_epi8(both_halves(&E2M1_HIGH), nibbles);
            let low = _mm256_shuffle_epi8(both_halves(&E2M1_LOW), nibbles);
            let zero = _mm256_setzero_si256();
            let first = _mm256_unpacklo_epi8(low, high); // bf16 of elements 0..16
            let last = _mm256_unpackhi_epi8(low, high); // bf16 of elements 16..32
            [
                Avx2(_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, first))),
                Avx2(_mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, first))),
                Avx2(_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, last))),
                Avx2(_mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, last))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Avx2(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // The instruction gives its second operand if either is NaN.
        Avx2(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        Avx2(unsafe {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    unsafe fn or_zero_below(self, x: Self, bound: Self) -> Self {
        unsafe {
            Avx2(_mm256_and_ps(
                self.0,
                _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, bound.0),
            ))
        }
    }

    #[inline(always)]
    unsafe fn deinterleave(self, next: Self) -> (Self, Self) {
        // The shuffle works within halves: 0 2 8 10 | 4 6 12 14, put in order by quarters.
        unsafe {
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(self.0, next.0));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(self.0, next.0));
            (
                Avx2(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(
                    even,
                ))),
                Avx2(_mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(
                    odd,
                ))),
            )
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let halves = _mm_add_ps(
                _mm256_castps256_ps128(self.0),
                _mm256_extractf128_ps::<1>(self.0),
            );
            let pairs = _mm_hadd_ps(halves, halves);
            _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs))
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        unsafe {
            // Lower half: a's lanes 0..4 + 4..8; upper half: b's. Then the same of c and d.
            let ab = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a.0, b.0),
                _mm256_permute2f128_ps::<0x31>(a.0, b.0),
            );
            let cd = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(c.0, d.0),
                _mm256_permute2f128_ps::<0x31>(c.0, d.0),
            );
            let pairs = _mm256_hadd_ps(ab, cd); // a a c c | b b d d
            let sums = _mm256_hadd_ps(pairs, pairs); // a c a c | b d b d
            let ordered = _mm_unpacklo_ps(
                _mm256_castps256_ps128(sums),
                _mm256_extractf128_ps::<1>(sums),
            );
            let mut result = [0.0; 4];
            _mm_storeu_ps(result.as_mut_ptr(), ordered);
            result
        }
    }

    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        unsafe {
            let halves = _mm_max_ps(
                _mm256_castps256_ps128(self.0),
                _mm256_extractf128_ps::<1>(self.0),
            );
            let pairs = _mm_max_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }
}
