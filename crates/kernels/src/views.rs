//! Borrowed views of weights as published and of outputs shared between threads.
//!
//! A weight view is checked once, when it is made, and is `Copy`; it never owns, repacks or aligns its
//! bytes: a memory-mapped safetensors file gives no alignment. [`ColumnsMut`] splits a row-major
//! matrix by columns, which slices cannot express.
//! Invariant: two live `ColumnsMut` never cover the same element.

use std::marker::PhantomData;
use std::ops::Range;

/// bf16 numbers, little endian, at any address.
#[derive(Clone, Copy)]
pub struct Bf16Slice<'a> {
    bytes: &'a [u8],
}

impl<'a> Bf16Slice<'a> {
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// A view of `bytes.len() / 2` numbers.
    ///
    /// # Panics
    /// If the number of bytes is odd.
    pub fn new(bytes: &'a [u8]) -> Self {
        assert!(
            bytes.len().is_multiple_of(2),
            "bf16 takes two bytes, got {} bytes",
            bytes.len()
        );
        Bf16Slice { bytes }
    }

    /// How many numbers.
    pub fn len(self) -> usize {
        self.bytes.len() / 2
    }

    /// True if there are no numbers.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// Number `index`, exactly.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn get(self, index: usize) -> f32 {
        let pair = [self.bytes[2 * index], self.bytes[2 * index + 1]];
        f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)
    }

    /// Number `index`.
    ///
    /// # Safety
    /// `index` must be in range.
    #[inline(always)]
    pub(crate) unsafe fn get_unchecked(self, index: usize) -> f32 {
        // SAFETY: the caller vouches for the index; bytes have no alignment.
        let pair = unsafe { self.bytes.as_ptr().add(2 * index).cast::<[u8; 2]>().read() };
        f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)
    }

    /// The numbers in `range`.
    ///
    /// # Panics
    /// If `range` is out of range.
    pub fn slice(self, range: Range<usize>) -> Bf16Slice<'a> {
        Bf16Slice {
            bytes: &self.bytes[2 * range.start..2 * range.end],
        }
    }
}

/// A row-major bf16 matrix `[rows, cols]`: one row per output feature, as checkpoints store it.
#[derive(Clone, Copy)]
pub struct Bf16Matrix<'a> {
    data: Bf16Slice<'a>,
    rows: usize,
    cols: usize,
}

impl<'a> Bf16Matrix<'a> {
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *const u8 {
        self.data.as_ptr()
    }

    /// # Panics
    /// If `data` does not hold exactly `rows * cols` numbers, or `cols` is 0.
    pub fn new(data: Bf16Slice<'a>, rows: usize, cols: usize) -> Self {
        assert!(cols > 0, "a matrix without columns");
        assert_eq!(data.len(), rows * cols, "bf16 matrix [{rows}, {cols}]");
        Bf16Matrix { data, rows, cols }
    }

    /// Output features.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Row `index`, `[cols]`.
    pub fn row(self, index: usize) -> Bf16Slice<'a> {
        self.data.slice(index * self.cols..(index + 1) * self.cols)
    }
}

/// A row-major MXFP4 matrix `[rows, cols]`: one expert's projection, as published.
///
/// Every 32 consecutive columns form a block of 16 bytes (byte `i` holds element `2i` in its low nibble
/// and `2i + 1` in its high one, both E2M1) and share one E8M0 scale `2^(scale - 127)`; 255 means NaN.
/// Source: OCP Microscaling Formats (MX) specification v1.0, sections 5.2 and 5.4; nibble order from
/// openai/gpt-oss `gpt_oss/torch/weights.py`.
#[derive(Clone, Copy)]
pub struct Mxfp4Matrix<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Mxfp4Matrix<'a> {
    /// Columns that share one scale.
    pub const BLOCK: usize = 32;

    /// `blocks` is `[rows, cols / 32, 16]`, `scales` is `[rows, cols / 32]`.
    ///
    /// # Panics
    /// If the lengths do not fit the shape, or `cols` is 0 or not a multiple of 32.
    pub fn new(blocks: &'a [u8], scales: &'a [u8], rows: usize, cols: usize) -> Self {
        assert!(
            cols > 0 && cols.is_multiple_of(Self::BLOCK),
            "{cols} columns are no whole MXFP4 blocks"
        );
        assert_eq!(
            blocks.len(),
            rows * cols / 2,
            "MXFP4 blocks of [{rows}, {cols}]"
        );
        assert_eq!(
            scales.len(),
            rows * cols / Self::BLOCK,
            "MXFP4 scales of [{rows}, {cols}]"
        );
        Mxfp4Matrix {
            blocks,
            scales,
            rows,
            cols,
        }
    }

    /// Output features.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// The packed blocks of row `index`, `[cols / 32, 16]`.
    #[inline(always)]
    pub(crate) fn row_blocks(self, index: usize) -> &'a [u8] {
        let len = self.cols / 2;
        &self.blocks[index * len..(index + 1) * len]
    }

    /// The scales of row `index`, `[cols / 32]`.
    #[inline(always)]
    pub(crate) fn row_scales(self, index: usize) -> &'a [u8] {
        let len = self.cols / Self::BLOCK;
        &self.scales[index * len..(index + 1) * len]
    }
}

/// A run of columns of a row-major matrix, writable; the other columns may belong to other threads.
///
/// ```text
///             width                     split_at(2)
///    row 0  [ a b c d e ]            [ a b ]   [ c d e ]
///    row 1  [ f g h i j ]     ->     [ f g ]   [ h i j ]
/// ```
pub struct ColumnsMut<'a, T = f32> {
    /// Element (0, 0) of this run.
    first: *mut T,
    num_rows: usize,
    width: usize,
    /// Distance between rows, in elements: the width of the whole matrix.
    stride: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: a `ColumnsMut` is an exclusive borrow of its elements (`split_at` consumes the whole and gives
// disjoint parts), which may move to another thread if the elements may.
unsafe impl<T: Send> Send for ColumnsMut<'_, T> {}

impl<'a, T> ColumnsMut<'a, T> {
    /// All columns of `matrix`, `[num_rows, matrix.len() / num_rows]`.
    ///
    /// # Panics
    /// If `num_rows` is 0 or does not divide the length.
    pub fn new(matrix: &'a mut [T], num_rows: usize) -> Self {
        assert!(
            num_rows > 0 && matrix.len().is_multiple_of(num_rows),
            "{} elements in {num_rows} rows",
            matrix.len()
        );
        let width = matrix.len() / num_rows;
        ColumnsMut {
            first: matrix.as_mut_ptr(),
            num_rows,
            width,
            stride: width,
            matrix: PhantomData,
        }
    }

    /// How many rows.
    #[inline(always)]
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// How many columns.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The first `column` columns, and the rest.
    ///
    /// # Panics
    /// If `column > width`.
    pub fn split_at(self, column: usize) -> (ColumnsMut<'a, T>, ColumnsMut<'a, T>) {
        assert!(column <= self.width, "column {column} of {}", self.width);
        let right = ColumnsMut {
            // `wrapping_add`: at `column == width` of the last run this is one past the matrix's last row.
            first: self.first.wrapping_add(column),
            width: self.width - column,
            ..self
        };
        (
            ColumnsMut {
                width: column,
                ..self
            },
            right,
        )
    }

    /// Up to `parts` runs of nearly equal width, each a multiple of `unit` columns but perhaps the last,
    /// with the range of columns each covers. Together they cover everything; none is empty.
    ///
    /// # Panics
    /// If `parts` or `unit` is 0.
    pub fn split_even(self, parts: usize, unit: usize) -> Vec<(Range<usize>, ColumnsMut<'a, T>)> {
        assert!(parts > 0 && unit > 0, "{parts} parts of {unit} columns");
        let units = self.width.div_ceil(unit);
        let total = self.width;
        let mut split = Vec::with_capacity(parts.min(units));
        let mut rest = self;
        let mut start = 0;
        for part in 1..=parts {
            let end = (units * part / parts * unit).min(total);
            if end > start {
                let (left, right) = rest.split_at(end - start);
                split.push((start..end, left));
                rest = right;
                start = end;
            }
        }
        split
    }

    /// Where element `(row, column)` lies. Valid for writes of `width - column` elements if both exist.
    #[inline(always)]
    pub(crate) fn element_ptr(&mut self, row: usize, column: usize) -> *mut T {
        self.first.wrapping_add(row * self.stride + column)
    }

    /// The columns of row `index`, `[width]`.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[inline(always)]
    pub fn row(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.num_rows, "row {index} of {}", self.num_rows);
        // SAFETY: `new` and `split_at` keep `first + row * stride + 0..width` inside the borrowed matrix
        // for every row < num_rows, and the elements belong to this run alone.
        unsafe {
            std::slice::from_raw_parts_mut(self.first.wrapping_add(index * self.stride), self.width)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_split_covers_every_column_once() {
        for width in 0..40 {
            for parts in 1..6 {
                for unit in [1, 3, 8] {
                    let mut matrix = vec![0.0; 2 * width];
                    for (range, mut columns) in
                        ColumnsMut::new(&mut matrix, 2).split_even(parts, unit)
                    {
                        assert_eq!(range.len(), columns.width());
                        for row in 0..2 {
                            for (offset, value) in columns.row(row).iter_mut().enumerate() {
                                *value += (row * width + range.start + offset + 1) as f32;
                            }
                        }
                    }
                    let expect: Vec<f32> = (0..2 * width).map(|i| (i + 1) as f32).collect();
                    assert_eq!(matrix, expect, "width {width} parts {parts} unit {unit}");
                }
            }
        }
    }
}
