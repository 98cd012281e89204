//! Packed matrices in memory of their own: made from published weights at load, by all threads.
//!
//! Invariant: a matrix is packed for the instruction set that it is multiplied on.

use std::ops::Range;

use gossamer_kernels::{
    Bf16Matrix, Isa, PackedFormat, PackedMatrix, pack_int8, pack_mxfp4, packed_len,
};
use memmap2::MmapMut;

use super::experts::expert_matrix;
use crate::backend::Mxfp4Weight;
use crate::error::LoadError;
use crate::threads::Team;

/// Rows that one thread packs at a time: a few megabytes at GPT-OSS's widths.
const ROWS_AT_ONCE: usize = 64 * PackedMatrix::ROW_UNIT;

/// Equally shaped packed matrices, one after the other.
pub struct Packed {
    bytes: MmapMut,
    isa: Isa,
    format: PackedFormat,
    rows: usize,
    cols: usize,
}

impl Packed {
    /// One matrix, rounded to eight bits.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn int8(isa: Isa, team: &mut Team, matrix: Bf16Matrix<'_>) -> Result<Self, LoadError> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        Self::new(
            isa,
            team,
            PackedFormat::Int8,
            [1, rows, cols],
            |_, rows, out| {
                pack_int8(isa, matrix, rows, out);
            },
        )
    }

    /// The experts' matrices.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn mxfp4(isa: Isa, team: &mut Team, experts: &Mxfp4Weight) -> Result<Self, LoadError> {
        let first = expert_matrix(experts, 0);
        let shape = [experts.blocks.shape()[0], first.rows(), first.cols()];
        Self::new(
            isa,
            team,
            PackedFormat::Mxfp4,
            shape,
            |expert, rows, out| {
                pack_mxfp4(isa, expert_matrix(experts, expert), rows, out);
            },
        )
    }

    fn new(
        isa: Isa,
        team: &mut Team,
        format: PackedFormat,
        [count, rows, cols]: [usize; 3],
        pack: impl Fn(usize, Range<usize>, &mut [u8]) + Sync,
    ) -> Result<Self, LoadError> {
        let len = packed_len(isa, format, rows, cols);
        let no_room = |error| LoadError::Setting {
            setting: "weights",
            message: format!(
                "no room for {} bytes of packed weights: {error}",
                count * len
            ),
        };
        let mut bytes = MmapMut::map_anon(count * len).map_err(no_room)?;
        // Huge pages where the system has them: reading weights is bound by memory, and by the pages it must find.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        let part_len = packed_len(isa, format, ROWS_AT_ONCE.min(rows), cols);
        let parts = bytes
            .chunks_exact_mut(len)
            .enumerate()
            .flat_map(|(index, matrix)| {
                let parts = matrix.chunks_mut(part_len).enumerate();
                parts.map(move |(part, out)| {
                    let start = part * ROWS_AT_ONCE;
                    (index, start..rows.min(start + ROWS_AT_ONCE), out)
                })
            });
        // Whoever takes the next part: threads touch the pages first that they write.
        team.for_each(parts, |_, (index, rows, out)| pack(index, rows, out));
        Ok(Self {
            bytes,
            isa,
            format,
            rows,
            cols,
        })
    }

    /// Matrix `index`.
    pub fn matrix(&self, index: usize) -> PackedMatrix<'_> {
        let len = packed_len(self.isa, self.format, self.rows, self.cols);
        let bytes = &self.bytes[index * len..][..len];
        PackedMatrix::new(self.isa, self.format, bytes, self.rows, self.cols)
    }
}
