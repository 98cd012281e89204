//! NEON: eight lanes in two registers.

use std::arch::aarch64::*;

use crate::vector::{E2M1_HIGH, E2M1_LOW, Vector};

#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t, float32x4_t);

/// Eight bf16 numbers to f32: a bf16 is the upper half of the f32 it stands for.
#[inline(always)]
unsafe fn widen(bits: uint16x8_t) -> Neon {
    // SAFETY: no pointers; the caller vouches for NEON.
    unsafe {
        Neon(
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(bits))),
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(bits))),
        )
    }
}

// SAFETY, for every block below: the caller of `Vector` vouches for NEON and for the pointers; NEON loads and
// stores of f32 and u8 need no more than the alignment of the pointer's type, and f32 pointers come from slices
// of f32.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Neon {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        let x = unsafe { vdupq_n_f32(x) };
        Neon(x, x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Neon(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        unsafe { widen(vreinterpretq_u16_u8(vld1q_u8(from))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> [Self; 2] {
        unsafe {
            let pairs =
                [vld1q_u16(from), vld1q_u16(from.add(8))].map(|bits| vreinterpretq_u32_u16(bits));
            let [a, b] = pairs.map(|pairs| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)));
            let odd = vdupq_n_u32(0xffff_0000);
            let [c, d] = pairs.map(|pairs| vreinterpretq_f32_u32(vandq_u32(pairs, odd)));
            [Neon(a, b), Neon(c, d)]
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> [Self; 2] {
        unsafe {
            // Twice interleaved with zeros below, each byte is on top of 32 bits.
            let (bytes, zero) = (vld1q_u8(from), vdupq_n_u8(0));
            [vzip1q_u8(zero, bytes), vzip2q_u8(zero, bytes)].map(|pairs| {
                let (pairs, zero) = (vreinterpretq_s16_u8(pairs), vdupq_n_s16(0));
                Neon(
                    vcvtq_f32_s32(vreinterpretq_s32_s16(vzip1q_s16(zero, pairs))),
                    vcvtq_f32_s32(vreinterpretq_s32_s16(vzip2q_s16(zero, pairs))),
                )
            })
        }
    }

    #[inline(always)]
    unsafe fn load_e2m1(from: *const u8) -> [Self; 4] {
        unsafe {
            let packed = vld1q_u8(from);
            let (even, odd) = (vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed));
            let (high, low) = (vld1q_u8(E2M1_HIGH.as_ptr()), vld1q_u8(E2M1_LOW.as_ptr()));
            let (first, last) = (vzip1q_u8(even, odd), vzip2q_u8(even, odd)); // elements 0..16, 16..32
            let (first_high, first_low) = (vqtbl1q_u8(high, first), vqtbl1q_u8(low, first));
            let (last_high, last_low) = (vqtbl1q_u8(high, last), vqtbl1q_u8(low, last));
            [
                widen(vreinterpretq_u16_u8(vzip1q_u8(first_low, first_high))),
                widen(vreinterpretq_u16_u8(vzip2q_u8(first_low, first_high))),
                widen(vreinterpretq_u16_u8(vzip1q_u8(last_low, last_high))),
                widen(vreinterpretq_u16_u8(vzip2q_u8(last_low, last_high))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Neon(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Neon(vsubq_f32(self.0, other.0), vsubq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Neon(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Neon(vdivq_f32(self.0, other.0), vdivq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        unsafe {
            Neon(
                vfmaq_f32(term.0, self.0, factor.0),
                vfmaq_f32(term.1, self.1, factor.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Neon(vminnmq_f32(self.0, other.0), vminnmq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Neon(vmaxnmq_f32(self.0, other.0), vmaxnmq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Neon(vrndnq_f32(self.0), vrndnq_f32(self.1)) }
    }

    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        unsafe {
            let bias = vdupq_n_s32(127);
            let low = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(self.0), bias));
            let high = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(self.1), bias));
            Neon(vreinterpretq_f32_s32(low), vreinterpretq_f32_s32(high))
        }
    }

    #[inline(always)]
    unsafe fn or_zero_below(self, x: Self, bound: Self) -> Self {
        unsafe {
            let low = vandq_u32(vreinterpretq_u32_f32(self.0), vcgeq_f32(x.0, bound.0));
            let high = vandq_u32(vreinterpretq_u32_f32(self.1), vcgeq_f32(x.1, bound.1));
            Neon(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }

    #[inline(always)]
    unsafe fn deinterleave(self, next: Self) -> (Self, Self) {
        unsafe {
            (
                Neon(vuzp1q_f32(self.0, self.1), vuzp1q_f32(next.0, next.1)),
                Neon(vuzp2q_f32(self.0, self.1), vuzp2q_f32(next.0, next.1)),
            )
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let halves = vaddq_f32(self.0, self.1);
            let pairs = vpaddq_f32(halves, halves);
            vgetq_lane_f32::<0>(vpaddq_f32(pairs, pairs))
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        unsafe {
            let ab = vpaddq_f32(vaddq_f32(a.0, a.1), vaddq_f32(b.0, b.1)); // a a b b
            let cd = vpaddq_f32(vaddq_f32(c.0, c.1), vaddq_f32(d.0, d.1)); // c c d d
            let mut result = [0.0; 4];
            vst1q_f32(result.as_mut_ptr(), vpaddq_f32(ab, cd));
            result
        }
    }

    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(self.0, self.1)) }
    }
}
