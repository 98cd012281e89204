//! NEON with the dot product instructions: eight rows in two registers; `sdot` adds four products to each row.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{E2M1_DOUBLED, Int8, Lanes, Mxfp4, Products};
use super::quantize::QuantBlock;

#[derive(Clone, Copy)]
pub(crate) struct NeonDot;

// SAFETY, for every block below: the caller of `Lanes` and `Products` vouches for NEON, its dot products and the
// pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for NeonDot {
    const ROWS: usize = 8;
    const INT8_OFFSET: u8 = 0;
    type Floats = [float32x4_t; 2];

    #[inline(always)]
    unsafe fn zeros() -> Self::Floats {
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        unsafe {
            vst1q_f32(to, floats[0]);
            vst1q_f32(to.add(4), floats[1]);
        }
    }

    #[inline(always)]
    unsafe fn add_scaled(
        sum: Self::Floats,
        term: Self::Floats,
        factor: f32,
        factors: Self::Floats,
    ) -> Self::Floats {
        [0, 1].map(|i| unsafe { vfmaq_f32(sum[i], vmulq_n_f32(term[i], factor), factors[i]) })
    }

    #[inline(always)]
    unsafe fn mul_add(sum: Self::Floats, factor: f32, term: Self::Floats) -> Self::Floats {
        [0, 1].map(|i| unsafe { vfmaq_n_f32(term[i], sum[i], factor) })
    }
}

/// `sum` plus four products per lane. In assembly, because the intrinsic is not stable yet.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller vouches for the dot product instructions; registers only.
    unsafe {
        asm!(
            // The assembler sees this function, not the one that it is inlined into.
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.16b",
            sum = inlateout(vreg) sum,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds eight columns times eight activations.
#[inline(always)]
unsafe fn dot(sums: [int32x4_t; 2], weights: [[int8x16_t; 2]; 2], x: *const i8) -> [int32x4_t; 2] {
    // SAFETY: the caller vouches for eight activations.
    unsafe {
        let four =
            |x: *const i8| vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
        let (first, second) = (four(x), four(x.add(4)));
        [0, 1].map(|i| sdot(sdot(sums[i], weights[0][i], first), weights[1][i], second))
    }
}

#[inline(always)]
unsafe fn total(sums: [int32x4_t; 2]) -> [float32x4_t; 2] {
    // SAFETY: the caller vouches for NEON.
    sums.map(|sums| unsafe { vcvtq_f32_s32(sums) })
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Mxfp4> for NeonDot {
    type Weights = [int8x16_t; 2];
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [Self::Weights; 2] {
        unsafe {
            let table = vld1q_s8(E2M1_DOUBLED.as_ptr());
            let codes = [0, 1].map(|i| vld1q_u8(block.add(32 * part + 16 * i)));
            [
                codes.map(|codes| vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15)))),
                codes.map(|codes| vqtbl1q_s8(table, vshrq_n_u8::<4>(codes))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> [float32x4_t; 2] {
        unsafe {
            let scales = vmovl_u8(vld1_u8(from));
            [vget_low_u16(scales), vget_high_u16(scales)]
                .map(|half| vreinterpretq_f32_u32(vshlq_n_u32::<23>(vmovl_u16(half))))
        }
    }

    #[inline(always)]
    unsafe fn start(_: *const QuantBlock) -> [int32x4_t; 2] {
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: [Self::Weights; 2], x: *const i8) -> Self::Sums {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> [float32x4_t; 2] {
        unsafe { total(sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Products<Int8> for NeonDot {
    type Weights = [int8x16_t; 2];
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    unsafe fn weights(block: *const u8, part: usize) -> [Self::Weights; 2] {
        let four = |i: usize| unsafe { vld1q_s8(block.add(64 * part + 16 * i).cast()) };
        [[four(0), four(1)], [four(2), four(3)]]
    }

    #[inline(always)]
    unsafe fn scales(from: *const u8) -> [float32x4_t; 2] {
        [0, 1].map(|i| unsafe {
            let scales = vld1_u16(from.add(8 * i).cast());
            vreinterpretq_f32_u32(vshll_n_u16::<16>(scales))
        })
    }

    #[inline(always)]
    unsafe fn start(_: *const QuantBlock) -> [int32x4_t; 2] {
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: [Self::Weights; 2], x: *const i8) -> Self::Sums {
        unsafe { dot(sums, weights, x) }
    }

    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> [float32x4_t; 2] {
        unsafe { total(sums) }
    }
}
