//! Activations in eight bits: 32 numbers, their scale, and the sums that make unsigned products signed.

use super::QUANT_BLOCK;
use super::lanes::{E2M1_OFFSET, Lanes};
use crate::Isa;

/// 32 activations, rounded to what products of one instruction set take. For AMX these are 32 bf16 numbers in this memory;
/// for all others, number `i` is `values[i] * scale`, off by at most half a `scale`.
///
/// Some instruction sets multiply unsigned weights by signed activations. Weights are then stored with an offset, and
/// the sum of the products starts at minus the offset times the sum of the activations.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct QuantBlock {
    pub(crate) values: [i8; QUANT_BLOCK],
    pub(crate) scale: f32,
    /// Minus MXFP4's offset times the sum of the values at the first two, and of those at the last two, of every four
    /// places: at most 12 x 16 x 127.
    pub(crate) mxfp4_pairs: [i16; 2],
    /// Both of `mxfp4_pairs`.
    pub(crate) mxfp4: i32,
    /// Minus int8's offset of 128 times the sum of the values.
    pub(crate) int8: i32,
    rest: [u32; 4],
}

impl QuantBlock {
    /// The same memory as 32 bf16 numbers, which is what it holds for AMX.
    fn bf16(&self) -> &[u16; QUANT_BLOCK] {
        // SAFETY: 64 bytes without gaps, and any of them are numbers; the alignment suffices.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }

    /// Number `index`, as the kernels of `isa` see it, for which the block was made.
    ///
    /// # Panics
    /// If `index` is not below 32.
    pub fn get(&self, isa: Isa, index: usize) -> f32 {
        if isa.is_amx() {
            return f32::from_bits(u32::from(self.bf16()[index]) << 16);
        }
        f32::from(self.values[index]) * self.scale
    }
}

/// Of all bits.
impl PartialEq for QuantBlock {
    fn eq(&self, other: &Self) -> bool {
        self.bf16() == other.bf16()
    }
}

/// Rounds `x` to blocks of 32. In eight bits the largest magnitude of a block becomes 127, and a block with a number that is
/// not finite gets the scale NaN; in bf16 such a number stays what it is.
///
/// # Panics
/// If `x.len()` is not 32 times `out.len()`.
pub fn quantize(isa: Isa, x: &[f32], out: &mut [QuantBlock]) {
    assert_eq!(x.len(), out.len() * QUANT_BLOCK, "blocks of {QUANT_BLOCK}");
    #[cfg(target_arch = "x86_64")]
    if isa.is_amx() {
        // SAFETY: where there is AMX for us there is AVX-512 BF16.
        return unsafe { super::amx::round(x, out) };
    }
    // SAFETY: the lengths are checked.
    unsafe { quantize_unchecked(isa, x, out) }
}

dispatch_lanes! { fn quantize_unchecked = quantize_generic(x: &[f32], out: &mut [QuantBlock]) }

#[inline(always)]
unsafe fn quantize_generic<L: Lanes>(x: &[f32], out: &mut [QuantBlock]) {
    for (x, out) in x.as_chunks().0.iter().zip(out) {
        *out = block(x);
    }
}

/// Written so that the compiler makes whole vectors of it: no comparison of floats, no saturating conversion.
#[inline(always)]
pub(crate) fn block(x: &[f32; QUANT_BLOCK]) -> QuantBlock {
    // Of floats without their sign, the order is that of their bits; NaN is above infinity.
    let largest = x
        .iter()
        .fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return QuantBlock {
            scale: f32::NAN,
            ..QuantBlock::default()
        };
    }
    let scale = largest / 127.0;
    // Zero, or so small that its inverse overflows: nothing that a product could show.
    let inverse = if scale < f32::MIN_POSITIVE {
        0.0
    } else {
        1.0 / scale
    };
    let mut values = [0; QUANT_BLOCK];
    let mut sums = [0i16; 4];
    for (values, x) in values
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(x.as_chunks::<4>().0)
    {
        for i in 0..4 {
            let rounded = (x[i] * inverse).round_ties_even();
            // SAFETY: finite, and at most 127 in magnitude but for rounding errors of a few units in the last place.
            let rounded = unsafe { rounded.to_int_unchecked::<i32>() };
            values[i] = rounded as i8;
            sums[i] += rounded as i16;
        }
    }
    let offset = -i16::from(E2M1_OFFSET);
    let (first, last) = (sums[0] + sums[1], sums[2] + sums[3]);
    let sum = i32::from(first) + i32::from(last);
    QuantBlock {
        values,
        scale,
        mxfp4_pairs: [offset * first, offset * last],
        mxfp4: i32::from(offset) * sum,
        int8: -128 * sum,
        rest: [0; 4],
    }
}
