//! Eight f32 lanes: the only thing the algorithms know of an instruction set.
//!
//! Each `arch` module implements [`Vector`] for its registers; `ops` is written once over it.
//! Every implementation has eight lanes, so that loops, tails and MXFP4 blocks (four vectors) are the
//! same everywhere. Invariant: an operation on one lane gives the same bits whatever the other lanes hold,
//! and [`Vector::sum4`] adds the lanes of each argument in the order of [`Vector::sum`].

/// Lanes of every [`Vector`].
pub(crate) const LANES: usize = 8;

/// What [`Vector::load_i8`] multiplies by: an eight-bit number becomes the top byte of 32.
pub(crate) const I8_UNIT: f32 = 16_777_216.0;

/// E2M1 numbers (the elements of MXFP4) as the high byte of their bf16 form, indexed by their four bits.
/// Magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign.
pub(crate) const E2M1_HIGH: [u8; 16] = [
    0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0,
];

/// The low byte that goes with [`E2M1_HIGH`].
pub(crate) const E2M1_LOW: [u8; 16] = [
    0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0,
];

/// Eight f32.
///
/// # Safety
/// Every function may only run on a machine that has the instruction set of the implementing type, inside
/// a function compiled for it (`dispatch!` makes those). Pointers may be unaligned and must be valid for
/// what is read or written.
pub(crate) trait Vector: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Eight little-endian bf16 numbers.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// Sixteen bf16 numbers as the machine's own integers: the even ones, and the odd ones.
    unsafe fn load_bf16_pairs(from: *const u16) -> [Self; 2];
    /// Sixteen i8 numbers times [`I8_UNIT`]: the first eight, and the others.
    unsafe fn load_i8(from: *const u8) -> [Self; 2];
    /// The 32 E2M1 numbers of one MXFP4 block (16 bytes), in order, unscaled.
    unsafe fn load_e2m1(from: *const u8) -> [Self; 4];

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once where the hardware can.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// The larger of the two, `other` where `self` is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// To the nearest whole number.
    unsafe fn round(self) -> Self;
    /// `2^self` for whole numbers in -126..=127.
    unsafe fn exp2_whole(self) -> Self;
    /// `self` where `x >= bound`, else +0.
    unsafe fn or_zero_below(self, x: Self, bound: Self) -> Self;
    /// The even and the odd elements of the sequence `self, next`.
    unsafe fn deinterleave(self, next: Self) -> (Self, Self);

    /// `((l0 + l4) + (l1 + l5)) + ((l2 + l6) + (l3 + l7))`.
    unsafe fn sum(self) -> f32;
    /// The sums of four vectors, cheaper than one by one.
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4];
    /// The largest lane.
    unsafe fn max_lane(self) -> f32;

    /// `len < LANES` numbers, then zeros.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, len: usize) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller vouches for `len` readable numbers, and `len < LANES`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), len);
            Self::load(lanes.as_ptr())
        }
    }

    /// `len < LANES` bf16 numbers, then zeros.
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const u8, len: usize) -> Self {
        let mut bytes = [0u8; 2 * LANES];
        // SAFETY: the caller vouches for `len` readable bf16 numbers, and `len < LANES`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), 2 * len);
            Self::load_bf16(bytes.as_ptr())
        }
    }

    /// The first `len < LANES` lanes.
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, len: usize) {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller vouches for `len` writable numbers, and `len < LANES`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, len);
        }
    }
}

/// `e^x`, within 2 units in the last place; exactly 0 below -87.3 (where the result would be subnormal),
/// and no larger than `e^88` above 88.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; ln 2 is split in two so that `n` times its high part is exact;
/// `e^r` is its Taylor polynomial of degree 7, whose error there is 6e-9.
///
/// # Safety
/// That of [`Vector`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.0;
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 7] = [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    // SAFETY: no pointers; the caller vouches for the instruction set.
    unsafe {
        let lowest = V::splat(LOWEST);
        let clamped = x.max(lowest).min(V::splat(HIGHEST));
        let n = clamped.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-LN2_HIGH), clamped);
        let r = n.mul_add(V::splat(-LN2_LOW), r);
        let mut polynomial = V::splat(1.0 / 5040.0);
        for coefficient in COEFFICIENTS {
            polynomial = polynomial.mul_add(r, V::splat(coefficient));
        }
        polynomial.mul(n.exp2_whole()).or_zero_below(x, lowest)
    }
}
