//! Tile registers: the permission to use them, their shapes, and the products.
//!
//! In assembly, because Rust has no stable intrinsics for them. Sums stay in tiles between calls, which relies on compiled code
//! never touching tile registers: the compiler does so for their intrinsics alone, and system calls keep them. Invariant: while
//! a [`Configured`] lives, its thread has tiles 0 to 3 for sums, 4 and 5 for activations, 6 and 7 for weights.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Tokens of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a tile of weights: 32 columns of sixteen rows in bf16.
pub(super) const TILE_BYTES: usize = 1024;
/// Bytes of one token's sums for one group of rows.
const GROUP_BYTES: usize = 16 * size_of::<f32>();

/// Whether this machine has bf16 tiles and the system lets this process use them. Asks the system once.
pub(crate) fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| !cfg!(miri) && has_tiles() && ask())
}

/// CPUID leaf 7: bits 22 and 24 of EDX are AMX-BF16 and AMX-TILE; XCR0: bits 17 and 18 are the state of tiles (Intel
/// SDM, volume 1, 13.1 and 18).
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if !(std::is_x86_feature_detected!("xsave") && __cpuid(0).eax >= 7) {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    let (low, _high): (u32, u32);
    // SAFETY: XSAVE is enabled by the system, which `is_x86_feature_detected` makes sure of (OSXSAVE).
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _high, options(nomem, nostack, preserves_flags));
    }
    features >> 22 & 0b101 == 0b101 && low >> 17 & 0b11 == 0b11
}

/// Linux hands the large state out on request only: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA)`
/// (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILE_DATA: u64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call reads and writes no memory of this process.
    unsafe {
        asm!(
            "syscall", inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILE_DATA,
            out("rcx") _, out("r11") _, options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// Loads a tile.
macro_rules! load {
    ($tile:literal, $from:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd ", $tile, ", [{} + {}]"), in(reg) $from, in(reg) $stride,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// Adds a product to a tile.
macro_rules! product {
    ($sums:literal, $x:literal, $weights:literal) => {
        asm!(
            concat!("tdpbf16ps ", $sums, ", ", $x, ", ", $weights),
            options(nomem, nostack, preserves_flags),
        )
    };
}

/// What `ldtilecfg` reads (Intel SDM, volume 2, LDTILECFG).
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread have shapes, until this is dropped.
pub(super) struct Configured {
    /// Of this thread: it may not be sent to another.
    thread: PhantomData<*const ()>,
}

impl Configured {
    /// Tiles for so many tokens at a time, at most [`TILE_ROWS`]. Only where [`is_permitted`].
    pub(super) fn for_tokens(tokens: usize) -> Self {
        assert!(is_permitted(), "tiles on a machine without");
        let tokens = tokens.min(TILE_ROWS) as u8;
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        shapes.row_bytes[..8].fill(64);
        shapes.rows[..6].fill(tokens);
        shapes.rows[6..8].fill(16);
        // SAFETY: the instruction exists and is permitted; the shapes are within palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags, readonly));
        }
        Self {
            thread: PhantomData,
        }
    }

    /// Adds the products of `len` blocks of two tiles of tokens with two groups of rows to `sums`, `[2 * 16, 2 * 16]`.
    /// `x` are the first tokens' blocks, the next ones' follow `row_bytes` later; `weights` the tiles of each group.
    ///
    /// # Safety
    /// The pointers are valid for that, and the tiles were configured for at least sixteen tokens.
    #[inline(always)]
    pub(super) unsafe fn two_by_two(
        &self,
        x: [*const u8; 2],
        row_bytes: usize,
        weights: [*const u8; 2],
        sums: *mut f32,
        len: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "tileloadd tmm2, [{second} + {stride}]",
                "tileloadd tmm3, [{second} + {stride} + 64]",
                "2:",
                "tileloadd tmm4, [{x0} + {row_bytes}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {row_bytes}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 64",
                "add {x1}, 64",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {len}",
                "jnz 2b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{second} + {stride}], tmm2",
                "tilestored [{second} + {stride} + 64], tmm3",
                sums = in(reg) sums,
                second = in(reg) sums.cast::<u8>().add(2 * TILE_ROWS * GROUP_BYTES),
                stride = in(reg) 2 * GROUP_BYTES,
                x0 = inout(reg) x[0] => _,
                x1 = inout(reg) x[1] => _,
                row_bytes = in(reg) row_bytes,
                w0 = inout(reg) weights[0] => _,
                w1 = inout(reg) weights[1] => _,
                line = in(reg) 64usize,
                len = inout(reg) len => _,
                options(nostack),
            );
        }
    }

    /// The same for one tile of tokens.
    ///
    /// # Safety
    /// As for [`Configured::two_by_two`].
    #[inline(always)]
    pub(super) unsafe fn one_by_two(
        &self,
        x: *const u8,
        row_bytes: usize,
        weights: [*const u8; 2],
        sums: *mut f32,
        len: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "2:",
                "tileloadd tmm4, [{x} + {row_bytes}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, 64",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {len}",
                "jnz 2b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                sums = in(reg) sums,
                stride = in(reg) 2 * GROUP_BYTES,
                x = inout(reg) x => _,
                row_bytes = in(reg) row_bytes,
                w0 = inout(reg) weights[0] => _,
                w1 = inout(reg) weights[1] => _,
                line = in(reg) 64usize,
                len = inout(reg) len => _,
                options(nostack),
            );
        }
    }

    /// Clears the sums.
    #[inline(always)]
    pub(super) fn clear(&self) {
        // SAFETY: the tiles are configured.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    /// Loads a block of tile `T` of the tokens, each `row_bytes` behind the one before it.
    ///
    /// # Safety
    /// There are as many as the tiles were configured for.
    #[inline(always)]
    pub(super) unsafe fn load_tokens<const T: usize>(&self, x: *const u8, row_bytes: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            match T {
                0 => load!("tmm4", x, row_bytes),
                1 => load!("tmm5", x, row_bytes),
                _ => unreachable!("two tiles of tokens"),
            }
        }
    }

    /// Loads the weights of a group with an even number (`G` is 0) or an odd one.
    ///
    /// # Safety
    /// There is a tile.
    #[inline(always)]
    pub(super) unsafe fn load_weights<const G: usize>(&self, weights: *const u8) {
        // SAFETY: the caller's contract.
        unsafe {
            match G {
                0 => load!("tmm6", weights, 64usize),
                1 => load!("tmm7", weights, 64usize),
                _ => unreachable!("two tiles of weights"),
            }
        }
    }

    /// Adds the products of what is loaded, tokens `T` and weights `G`, to sum `S`.
    #[inline(always)]
    pub(super) fn multiply<const S: usize, const T: usize, const G: usize>(&self) {
        // SAFETY: the tiles are configured.
        unsafe {
            match (S, T, G) {
                (0, 0, 0) => product!("tmm0", "tmm4", "tmm6"),
                (1, 0, 1) => product!("tmm1", "tmm4", "tmm7"),
                (2, 0, 0) => product!("tmm2", "tmm4", "tmm6"),
                (3, 0, 1) => product!("tmm3", "tmm4", "tmm7"),
                (2, 1, 0) => product!("tmm2", "tmm5", "tmm6"),
                (3, 1, 1) => product!("tmm3", "tmm5", "tmm7"),
                _ => unreachable!("no such product"),
            }
        }
    }

    /// Writes the sums: of one tile of tokens with four groups, `[16, 4 * 16]`, or of two with two, `[2 * 16, 2 * 16]`.
    ///
    /// # Safety
    /// There is room.
    #[inline(always)]
    pub(super) unsafe fn store<const TILES: usize>(&self, sums: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            asm!(
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{third} + {stride}], tmm2",
                "tilestored [{third} + {stride} + 64], tmm3",
                sums = in(reg) sums,
                third = in(reg) match TILES {
                    1 => sums.add(2 * 16),
                    _ => sums.add(TILE_ROWS * 2 * 16),
                },
                stride = in(reg) 4 / TILES * GROUP_BYTES,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: only where tiles are permitted does a `Configured` exist.
        unsafe {
            asm!("tilerelease", options(nomem, nostack, preserves_flags));
        }
    }
}
