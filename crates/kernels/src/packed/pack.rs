//! Weights in the order in which an instruction set reads them.

use std::ops::Range;

use super::QUANT_BLOCK;
use super::lanes::{E2M1_DOUBLED, Format, Int8, Lanes, Mxfp4};
use crate::ops::elementwise::to_bf16;
use crate::{Bf16Matrix, Isa, Mxfp4Matrix};

/// Groups start on a cache line, if the first does.
const CACHE_LINE: usize = 64;

/// What packed weights are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedFormat {
    /// The published MXFP4 codes and scales, reordered. Exact but for scales below `2^-126`, which become zero; for AMX below
    /// `2^-63`, which are read as that.
    Mxfp4,
    /// Eight bits and one bf16 scale per 32 columns, rounded from bf16.
    Int8,
}

/// Sizes and offsets of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Rows of a group.
    pub rows: usize,
    /// Blocks of a row.
    pub blocks: usize,
    /// Bytes of one block of a group, without scales.
    pub block_bytes: usize,
    /// Bytes of the scales of one block of a group.
    pub scale_bytes: usize,
}

/// Orders within a block.
impl Isa {
    /// The byte, of the four that a row has in a part of eight columns, that has one of these, and whether in its upper half.
    fn mxfp4_place(self, col: usize) -> (usize, bool) {
        match self.is_amx() {
            true => (col % 2 * 2 + col / 4, col / 2 % 2 == 1),
            false => (col % 4, col >= 4),
        }
    }

    /// Columns of a row that lie side by side in int8.
    fn int8_run(self) -> usize {
        if self.is_amx() { 2 } else { 4 }
    }
}

impl Layout {
    fn new(isa: Isa, format: PackedFormat, cols: usize) -> Layout {
        Layout::with_rows(lanes(isa).0, format, cols)
    }

    fn of<L: Lanes>(format: PackedFormat, cols: usize) -> Layout {
        Layout::with_rows(L::ROWS, format, cols)
    }

    fn with_rows(rows: usize, format: PackedFormat, cols: usize) -> Layout {
        assert!(
            cols > 0 && cols.is_multiple_of(QUANT_BLOCK),
            "{cols} columns are no whole blocks of {QUANT_BLOCK}"
        );
        let (row_bytes, scale_bytes) = match format {
            PackedFormat::Mxfp4 => (Mxfp4::ROW_BYTES, Mxfp4::SCALE_BYTES),
            PackedFormat::Int8 => (Int8::ROW_BYTES, Int8::SCALE_BYTES),
        };
        Layout {
            rows,
            blocks: cols / QUANT_BLOCK,
            block_bytes: rows * row_bytes,
            scale_bytes: rows * scale_bytes,
        }
    }

    /// Where a group's scales begin.
    #[inline(always)]
    pub(crate) fn scales(self) -> usize {
        self.blocks * self.block_bytes
    }

    /// Bytes from one group to the next.
    #[inline(always)]
    pub(crate) fn group_bytes(self) -> usize {
        (self.scales() + self.blocks * self.scale_bytes).next_multiple_of(CACHE_LINE)
    }
}

dispatch_lanes! { fn lanes_of = lanes_generic() -> (usize, u8) }

#[inline(always)]
unsafe fn lanes_generic<L: Lanes>() -> (usize, u8) {
    (L::ROWS, L::INT8_OFFSET)
}

/// Rows of a group, and what is added to int8 weights.
fn lanes(isa: Isa) -> (usize, u8) {
    // SAFETY: touches no memory.
    unsafe { lanes_of(isa) }
}

/// Bytes that `rows` rows of `cols` columns take, packed for `isa`.
///
/// # Panics
/// If `cols` is 0 or not a multiple of 32.
pub fn packed_len(isa: Isa, format: PackedFormat, rows: usize, cols: usize) -> usize {
    let layout = Layout::new(isa, format, cols);
    rows.div_ceil(layout.rows) * layout.group_bytes()
}

/// A packed matrix `[rows, cols]`, borrowed.
#[derive(Clone, Copy)]
pub struct PackedMatrix<'a> {
    bytes: &'a [u8],
    pub(crate) isa: Isa,
    pub(crate) format: PackedFormat,
    pub(crate) layout: Layout,
    rows: usize,
}

impl<'a> PackedMatrix<'a> {
    /// Every packed range of rows begins and ends at a multiple of this, but for the last row.
    pub const ROW_UNIT: usize = 16;

    /// `bytes` as [`pack_mxfp4`] or [`pack_int8`] wrote them for the same `isa`.
    ///
    /// # Panics
    /// If `bytes` is not [`packed_len`] long.
    pub fn new(
        isa: Isa,
        format: PackedFormat,
        bytes: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> PackedMatrix<'a> {
        assert_eq!(
            bytes.len(),
            packed_len(isa, format, rows, cols),
            "packed {format:?} matrix [{rows}, {cols}] for {isa}"
        );
        PackedMatrix {
            bytes,
            isa,
            format,
            layout: Layout::new(isa, format, cols),
            rows,
        }
    }

    /// Output features.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(self) -> usize {
        self.layout.blocks * QUANT_BLOCK
    }

    /// The group that starts with row `group * layout.rows`.
    #[inline(always)]
    pub(crate) fn group(self, group: usize) -> *const u8 {
        self.bytes[group * self.layout.group_bytes()..].as_ptr()
    }

    /// Element `(row, col)`, as the kernels see it. Slow: for tests and inspection.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn get(self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols(), "({row}, {col})");
        let Layout {
            rows, block_bytes, ..
        } = self.layout;
        let group = &self.bytes[row / rows * self.layout.group_bytes()..];
        let (row, block, col) = (row % rows, col / QUANT_BLOCK, col % QUANT_BLOCK);
        let values = &group[block * block_bytes..][..block_bytes];
        let scale = &group[self.layout.scales()..][block * self.layout.scale_bytes..];
        match self.format {
            PackedFormat::Mxfp4 => {
                let (place, above) = self.isa.mxfp4_place(col % 8);
                let byte = values[(col / 8 * rows + row) * 4 + place];
                let code = if above { byte >> 4 } else { byte & 15 };
                let scale = f32::from_bits(u32::from(scale[row]) << 23);
                Mxfp4::UNIT * f32::from(E2M1_DOUBLED[usize::from(code)]) * scale
            }
            PackedFormat::Int8 => {
                let run = self.isa.int8_run();
                let byte = values[(col / run * rows + row) * run + col % run];
                let (_, offset) = lanes(self.isa);
                let bits = u16::from_le_bytes([scale[2 * row], scale[2 * row + 1]]);
                let scale = f32::from_bits(u32::from(bits) << 16);
                let exact = f32::from(byte.wrapping_sub(offset) as i8) * scale;
                match self.isa.is_amx() {
                    true => f32::from_bits(u32::from(to_bf16(exact)) << 16),
                    false => exact,
                }
            }
        }
    }
}

/// The part of a packed matrix that holds `rows`, empty.
fn groups<'o>(
    layout: Layout,
    all: usize,
    rows: &Range<usize>,
    out: &'o mut [u8],
) -> impl Iterator<Item = (usize, &'o mut [u8])> {
    assert!(
        rows.start <= rows.end
            && rows.end <= all
            && rows.start.is_multiple_of(PackedMatrix::ROW_UNIT)
            && (rows.end == all || rows.end.is_multiple_of(PackedMatrix::ROW_UNIT)),
        "rows {rows:?} of {all}"
    );
    assert_eq!(
        out.len(),
        rows.len().div_ceil(layout.rows) * layout.group_bytes(),
        "room for {rows:?}"
    );
    out.fill(0);
    let first = rows.start;
    out.chunks_exact_mut(layout.group_bytes())
        .enumerate()
        .map(move |(group, out)| (first + group * layout.rows, out))
}

/// Packs `rows` of `weights`, a part of the whole: `out` has [`packed_len`] of so many rows.
///
/// # Panics
/// If `rows` is not cut at multiples of [`PackedMatrix::ROW_UNIT`], or `out` has another length.
pub fn pack_mxfp4(isa: Isa, weights: Mxfp4Matrix<'_>, rows: Range<usize>, out: &mut [u8]) {
    let layout = Layout::new(isa, PackedFormat::Mxfp4, weights.cols());
    for (first, out) in groups(layout, weights.rows(), &rows, out) {
        let (values, scales) = out.split_at_mut(layout.scales());
        for row in 0..layout.rows.min(rows.end - first) {
            let codes = weights.row_blocks(first + row).as_chunks::<16>().0;
            let row_scales = weights.row_scales(first + row);
            for (block, codes) in codes.iter().enumerate() {
                scales[block * layout.scale_bytes + row] = row_scales[block];
                let values = &mut values[block * layout.block_bytes..][..layout.block_bytes];
                for part in 0..4 {
                    // Columns 8 * part to 8 * part + 8, two in a byte.
                    let [a, b, c, d] = codes.as_chunks().0[part];
                    let even = |low: u8, high: u8| low & 15 | high << 4;
                    let odd = |low: u8, high: u8| low >> 4 | high & 240;
                    let packed = match isa.is_amx() {
                        true => [even(a, b), even(c, d), odd(a, b), odd(c, d)],
                        false => [even(a, c), odd(a, c), even(b, d), odd(b, d)],
                    };
                    values[(part * layout.rows + row) * 4..][..4].copy_from_slice(&packed);
                }
            }
        }
    }
}

/// Rounds `rows` of `weights` to eight bits and packs them, as [`pack_mxfp4`].
///
/// # Panics
/// As [`pack_mxfp4`], or if the columns are no whole blocks of 32.
pub fn pack_int8(isa: Isa, weights: Bf16Matrix<'_>, rows: Range<usize>, out: &mut [u8]) {
    // SAFETY: no pointers.
    unsafe { pack_int8_on(isa, weights, rows, isa.int8_run(), out) }
}

dispatch_lanes! { fn pack_int8_on = pack_int8_generic(weights: Bf16Matrix<'_>, rows: Range<usize>, run: usize, out: &mut [u8]) }

#[inline(always)]
unsafe fn pack_int8_generic<L: Lanes>(
    weights: Bf16Matrix<'_>,
    rows: Range<usize>,
    run: usize,
    out: &mut [u8],
) {
    let layout = Layout::of::<L>(PackedFormat::Int8, weights.cols());
    for (first, out) in groups(layout, weights.rows(), &rows, out) {
        let (values, scales) = out.split_at_mut(layout.scales());
        if L::INT8_OFFSET != 0 {
            values.fill(L::INT8_OFFSET);
        }
        for row in 0..layout.rows.min(rows.end - first) {
            let source = weights.row(first + row).bytes().as_chunks().0;
            for (block, source) in source.as_chunks::<QUANT_BLOCK>().0.iter().enumerate() {
                let mut x = [0.0; QUANT_BLOCK];
                for (x, pair) in x.iter_mut().zip(source) {
                    *x = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
                }
                let (rounded, scale) = round(&x);
                let scales = &mut scales[block * layout.scale_bytes + 2 * row..][..2];
                scales.copy_from_slice(&scale.to_le_bytes());
                let values = &mut values[block * layout.block_bytes..][..layout.block_bytes];
                for (part, side_by_side) in rounded.chunks_exact(run).enumerate() {
                    let to = &mut values[(part * layout.rows + row) * run..][..run];
                    for (to, value) in to.iter_mut().zip(side_by_side) {
                        *to = (*value as u8).wrapping_add(L::INT8_OFFSET);
                    }
                }
            }
        }
    }
}

/// Eight bits each, and the bf16 that they are multiples of: the smallest by which the largest is not above 127.
///
/// As in `quantize.rs`, nothing here keeps the compiler from making whole vectors of it: no comparison of floats, no
/// saturating conversion, no `map` of an array (a call, compiled for the base instruction set).
#[inline(always)]
fn round(x: &[f32; QUANT_BLOCK]) -> ([i8; QUANT_BLOCK], u16) {
    let largest = x
        .iter()
        .fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return ([0; QUANT_BLOCK], to_bf16(f32::NAN));
    }
    let exact = largest / 127.0;
    let below = (exact.to_bits() >> 16) as u16;
    let widen = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let scale = if widen(below) < exact {
        below + 1
    } else {
        below
    };
    if widen(scale) < f32::MIN_POSITIVE {
        return ([0; QUANT_BLOCK], 0);
    }
    let scale_f32 = widen(scale);
    let mut rounded = [0; QUANT_BLOCK];
    for (rounded, x) in rounded.iter_mut().zip(x) {
        // SAFETY: finite, and at most 127 in magnitude.
        *rounded = unsafe { (x / scale_f32).round_ties_even().to_int_unchecked::<i32>() as i8 };
    }
    (rounded, scale)
}
