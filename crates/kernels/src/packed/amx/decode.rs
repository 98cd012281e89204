//! One block of a group of packed weights as a tile of bf16: row `i` has the columns `2 i` and `2 i + 1` of sixteen rows.

use std::arch::x86_64::*;

use crate::packed::QUANT_BLOCK;
use crate::packed::lanes::E2M1_DOUBLED;
use crate::packed::quantize::QuantBlock;

/// The exponent that stands for zero. A scale adds to it as to the others, and what comes out is `2^-62` times the smallest
/// number with this scale or less: nothing that a product in f32 could show.
const ZERO: u16 = 63;

/// Scales below are nothing beside that, and are read as this one: their numbers are below `2^-60`.
const SMALLEST_SCALE: i32 = 127 - ZERO as i32;

/// Scales above are read as this one: the numbers 4 and 6 are infinite and not a number already.
const LARGEST_SCALE: i32 = 253;

/// The bf16 forms of the E2M1 numbers, twice: the lookup takes five bits, of which the fifth belongs to the next number.
const TABLE: [u16; 32] = {
    let mut table = [ZERO << 7; 32];
    let mut i = 0;
    while i < 32 {
        let number = E2M1_DOUBLED[i % 16] as f32 / 2.0;
        if number != 0.0 {
            table[i] = (number.to_bits() >> 16) as u16;
        }
        i += 1;
    }
    table
};

/// MXFP4: in 16-bit word `p` of row `r` in part `i`, number `j` is column `8 i + 2 j + p`. A scale is added to exponents.
///
/// # Safety
/// AVX-512 F and BW; 256 bytes and 16 scales to read, 1024 bytes, on a cache line, to write.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn mxfp4(block: *const u8, scales: *const u8, tile: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let table = _mm512_loadu_si512(TABLE.as_ptr().cast());
        let scales = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.cast()));
        let scales = _mm512_max_epi32(scales, _mm512_set1_epi32(SMALLEST_SCALE));
        let scales = _mm512_min_epi32(scales, _mm512_set1_epi32(LARGEST_SCALE));
        let up = _mm512_slli_epi32::<7>(_mm512_sub_epi32(scales, _mm512_set1_epi32(127)));
        // In both halves.
        let up = _mm512_mask_blend_epi16(0xaaaa_aaaa, up, _mm512_slli_epi32::<16>(up));
        for part in 0..4 {
            let codes = _mm512_loadu_si512(block.add(64 * part).cast());
            let shifted = [
                codes,
                _mm512_srli_epi16::<4>(codes),
                _mm512_srli_epi16::<8>(codes),
                _mm512_srli_epi16::<12>(codes),
            ];
            for (j, codes) in shifted.into_iter().enumerate() {
                let numbers = _mm512_add_epi16(_mm512_permutexvar_epi16(codes, table), up);
                _mm512_store_si512(tile.add((4 * part + j) * 64).cast(), numbers);
            }
        }
    }
}

/// For each f32: zeros, the byte in the place that is worth one, and the exponent that makes it so: `2^15 + byte`.
const WIDENED: i32 = 0x4700_0000;

/// Minus what [`WIDENED`] and the offset of packed int8 weights have added.
const MINUS_OFFSET: f32 = -(32768.0 + 128.0);

/// Where the bytes of a register go that become number `16 quarter..16 quarter + 16`.
const fn spread(quarter: usize) -> [u8; 64] {
    let mut places = [0; 64];
    let mut i = 0;
    while i < 16 {
        places[4 * i + 1] = (16 * quarter + i) as u8;
        i += 1;
    }
    places
}

const SPREAD: [[u8; 64]; 4] = [spread(0), spread(1), spread(2), spread(3)];

/// Each scale twice: those of the first eight rows, and of the others.
const TWICE: [[i32; 16]; 2] = [
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
    [8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15],
];

/// int8, offset by 128: byte `32 i + 2 r + p` is column `2 i + p` of row `r`. The product with the scale is exact, and is
/// then rounded to bf16.
///
/// # Safety
/// AVX-512 F, BW, VBMI and BF16; 512 bytes and 16 scales of 2 bytes to read, 1024 bytes, on a cache line, to write.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
#[inline]
pub(super) unsafe fn int8(block: *const u8, scales: *const u8, tile: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let scales = _mm512_cvtepu16_epi32(_mm256_loadu_si256(scales.cast()));
        let scales = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(scales));
        let [low, high] = TWICE
            .map(|twice| _mm512_permutexvar_ps(_mm512_loadu_si512(twice.as_ptr().cast()), scales));
        let minus = _mm512_set1_ps(MINUS_OFFSET);
        let (minus_low, minus_high) = (_mm512_mul_ps(low, minus), _mm512_mul_ps(high, minus));
        let widened = _mm512_set1_epi32(WIDENED);
        for part in 0..8 {
            let bytes = _mm512_loadu_si512(block.add(64 * part).cast());
            for half in 0..2 {
                let number = |quarter: usize| {
                    let spread = _mm512_loadu_si512(SPREAD[2 * half + quarter].as_ptr().cast());
                    let wide =
                        _mm512_mask_permutexvar_epi8(widened, 0x2222_2222_2222_2222, spread, bytes);
                    _mm512_castsi512_ps(wide)
                };
                let low = _mm512_fmadd_ps(number(0), low, minus_low);
                let high = _mm512_fmadd_ps(number(1), high, minus_high);
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_store_si512(tile.add((2 * part + half) * 64).cast(), both);
            }
        }
    }
}

/// Activations as bf16, in order; subnormal ones become zero.
///
/// # Safety
/// AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn round(x: &[f32], out: &mut [QuantBlock]) {
    for (x, out) in x.as_chunks::<QUANT_BLOCK>().0.iter().zip(out) {
        // SAFETY: reads 32 numbers, writes 64 bytes.
        unsafe {
            let (low, high) = (
                _mm512_loadu_ps(x.as_ptr()),
                _mm512_loadu_ps(x.as_ptr().add(16)),
            );
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(std::ptr::from_mut(out).cast(), both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[repr(align(64))]
    struct Tile([u16; 512]);

    fn has_amx() -> bool {
        let found = Isa::available().into_iter().any(Isa::is_amx);
        if !found {
            eprintln!("skipped: no AMX here");
        }
        found
    }

    fn number(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[test]
    fn every_code_with_every_scale_is_its_number() {
        if !has_amx() {
            return;
        }
        for scale in 0..=255u8 {
            // Every nibble of a byte in turn, in all places.
            let block: Vec<u8> = (0..256u32).map(|i| (i * 37 + 11) as u8).collect();
            let mut tile = Tile([0; 512]);
            // SAFETY: the machine has it, and the lengths are right.
            unsafe {
                mxfp4(
                    block.as_ptr(),
                    [scale; 16].as_ptr(),
                    tile.0.as_mut_ptr().cast(),
                )
            };
            for (place, got) in tile.0.iter().enumerate() {
                let (pair, row, odd) = (place / 32, place / 2 % 16, place % 2);
                let byte = block[(pair / 4 * 16 + row) * 4 + odd * 2 + pair % 4 / 2];
                let code = if pair % 2 == 1 { byte >> 4 } else { byte & 15 };
                let unscaled = f32::from(E2M1_DOUBLED[usize::from(code)]) / 2.0;
                let expect = f64::from(unscaled) * 2f64.powi(i32::from(scale) - 127);
                let got = number(*got);
                match i32::from(scale) {
                    ..SMALLEST_SCALE => {
                        assert!(got.abs() < 2f32.powi(-60), "{code} {scale}: {got}")
                    }
                    LARGEST_SCALE.. => {
                        assert_eq!(
                            unscaled.abs() >= 4.0,
                            !got.is_finite(),
                            "{code} {scale}: {got}"
                        );
                    }
                    _ if unscaled == 0.0 => {
                        let smallest = 2f64.powi(i32::from(scale) - 128);
                        assert!(
                            f64::from(got.abs()) <= smallest * 2f64.powi(-62),
                            "{scale}: {got}"
                        );
                    }
                    _ => assert_eq!(f64::from(got), expect, "{code} {scale}"),
                }
            }
        }
    }

    #[test]
    fn every_byte_with_its_scale_is_rounded_once() {
        if !has_amx() {
            return;
        }
        for scale in [0x3f80u16, 0x3f81, 0x3fd5, 0x3cff, 0x0480, 0x7000] {
            let block: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
            let mut tile = Tile([0; 512]);
            let scales = [scale; 16];
            // SAFETY: the machine has it, and the lengths are right.
            unsafe {
                int8(
                    block.as_ptr(),
                    scales.as_ptr().cast(),
                    tile.0.as_mut_ptr().cast(),
                )
            };
            for (got, byte) in tile.0.iter().zip(&block) {
                let exact = (f32::from(*byte) - 128.0) * number(scale);
                assert_eq!(
                    *got,
                    crate::ops::elementwise::to_bf16(exact),
                    "{byte} times {scale:#x}"
                );
            }
        }
    }
}
