//! A bf16 matrix on the CPU: in place, or its distinct rows where most rows repeat.
//!
//! The output projection of a model that was trained on a part of its vocabulary has the same row for every other
//! token; so has the embedded model's, for nineteen rows in twenty. Equal rows give equal outputs, so computing each
//! once and copying is exact. Full vocabularies are left in place.

use gossamer_kernels::{Bf16Matrix, Bf16Slice};

use crate::weights::Weight;

/// Pairs of neighbouring rows that are looked at before comparing them all.
const PROBES: usize = 64;

/// A matrix and perhaps a bias.
pub struct CpuLinear {
    weight: Weight,
    bias: Option<Weight>,
    pub outputs: usize,
    pub inputs: usize,
    distinct: Option<Distinct>,
}

/// The rows that differ from the one before.
struct Distinct {
    /// bf16, `[rows, inputs]`.
    rows: Vec<u8>,
    num_rows: usize,
    /// How many neighbouring outputs each row above stands for, in order.
    repeats: Vec<u32>,
}

impl CpuLinear {
    /// The matrix `[outputs, inputs]` in place.
    pub fn new(weight: Weight, bias: Option<Weight>) -> Self {
        let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
        let distinct = match bias {
            None => Distinct::find(&weight),
            Some(_) => None,
        };
        Self {
            weight,
            bias,
            outputs,
            inputs,
            distinct,
        }
    }

    /// All rows.
    pub fn matrix(&self) -> Bf16Matrix<'_> {
        Bf16Matrix::new(
            Bf16Slice::new(self.weight.bytes()),
            self.outputs,
            self.inputs,
        )
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> Option<Bf16Slice<'_>> {
        self.bias.as_ref().map(|bias| Bf16Slice::new(bias.bytes()))
    }

    /// Where most rows repeat: the distinct ones, and for how many neighbouring outputs each stands.
    pub fn distinct(&self) -> Option<(Bf16Matrix<'_>, &[u32])> {
        let distinct = self.distinct.as_ref()?;
        let rows = Bf16Slice::new(&distinct.rows);
        Some((
            Bf16Matrix::new(rows, distinct.num_rows, self.inputs),
            &distinct.repeats,
        ))
    }
}

impl Distinct {
    fn find(weight: &Weight) -> Option<Self> {
        let num_rows = weight.shape()[0];
        let repeats = |row: &usize| *row > 0 && weight.entry(*row) == weight.entry(*row - 1);
        // Reading every row of a large file at start would be no favour: a probe decides.
        let probes = (1..num_rows).step_by(num_rows.div_ceil(PROBES).max(1));
        if 2 * probes.clone().filter(repeats).count() <= probes.count() {
            return None;
        }
        let mut distinct = Self {
            rows: Vec::new(),
            num_rows: 0,
            repeats: Vec::new(),
        };
        for row in 0..num_rows {
            match distinct.repeats.last_mut().filter(|_| repeats(&row)) {
                Some(count) => *count += 1,
                None => {
                    distinct.rows.extend_from_slice(weight.entry(row));
                    distinct.num_rows += 1;
                    distinct.repeats.push(1);
                }
            }
        }
        Some(distinct)
    }
}
