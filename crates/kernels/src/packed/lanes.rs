//! What the packed kernels need of an instruction set: rows side by side, four columns of each per register lane.
//!
//! Knows no loop. Invariant: every implementation computes the same integers; only the number of rows differs, and f32
//! sums are fused multiply-adds where the hardware has them.

use super::quantize::QuantBlock;

/// Rows side by side, one f32 each.
///
/// # Safety
/// Every function may only run on a machine that has the instruction set of the implementing type, inside a function
/// compiled for it (`dispatch_lanes!` makes those). Pointers may be unaligned and must be valid for what is read or
/// written.
pub(crate) trait Lanes: Copy {
    /// Rows of a group.
    const ROWS: usize;
    /// What is added to int8 weights when they are packed, for instruction sets that multiply unsigned by signed.
    const INT8_OFFSET: u8;
    /// One f32 per row.
    type Floats: Copy;

    unsafe fn zeros() -> Self::Floats;
    unsafe fn load(from: *const f32) -> Self::Floats;
    unsafe fn store(floats: Self::Floats, to: *mut f32);
    /// `sum + (term * factor) * factors`.
    unsafe fn add_scaled(
        sum: Self::Floats,
        term: Self::Floats,
        factor: f32,
        factors: Self::Floats,
    ) -> Self::Floats;
    /// `sum * factor + term`.
    unsafe fn mul_add(sum: Self::Floats, factor: f32, term: Self::Floats) -> Self::Floats;
}

/// A way of packing weights.
pub(crate) trait Format {
    /// What the packed values are multiples of.
    const UNIT: f32;
    /// Bytes of a block's 32 values in one row.
    const ROW_BYTES: usize;
    /// Bytes of a block's scale in one row.
    const SCALE_BYTES: usize;
}

/// E2M1 codes and E8M0 scales. The values are doubled, so that they are whole.
pub(crate) struct Mxfp4;

impl Format for Mxfp4 {
    const UNIT: f32 = 0.5;
    const ROW_BYTES: usize = 16;
    const SCALE_BYTES: usize = 1;
}

/// Signed bytes and bf16 scales.
pub(crate) struct Int8;

impl Format for Int8 {
    const UNIT: f32 = 1.0;
    const ROW_BYTES: usize = 32;
    const SCALE_BYTES: usize = 2;
}

/// Integer products of one [`Format`].
pub(crate) trait Products<F: Format>: Lanes {
    /// Whether decoding weights costs so much beside multiplying them that many tokens should share it.
    const PANELS: bool = false;
    /// Four columns of every row.
    type Weights: Copy;
    /// Sums of products of one block.
    type Sums: Copy;

    /// The columns `8 * part..8 * part + 8` of a block, as two times four.
    unsafe fn weights(block: *const u8, part: usize) -> [Self::Weights; 2];
    /// A block's scales.
    unsafe fn scales(from: *const u8) -> Self::Floats;
    /// What the sums of a block start from.
    unsafe fn start(x: *const QuantBlock) -> Self::Sums;
    /// Adds eight columns times eight activations.
    unsafe fn dot(sums: Self::Sums, weights: [Self::Weights; 2], x: *const i8) -> Self::Sums;
    /// The same sums, in a way that keeps the compiler from adding later products to each other before it adds them to
    /// these: for that it needs more registers than there are.
    #[inline(always)]
    unsafe fn in_order(sums: Self::Sums) -> Self::Sums {
        sums
    }
    /// The finished sums of a block.
    unsafe fn total(sums: Self::Sums) -> Self::Floats;
}

/// E2M1 codes to twice their values.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Added to [`E2M1_DOUBLED`] where weights must be unsigned.
pub(crate) const E2M1_OFFSET: i8 = 12;

/// [`E2M1_DOUBLED`], each plus [`E2M1_OFFSET`].
#[cfg(target_arch = "x86_64")]
pub(crate) const E2M1_UNSIGNED: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (E2M1_DOUBLED[code] + E2M1_OFFSET) as u8;
        code += 1;
    }
    table
};

/// Defines a function that runs a loop generic over [`Lanes`] compiled for a given `Isa`; see `dispatch!`.
macro_rules! dispatch_lanes {
    (fn $name:ident = $generic:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        unsafe fn $name(isa: crate::Isa, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
            unsafe fn avx512($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `Avx512` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::packed::avx512::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avxvnni,avx2,fma")]
            unsafe fn avxvnni($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `AvxVnni` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::packed::avxvnni::AvxVnni>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `Avx2` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::packed::avx2::Avx2>($($arg),*) }
            }
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            #[target_feature(enable = "neon,dotprod")]
            unsafe fn neon_dot($($arg: $type),*) $(-> $result)? {
                // SAFETY: compiled for what `NeonDot` needs; the rest is the caller's contract.
                unsafe { $generic::<crate::packed::neon::NeonDot>($($arg),*) }
            }
            match isa.kind() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this `Isa` exists only where these features were detected.
                crate::dispatch::Kind::Amx | crate::dispatch::Kind::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this `Isa` exists only where these features were detected.
                crate::dispatch::Kind::AvxVnni => unsafe { avxvnni($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this `Isa` exists only where these features were detected.
                crate::dispatch::Kind::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
                // SAFETY: this `Isa` exists only where these features were detected.
                crate::dispatch::Kind::NeonDot => unsafe { neon_dot($($arg),*) },
                // SAFETY: `Portable` needs no instruction set.
                _ => unsafe { $generic::<crate::packed::portable::Portable>($($arg),*) },
            }
        }
    };
}
