//! The experts' two products on the CPU: packed and by rounded activations, or as published.
//!
//! Knows which rows go to which expert, not why (`moe.rs` routes them and combines what comes out).
//! Invariant: what an expert makes of a row does not depend on the other rows.

use gossamer_kernels::{
    Bf16Slice, Mxfp4Matrix, QUANT_BLOCK, mxfp4_matmul, packed_matmul, packed_swiglu, swiglu,
};

use super::buffers::{CpuTensor, QuantTensor};
use super::linear::widened;
use super::moe::{MoeScratch, Task};
use super::packed::{Packed, Packer};
use super::{COLUMN_UNIT, Cpu};
use crate::backend::{ExpertWeights, Mxfp4Weight};
use crate::error::LoadError;

/// The experts of one layer.
pub enum CpuExperts {
    /// As published.
    InPlace(ExpertWeights),
    /// Repacked, for rounded activations.
    Packed(PackedExperts),
}

/// Experts repacked for rounded activations.
pub struct PackedExperts {
    gate_up: Packed,
    /// `[num_experts, 2 * inner]`.
    gate_up_bias: Vec<f32>,
    down: Packed,
    /// `[num_experts, hidden]`.
    down_bias: Vec<f32>,
    limit: f32,
}

impl CpuExperts {
    /// Repacks the experts, whose published bytes are no longer needed.
    ///
    /// # Errors
    /// [`LoadError::Setting`] if there is no room.
    pub fn packed(packer: &mut Packer<'_>, experts: &ExpertWeights) -> Result<Self, LoadError> {
        let mut pack = |weight: &Mxfp4Weight| {
            let packed = Packed::mxfp4(packer, weight)?;
            let bias = widened(packer.isa, weight.bias.bytes());
            for part in [&weight.blocks, &weight.scales, &weight.bias] {
                part.release();
            }
            Ok::<_, LoadError>((packed, bias))
        };
        let (gate_up, gate_up_bias) = pack(&experts.gate_up)?;
        let (down, down_bias) = pack(&experts.down)?;
        Ok(Self::Packed(PackedExperts {
            gate_up,
            gate_up_bias,
            down,
            down_bias,
            limit: experts.swiglu_limit,
        }))
    }
}

/// One expert's published matrix.
pub fn expert_matrix(weight: &Mxfp4Weight, index: usize) -> Mxfp4Matrix<'_> {
    let [_, rows, blocks, _] = *weight.blocks.shape() else {
        unreachable!("the loader checked the shape [experts, rows, blocks, 16]");
    };
    Mxfp4Matrix::new(
        weight.blocks.entry(index),
        weight.scales.entry(index),
        rows,
        blocks * 32,
    )
}

/// One expert's published bias.
fn published_bias(weight: &Mxfp4Weight, index: usize) -> Bf16Slice<'_> {
    Bf16Slice::new(weight.bias.entry(index))
}

/// One of the entries of a `[num_experts, rows]` bias.
fn entry(bias: &[f32], index: usize, rows: usize) -> Option<&[f32]> {
    Some(&bias[index * rows..][..rows])
}

impl Cpu {
    /// `[assignments, hidden]`, sorted by expert, from packed weights.
    pub(super) fn run_packed(
        &mut self,
        x: &CpuTensor,
        experts: &PackedExperts,
        routing: &MoeScratch,
    ) -> CpuTensor {
        let hidden = x.cols();
        let inner = experts.down.matrix(0).cols();
        let assignments = routing.rows().len();
        let cost = assignments * hidden * inner;
        self.count_rows(assignments);
        let blocks = self.quantized(x);

        let mut activated = QuantTensor::new(&self.buffers, assignments, inner);
        let tasks = self.tasks(routing, activated.data_mut(), inner / QUANT_BLOCK, 1);
        self.for_tasks(cost, tasks, |mut task| {
            packed_swiglu(
                blocks,
                &routing.rows()[task.places],
                experts.gate_up.matrix(task.expert),
                entry(&experts.gate_up_bias, task.expert, 2 * inner),
                experts.limit,
                task.columns,
                &mut task.out,
            );
        });

        let mut outputs = self.tensor(assignments, hidden);
        let tasks = self.tasks(routing, outputs.data_mut(), hidden, COLUMN_UNIT);
        let all_rows = std::mem::take(&mut self.all_rows);
        self.for_tasks(cost, tasks, |mut task| {
            packed_matmul(
                activated.data(),
                &all_rows[task.places],
                experts.down.matrix(task.expert),
                entry(&experts.down_bias, task.expert, hidden),
                task.columns,
                &mut task.out,
            );
        });
        self.all_rows = all_rows;
        outputs
    }

    /// `[assignments, hidden]`, sorted by expert, from published weights.
    pub(super) fn run_in_place(
        &mut self,
        x: &CpuTensor,
        experts: &ExpertWeights,
        routing: &MoeScratch,
    ) -> CpuTensor {
        let (isa, hidden) = (self.isa, x.cols());
        let inner = experts.gate_up.blocks.shape()[1] / 2;
        let assignments = routing.rows().len();
        let cost = assignments * hidden * inner;

        let mut gathered = self.tensor(assignments, hidden);
        let rows = gathered.data_mut().chunks_exact_mut(hidden);
        for (out, row) in rows.zip(routing.rows()) {
            out.copy_from_slice(x.row(*row as usize));
        }

        let mut activated = self.tensor(assignments, inner);
        let mut gate_up = self.tensor(assignments, 2 * inner);
        {
            let gathered = gathered.data();
            // Both outputs are split alike: `inner` columns and their pairs of gate and up.
            let narrow = self.tasks(routing, activated.data_mut(), inner, COLUMN_UNIT);
            let wide = self.tasks(routing, gate_up.data_mut(), 2 * inner, 2 * COLUMN_UNIT);
            let run = |(mut wide, mut narrow): (Task<'_, f32>, Task<'_, f32>)| {
                let matrix = expert_matrix(&experts.gate_up, wide.expert);
                let bias = Some(published_bias(&experts.gate_up, wide.expert));
                let x = &gathered[wide.places.start * hidden..wide.places.end * hidden];
                mxfp4_matmul(isa, x, matrix, wide.columns, bias, &mut wide.out);
                for row in 0..wide.places.len() {
                    let out = narrow.out.row(row);
                    swiglu(isa, wide.out.row(row), experts.swiglu_limit, out);
                }
            };
            self.for_tasks(cost, wide.zip(narrow), run);
        }
        drop(gate_up);

        let mut outputs = gathered; // Read to the end above; the same shape is needed again.
        let activated = activated.data();
        let tasks = self.tasks(routing, outputs.data_mut(), hidden, COLUMN_UNIT);
        self.for_tasks(cost, tasks, |mut task: Task<'_, f32>| {
            let matrix = expert_matrix(&experts.down, task.expert);
            let bias = Some(published_bias(&experts.down, task.expert));
            let x = &activated[task.places.start * inner..task.places.end * inner];
            mxfp4_matmul(isa, x, matrix, task.columns, bias, &mut task.out);
        });
        outputs
    }
}
