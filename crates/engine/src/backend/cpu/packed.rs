//! Packed matrices: made from published weights at load, by all threads, in memory of their own; or lent by the cache.
//!
//! Invariant: a matrix is packed for the instruction set that it is multiplied on.

use std::ops::Range;

use gossamer_kernels::{
    Bf16Matrix, Isa, PackedFormat, PackedMatrix, pack_int8, pack_mxfp4, packed_len,
};
use memmap2::MmapMut;

use super::experts::expert_matrix;
use super::repack_cache::{Item, Lent, RepackCache};
use crate::backend::Mxfp4Weight;
use crate::error::LoadError;
use crate::threads::Team;

/// Rows that one thread packs at a time: a few megabytes at GPT-OSS's widths.
const ROWS_AT_ONCE: usize = 64 * PackedMatrix::ROW_UNIT;

/// What packing needs besides the weights.
pub struct Packer<'a> {
    /// For these kernels.
    pub isa: Isa,
    /// By these threads.
    pub team: &'a mut Team,
    /// Unless it is here already.
    pub cache: &'a mut RepackCache,
}

/// Equally shaped packed matrices, one after the other.
pub struct Packed {
    bytes: Bytes,
    isa: Isa,
    format: PackedFormat,
    rows: usize,
    cols: usize,
}

enum Bytes {
    Own(MmapMut),
    Lent(Lent),
}

impl Packed {
    /// One matrix, rounded to eight bits; `source` is where its published bytes begin in their file.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn int8(
        packer: &mut Packer<'_>,
        matrix: Bf16Matrix<'_>,
        source: usize,
    ) -> Result<Self, LoadError> {
        let isa = packer.isa;
        let item = Item {
            format: PackedFormat::Int8,
            shape: [1, matrix.rows(), matrix.cols()],
            source,
        };
        Self::new(packer, item, |_, rows, out| {
            pack_int8(isa, matrix, rows, out);
        })
    }

    /// The experts' matrices.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn mxfp4(packer: &mut Packer<'_>, experts: &Mxfp4Weight) -> Result<Self, LoadError> {
        let (isa, first) = (packer.isa, expert_matrix(experts, 0));
        let item = Item {
            format: PackedFormat::Mxfp4,
            shape: [experts.blocks.shape()[0], first.rows(), first.cols()],
            source: experts.blocks.offset(),
        };
        Self::new(packer, item, |expert, rows, out| {
            pack_mxfp4(isa, expert_matrix(experts, expert), rows, out);
        })
    }

    fn new(
        packer: &mut Packer<'_>,
        item: Item,
        pack: impl Fn(usize, Range<usize>, &mut [u8]) + Sync,
    ) -> Result<Self, LoadError> {
        let (isa, format, [count, rows, cols]) = (packer.isa, item.format, item.shape);
        let len = packed_len(isa, format, rows, cols);
        let bytes = match packer.cache.lend(&item, count * len) {
            Some(lent) => {
                lent.touch(packer.team);
                Bytes::Lent(lent)
            }
            None => {
                let own = pack_all(packer, [count, rows, cols], format, pack)?;
                packer.cache.keep(&item, &own);
                Bytes::Own(own)
            }
        };
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
        let bytes = match &self.bytes {
            Bytes::Own(own) => own,
            Bytes::Lent(lent) => lent.bytes(),
        };
        let bytes = &bytes[index * len..][..len];
        PackedMatrix::new(self.isa, self.format, bytes, self.rows, self.cols)
    }
}

fn pack_all(
    packer: &mut Packer<'_>,
    [count, rows, cols]: [usize; 3],
    format: PackedFormat,
    pack: impl Fn(usize, Range<usize>, &mut [u8]) + Sync,
) -> Result<MmapMut, LoadError> {
    let isa = packer.isa;
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
    let team = &mut packer.team;
    team.for_each(parts, |_, (index, rows, out)| pack(index, rows, out));
    Ok(bytes)
}
