//! The output projection on the CPU, and the logits it makes: in place, or once for each run of equal rows.
//!
//! The output projection of a model that was trained on a part of its vocabulary has the same row for every other
//! token; so has the embedded model's, where 5755 of 201088 rows differ from the one before. Equal rows give equal logits, so computing each
//! once is exact, and the sampler knows rows of runs ([`Row`]). Full vocabularies are left in place.

use std::sync::Arc;

use gossamer_kernels::{Bf16Matrix, Bf16Slice, PackedMatrix};

use super::buffers::CpuTensor;
use super::linear::bf16_matrix;
use super::packed::{Packed, Packer};
use crate::error::LoadError;
use crate::sampler::{Row, Runs};
use crate::weights::Weight;

/// Pairs of neighbouring rows that are looked at before comparing them all.
const PROBES: usize = 64;

/// The output projection.
pub struct CpuHead {
    matrix: Matrix,
    /// The tokens that each row stands for, if not for one each.
    runs: Option<Arc<Runs>>,
    /// Where the published rows begin in their file.
    source: usize,
}

enum Matrix {
    /// bf16 `[vocab_size, hidden]`, in place.
    InPlace(Weight),
    /// bf16 `[num_runs, hidden]`: the rows that differ from the one before.
    Distinct { rows: Vec<u8>, hidden: usize },
    /// Either of them in eight bits.
    Int8(Packed),
}

/// What to multiply by: all rows, or the distinct ones.
pub enum HeadRows<'a> {
    /// By f32 activations.
    Bf16(Bf16Matrix<'a>),
    /// By rounded activations.
    Int8(PackedMatrix<'a>),
}

/// Logits of some rows.
pub struct CpuLogits {
    /// `[rows, vocab_size]` or `[rows, num_runs]`.
    pub values: CpuTensor,
    /// What the columns stand for, if not for one token each.
    pub runs: Option<Arc<Runs>>,
}

impl CpuHead {
    /// Compares the rows of `weight`, `[vocab_size, hidden]`.
    pub fn new(weight: Weight) -> Self {
        let (num_rows, hidden) = (weight.shape()[0], weight.shape()[1]);
        let source = weight.offset();
        let repeats = |row: &usize| *row > 0 && weight.entry(*row) == weight.entry(*row - 1);
        // Reading every row of a large file at start would be no favour: a probe decides.
        let probes = (1..num_rows).step_by(num_rows.div_ceil(PROBES).max(1));
        if 2 * probes.clone().filter(repeats).count() <= probes.count() {
            return Self {
                matrix: Matrix::InPlace(weight),
                runs: None,
                source,
            };
        }
        let (mut rows, mut counts): (Vec<u8>, Vec<u32>) = Default::default();
        for row in 0..num_rows {
            match counts.last_mut().filter(|_| repeats(&row)) {
                Some(count) => *count += 1,
                None => {
                    rows.extend_from_slice(weight.entry(row));
                    counts.push(1);
                }
            }
        }
        Self {
            matrix: Matrix::Distinct { rows, hidden },
            runs: Some(Arc::new(Runs::new(&counts))),
            source,
        }
    }

    /// The same in eight bits.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn packed(self, packer: &mut Packer<'_>) -> Result<Self, LoadError> {
        let matrix = match self.rows() {
            HeadRows::Bf16(rows) => Matrix::Int8(Packed::int8(packer, rows, self.source)?),
            HeadRows::Int8(_) => return Ok(self),
        };
        if let Matrix::InPlace(weight) = &self.matrix {
            weight.release();
        }
        Ok(Self { matrix, ..self })
    }

    /// The matrix.
    pub fn rows(&self) -> HeadRows<'_> {
        match &self.matrix {
            Matrix::InPlace(weight) => HeadRows::Bf16(bf16_matrix(weight)),
            Matrix::Distinct { rows, hidden } => HeadRows::Bf16(Bf16Matrix::new(
                Bf16Slice::new(rows),
                rows.len() / (2 * hidden),
                *hidden,
            )),
            Matrix::Int8(packed) => HeadRows::Int8(packed.matrix(0)),
        }
    }

    /// What the rows stand for, if not for one token each.
    pub fn runs(&self) -> Option<&Arc<Runs>> {
        self.runs.as_ref()
    }
}

impl CpuLogits {
    /// One row, for the sampler.
    pub fn row(&self, row: usize) -> Row<'_> {
        let values = self.values.row(row);
        match &self.runs {
            None => Row::whole(values),
            Some(runs) => Row::of_runs(values, runs),
        }
    }
}
