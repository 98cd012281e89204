//! Eight rows in plain Rust: every machine, and what the others are compared with.

use super::lanes::{E2M1_DOUBLED, Format, Int8, Lanes, Mxfp4, Products};
use super::quantize::QuantBlock;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

const ROWS: usize = 8;

// SAFETY, for every block below: the caller of `Lanes` and `Products` vouches for the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Portable {
    const ROWS: usize = ROWS;
    const INT8_OFFSET: u8 = 0;
    type Floats = [f32; ROWS];

    #[inline(always)]
    unsafe fn zeros() -> [f32; ROWS] {
        [0.0; ROWS]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; ROWS] {
        unsafe { from.cast::<[f32; ROWS]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(floats: [f32; ROWS], to: *mut f32) {
        unsafe { to.cast::<[f32; ROWS]>().write_unaligned(floats) }
    }

    #[inline(always)]
    unsafe fn add_scaled(
        sum: [f32; ROWS],
        term: [f32; ROWS],
        factor: f32,
        factors: [f32; ROWS],
    ) -> [f32; ROWS] {
        std::array::from_fn(|r| sum[r] + term[r] * factor * factors[r])
    }

    #[inline(always)]
    unsafe fn mul_add(sum: [f32; ROWS], factor: f32, term: [f32; ROWS]) -> [f32; ROWS] {
        std::array::from_fn(|r| sum[r] * factor + term[r])
    }
}

/// Adds eight columns times eight activations.
#[inline(always)]
unsafe fn dot(sums: [i32; ROWS], weights: [[[i8; 4]; ROWS]; 2], x: *const i8) -> [i32; ROWS] {
    // SAFETY: the caller vouches for eight activations.
    let x: [i8; 8] = unsafe { x.cast::<[i8; 8]>().read() };
    std::array::from_fn(|r| {
        let product =
            |half: usize, c: usize| i32::from(weights[half][r][c]) * i32::from(x[4 * half + c]);
        (0..4).fold(sums[r], |sum, c| sum + product(0, c) + product(1, c))
    })
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Mxfp4> for Portable {
    type Weights = [[i8; 4]; ROWS];
    type Sums = [i32; ROWS];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [Self::Weights; 2] {
        let codes = unsafe { block.cast::<[[u8; 4]; ROWS]>().add(part).read() };
        let value = |code: u8| E2M1_DOUBLED[usize::from(code & 15)];
        [
            codes.map(|row| row.map(value)),
            codes.map(|row| row.map(|byte| value(byte >> 4))),
        ]
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> [f32; ROWS] {
        let scales = unsafe { from.cast::<[u8; ROWS]>().read() };
        scales.map(|scale| f32::from_bits(u32::from(scale) << 23))
    }

    #[inline(always)]
    unsafe fn start(_: *const QuantBlock) -> [i32; ROWS] {
        [0; ROWS]
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: [Self::Weights; 2], x: *const i8) -> Self::Sums {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [i32; ROWS]) -> [f32; ROWS] {
        sums.map(|sum| sum as f32)
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Int8> for Portable {
    type Weights = [[i8; 4]; ROWS];
    type Sums = [i32; ROWS];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [Self::Weights; 2] {
        unsafe { block.cast::<[Self::Weights; 2]>().add(part).read() }
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> [f32; ROWS] {
        let scales = unsafe { from.cast::<[[u8; Int8::SCALE_BYTES]; ROWS]>().read() };
        scales.map(|scale| f32::from_bits(u32::from(u16::from_le_bytes(scale)) << 16))
    }

    #[inline(always)]
    unsafe fn start(_: *const QuantBlock) -> [i32; ROWS] {
        [0; ROWS]
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: [Self::Weights; 2], x: *const i8) -> Self::Sums {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: [i32; ROWS]) -> [f32; ROWS] {
        sums.map(|sum| sum as f32)
    }
}
