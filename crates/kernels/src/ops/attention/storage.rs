//! How a layer's keys and values lie in its cache, and how they are rounded on the way in.
//!
//! Knows nothing of queries and softmax. Invariant: what is stored for one head of one token depends on that head of that
//! token alone, so a block's bytes can be copied, shared and read in any company.
//!
//! ```text
//! cache:            [num_blocks, num_kv_heads] times
//!   numbers         block_size * HEAD_DIM, in the order below
//!   scales          block_size * bf16, one per slot; only int8 has them
//! keys, bf16:       for each eight slots, for each two elements: [slot 0: e, e+1] [slot 1: e, e+1] ...
//! keys, int8:       for each eight slots, for each element: [slot 0] [slot 1] ...
//! values, bf16:     for each slot, for each sixteen elements: [e, e+8] [e+1, e+9] ...
//! values, int8:     for each slot, its elements in order
//! ```
//! Keys lie such that lanes are positions, values such that lanes are elements. Pairs of bf16 in 32 bits are widened by a
//! shift and by a mask; sixteen int8 are spread over two vectors and converted, too large by [`Storage::UNIT`]. A scale
//! multiplies a finished logit, or a weight, so the loops over the numbers only convert.

use crate::ops::elementwise::to_bf16;
use crate::vector::{I8_UNIT, LANES, Vector};

/// Elements per attention head. Fixed: every published GPT-OSS has it.
pub const HEAD_DIM: usize = 64;

/// What keys and values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// bf16, to the nearest.
    Bf16,
    /// Eight bits with one bf16 scale per token and head, the head's largest number over 127. A head with a number that is
    /// not finite reads as NaN; one whose scale would be subnormal reads as zeros.
    Int8,
}

impl KvDtype {
    /// Its name in settings: `"bf16"` or `"int8"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one head's keys (or values) of one token, of `head_dim` elements, its scale included.
    pub const fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::Bf16 => 2 * head_dim,
            Self::Int8 => head_dim + size_of::<u16>(),
        }
    }
}

/// Where a layer's cached keys (or values) lie: in bytes, `[num_blocks, num_kv_heads]` times the slots of a head in a
/// block. Everything else about the order is this crate's own: [`crate::write_kv`] and [`crate::paged_attention`] know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key-value heads of the model.
    pub num_kv_heads: usize,
    /// Token slots per block, a multiple of 8.
    pub block_size: usize,
    /// What is stored.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Bytes that one block takes in the keys of one layer, and again in its values.
    pub fn block_bytes(&self) -> usize {
        self.num_kv_heads * self.block_size * self.dtype.head_bytes(HEAD_DIM)
    }

    /// Where the numbers of one head in a block begin.
    #[inline(always)]
    fn head_offset<S: Storage>(&self, block: usize, kv_head: usize) -> usize {
        (block * self.num_kv_heads + kv_head) * self.block_size * S::SLOT_BYTES
    }

    /// Where the keys of one head in the eight slots around one begin.
    #[inline(always)]
    pub(super) fn key_offset<S: Storage>(
        &self,
        block: usize,
        slot_in_block: usize,
        kv_head: usize,
    ) -> usize {
        self.value_offset::<S>(block, slot_in_block / LANES * LANES, kv_head)
    }

    /// Where the values of one head in one slot begin.
    #[inline(always)]
    pub(super) fn value_offset<S: Storage>(
        &self,
        block: usize,
        slot_in_block: usize,
        kv_head: usize,
    ) -> usize {
        self.head_offset::<S>(block, kv_head) + slot_in_block * HEAD_DIM * S::ELEMENT_BYTES
    }

    /// Where the scale of one head in one slot lies, if there is one.
    #[inline(always)]
    pub(super) fn scale_offset<S: Storage>(
        &self,
        block: usize,
        slot_in_block: usize,
        kv_head: usize,
    ) -> usize {
        let numbers = self.block_size * HEAD_DIM * S::ELEMENT_BYTES;
        self.head_offset::<S>(block, kv_head) + numbers + slot_in_block * size_of::<u16>()
    }
}

/// One layer's cache, borrowed for reading.
#[derive(Clone, Copy)]
pub struct KvCache<'a> {
    /// Laid out as [`KvLayout`] says.
    pub keys: &'a [u8],
    /// Laid out as [`KvLayout`] says.
    pub values: &'a [u8],
    /// The shape of both.
    pub layout: KvLayout,
}

/// A [`KvDtype`] as the loops see it.
///
/// # Safety
/// That of [`Vector`].
pub(super) trait Storage {
    const DTYPE: KvDtype;
    /// Bytes of one number.
    const ELEMENT_BYTES: usize;
    /// Bytes of one head in one slot, with its scale.
    const SLOT_BYTES: usize = Self::DTYPE.head_bytes(HEAD_DIM);
    /// Whether numbers have scales.
    const IS_SCALED: bool = Self::SLOT_BYTES > HEAD_DIM * Self::ELEMENT_BYTES;
    /// What loaded numbers are too large by, a power of two.
    const UNIT: f32;

    /// Sixteen numbers: two elements of the keys of eight slots, or elements 0 to 8 and 8 to 16 of a slot's values.
    unsafe fn load<V: Vector>(from: *const u8) -> [V; 2];
}

/// [`KvDtype::Bf16`].
pub(super) struct Bf16;

impl Storage for Bf16 {
    const DTYPE: KvDtype = KvDtype::Bf16;
    const ELEMENT_BYTES: usize = 2;
    const UNIT: f32 = 1.0;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract; sixteen numbers are 32 bytes.
        unsafe { V::load_bf16_pairs(from.cast()) }
    }
}

/// [`KvDtype::Int8`].
pub(super) struct Int8;

impl Storage for Int8 {
    const DTYPE: KvDtype = KvDtype::Int8;
    const ELEMENT_BYTES: usize = 1;
    const UNIT: f32 = I8_UNIT;

    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> [V; 2] {
        // SAFETY: the caller's contract; sixteen numbers are 16 bytes.
        unsafe { V::load_i8(from) }
    }
}

/// Stores one token's rotated keys and its values at `slot`, rounded to what `layout` says.
///
/// slot = block * block_size + offset. `k` and `v` are `[num_kv_heads, HEAD_DIM]`; `keys` and `values` are
/// laid out as `layout` says.
///
/// # Panics
/// If a shape does not fit or the slot is outside the cache.
pub fn write_kv(
    layout: KvLayout,
    keys: &mut [u8],
    values: &mut [u8],
    slot: usize,
    k: &[f32],
    v: &[f32],
) {
    let token_len = layout.num_kv_heads * HEAD_DIM;
    assert!(
        k.len() == token_len && v.len() == token_len,
        "k and v are [{}, {HEAD_DIM}]",
        layout.num_kv_heads
    );
    let heads = k.as_chunks().0.iter().zip(v.as_chunks().0);
    for (kv_head, (k, v)) in heads.enumerate() {
        let head = HeadSlot {
            layout,
            block: slot / layout.block_size,
            slot: slot % layout.block_size,
            kv_head,
        };
        match layout.dtype {
            KvDtype::Bf16 => head.write_bf16(keys, values, k, v),
            KvDtype::Int8 => head.write_int8(keys, values, k, v),
        }
    }
}

/// One head of one token in the cache.
struct HeadSlot {
    layout: KvLayout,
    block: usize,
    /// In the block.
    slot: usize,
    kv_head: usize,
}

impl HeadSlot {
    fn write_bf16(
        &self,
        keys: &mut [u8],
        values: &mut [u8],
        k: &[f32; HEAD_DIM],
        v: &[f32; HEAD_DIM],
    ) {
        let bytes = |x: f32| to_bf16(x).to_ne_bytes();
        let lane = self.slot % LANES;
        let pairs: &mut [[u8; 4]] = self.keys::<Bf16>(keys).as_chunks_mut().0;
        for (eight, [even, odd]) in pairs.chunks_exact_mut(LANES).zip(k.as_chunks().0) {
            let ([a, b], [c, d]) = (bytes(*even), bytes(*odd));
            eight[lane] = [a, b, c, d];
        }
        let pairs: &mut [[u8; 4]] = self.values::<Bf16>(values).as_chunks_mut().0;
        for (to, x) in pairs.chunks_exact_mut(LANES).zip(v.as_chunks().0) {
            let x: &[f32; 2 * LANES] = x;
            for (i, to) in to.iter_mut().enumerate() {
                let ([a, b], [c, d]) = (bytes(x[i]), bytes(x[i + LANES]));
                *to = [a, b, c, d];
            }
        }
    }

    fn write_int8(
        &self,
        keys: &mut [u8],
        values: &mut [u8],
        k: &[f32; HEAD_DIM],
        v: &[f32; HEAD_DIM],
    ) {
        let (k, scale) = to_int8(k);
        let lane = self.slot % LANES;
        let eights = self.keys::<Int8>(keys).chunks_exact_mut(LANES);
        for (eight, x) in eights.zip(k) {
            eight[lane] = x;
        }
        self.scale(keys).copy_from_slice(&scale.to_le_bytes());
        let (v, scale) = to_int8(v);
        self.values::<Int8>(values).copy_from_slice(&v);
        self.scale(values).copy_from_slice(&scale.to_le_bytes());
    }

    /// The keys of the eight slots around this one.
    fn keys<'a, S: Storage>(&self, cache: &'a mut [u8]) -> &'a mut [u8] {
        let at = (self.layout).key_offset::<S>(self.block, self.slot, self.kv_head);
        &mut cache[at..][..LANES * HEAD_DIM * S::ELEMENT_BYTES]
    }

    fn values<'a, S: Storage>(&self, cache: &'a mut [u8]) -> &'a mut [u8] {
        let at = (self.layout).value_offset::<S>(self.block, self.slot, self.kv_head);
        &mut cache[at..][..HEAD_DIM * S::ELEMENT_BYTES]
    }

    fn scale<'a>(&self, cache: &'a mut [u8]) -> &'a mut [u8] {
        let at = (self.layout).scale_offset::<Int8>(self.block, self.slot, self.kv_head);
        &mut cache[at..][..size_of::<u16>()]
    }
}

/// The eight-bit form of one head, and its scale in bf16.
fn to_int8(x: &[f32; HEAD_DIM]) -> ([u8; HEAD_DIM], u16) {
    const NAN: u16 = 0x7fc0;
    /// Added to a number below 2^22 it leaves the nearest whole one, ties to even, in the last bits: 1.5 * 2^23.
    const ROUNDING: f32 = 12_582_912.0;
    // As whole numbers, magnitudes have the order of the numbers, and what is not finite comes last.
    let largest = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max();
    let largest = f32::from_bits(largest.unwrap_or(0));
    if !largest.is_finite() {
        return ([0; HEAD_DIM], NAN);
    }
    // Rounding down can leave a quotient of 127.25, which is 127 once it is rounded itself: nothing is cut off.
    let bits = to_bf16(largest / 127.0);
    let scale = f32::from_bits(u32::from(bits) << 16);
    if scale < f32::MIN_POSITIVE {
        return ([0; HEAD_DIM], 0);
    }
    (x.map(|x| (x / scale + ROUNDING).to_bits() as u8), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(x: [f32; HEAD_DIM]) -> [f32; HEAD_DIM] {
        let (numbers, scale) = to_int8(&x);
        let scale = f32::from_bits(u32::from(scale) << 16);
        numbers.map(|number| f32::from(number as i8) * scale)
    }

    #[test]
    fn what_comes_back_is_within_half_a_step() {
        for exponent in [-100, -10, 0, 3, 100] {
            for tenth in 10..20 {
                let largest = 0.1 * tenth as f32 * 2f32.powi(exponent);
                let x: [f32; HEAD_DIM] =
                    std::array::from_fn(|i| largest * (i as f32 / 31.5 - 1.0).powi(3));
                // The scale is within a 256th of the largest number's 127th.
                let step = largest / 127.0 * (1.0 + 1.0 / 256.0);
                for (x, y) in x.iter().zip(read(x)) {
                    assert!((x - y).abs() <= 0.5001 * step, "{x} came back as {y}");
                }
                assert_eq!(read(x.map(|x| -x)), read(x).map(|x| -x), "symmetric");
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_number() {
        let mut x = [0.0; HEAD_DIM];
        x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        assert_eq!(read(x)[..6], [127.0, 0.0, 2.0, 2.0, 0.0, -2.0]);
    }

    #[test]
    fn no_scale_is_infinite_or_subnormal() {
        assert_eq!(to_int8(&[0.0; HEAD_DIM]), ([0; HEAD_DIM], 0));
        assert_eq!(read([1e-37; HEAD_DIM]), [0.0; HEAD_DIM]);
        let mut x = [1.0; HEAD_DIM];
        x[3] = f32::MAX;
        let largest = read(x)[3];
        assert!((largest / f32::MAX - 1.0).abs() < 0.01, "{largest}");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[3] = bad;
            assert!(read(x).iter().all(|x| x.is_nan()), "{bad} is hidden");
        }
    }
}
