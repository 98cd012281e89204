//! The fallback: eight lanes in an array, left to the compiler to vectorize for the base instruction set.
//!
//! Multiplies and adds with two roundings: a fused one is a library call where the hardware lacks it.

use crate::vector::{E2M1_HIGH, E2M1_LOW, LANES, Vector};

#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; LANES]);

impl Scalar {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self.0;
        for (a, b) in lanes.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Scalar(lanes)
    }
}

// SAFETY of the pointer functions: the caller of `Vector` vouches for validity; reads and writes here are unaligned.
impl Vector for Scalar {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Scalar([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable numbers.
        Scalar(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight writable numbers.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller vouches for sixteen readable bytes.
        let pairs = unsafe { from.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        Scalar(pairs.map(|pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> [Self; 2] {
        // SAFETY: the caller vouches for sixteen readable numbers.
        let pairs = unsafe { from.cast::<[[u16; 2]; LANES]>().read_unaligned() };
        [0, 1].map(|i| Scalar(pairs.map(|pair| f32::from_bits(u32::from(pair[i]) << 16))))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> [Self; 2] {
        // SAFETY: the caller vouches for sixteen readable bytes.
        let halves = unsafe { from.cast::<[[u8; LANES]; 2]>().read_unaligned() };
        halves.map(|half| Scalar(half.map(|byte| (u32::from(byte) << 24) as i32 as f32)))
    }

    #[inline(always)]
    unsafe fn load_e2m1(from: *const u8) -> [Self; 4] {
        // SAFETY: the caller vouches for sixteen readable bytes.
        let bytes = unsafe { from.cast::<[u8; 16]>().read_unaligned() };
        let mut vectors = [Scalar([0.0; LANES]); 4];
        for (i, byte) in bytes.into_iter().enumerate() {
            let pair = &mut vectors[i / 4].0[2 * (i % 4)..][..2];
            pair[0] = e2m1(byte & 15);
            pair[1] = e2m1(byte >> 4);
        }
        vectors
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(term, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction; exact for |x| < 2^22, which is
        // all `exp` needs, and unlike `f32::round_ties_even` it is no library call on old machines.
        const MAGIC: f32 = 12_582_912.0;
        Scalar(self.0.map(|x| (x + MAGIC) - MAGIC))
    }

    #[inline(always)]
    unsafe fn exp2_whole(self) -> Self {
        Scalar(
            self.0
                .map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23)),
        )
    }

    #[inline(always)]
    unsafe fn or_zero_below(self, x: Self, bound: Self) -> Self {
        let keep = x.zip(bound, |x, bound| if x >= bound { 1.0 } else { 0.0 });
        self.zip(keep, |value, keep| if keep == 1.0 { value } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn deinterleave(self, next: Self) -> (Self, Self) {
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..LANES / 2 {
            (even[i], odd[i]) = (self.0[2 * i], self.0[2 * i + 1]);
            (even[i + 4], odd[i + 4]) = (next.0[2 * i], next.0[2 * i + 1]);
        }
        (Scalar(even), Scalar(odd))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let l = self.0;
        ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]))
    }

    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        // SAFETY: `Scalar` needs no instruction set.
        vectors.map(|vector| unsafe { vector.sum() })
    }

    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        self.0
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn e2m1(bits: u8) -> f32 {
    let (high, low) = (E2M1_HIGH[usize::from(bits)], E2M1_LOW[usize::from(bits)]);
    f32::from_bits(u32::from_be_bytes([high, low, 0, 0]))
}
