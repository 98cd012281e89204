//! Mixture of experts on the CPU: tokens grouped by expert, so that each expert's weights are read once per step.
//!
//! ```text
//! assignments (row, rank)      r0:e5 r0:e2 | r1:e2 r1:e7      one row's experts, best first
//! sorted by expert             e2: r0 r1 | e5: r0 | e7: r1    rows gathered, each group one matmul
//! combined per row, by rank    r0 = w0*e5 + w1*e2             always in rank order: batch invariance
//! ```

use std::ops::Range;

use gossamer_kernels::{
    Bf16Slice, ColumnsMut, Mxfp4Matrix, add_scaled, mxfp4_matmul, router_topk, swiglu,
};

use super::buffers::CpuTensor;
use super::{COLUMN_UNIT, Cpu, MIN_PARALLEL_WORK, PARTS_PER_THREAD};
use crate::backend::{ExpertWeights, Mxfp4Weight};

/// The routing of one step, reused from layer to layer.
#[derive(Default)]
pub struct MoeScratch {
    /// Expert of each assignment, `[rows, top_k]`.
    experts: Vec<u32>,
    /// Weight of each assignment, `[rows, top_k]`.
    weights: Vec<f32>,
    /// Index of each assignment among those sorted by expert, `[rows, top_k]`.
    places: Vec<usize>,
    /// Row of each sorted assignment.
    rows: Vec<usize>,
    /// The experts that have tokens, each with its sorted assignments.
    groups: Vec<(usize, Range<usize>)>,
}

impl MoeScratch {
    /// Chooses each row's experts by its router logits, `[rows, num_experts]`, and sorts the assignments.
    pub fn route(&mut self, logits: &CpuTensor, top_k: usize) {
        let (num_rows, num_experts) = (logits.rows(), logits.cols());
        let assignments = num_rows * top_k;
        self.experts.resize(assignments, 0);
        self.weights.resize(assignments, 0.0);
        self.places.resize(assignments, 0);
        self.rows.resize(assignments, 0);
        let chosen = self
            .experts
            .chunks_exact_mut(top_k)
            .zip(self.weights.chunks_exact_mut(top_k));
        for (row, (experts, weights)) in chosen.enumerate() {
            router_topk(logits.row(row), experts, weights);
        }
        // Counting sort, stable: within an expert, rows stay in order.
        self.groups.clear();
        let mut place = 0;
        for expert in 0..num_experts {
            let start = place;
            for (assignment, chosen) in self.experts.iter().enumerate() {
                if *chosen as usize == expert {
                    self.places[assignment] = place;
                    self.rows[place] = assignment / top_k;
                    place += 1;
                }
            }
            if place > start {
                self.groups.push((expert, start..place));
            }
        }
    }
}

/// One expert's matrix and bias.
fn expert(weight: &Mxfp4Weight, index: usize) -> (Mxfp4Matrix<'_>, Bf16Slice<'_>) {
    let [_, rows, blocks, _] = *weight.blocks.shape() else {
        unreachable!("the loader checked the shape [experts, rows, blocks, 16]");
    };
    let matrix = Mxfp4Matrix::new(
        weight.blocks.entry(index),
        weight.scales.entry(index),
        rows,
        blocks * 32,
    );
    (matrix, Bf16Slice::new(weight.bias.entry(index)))
}

/// A range of one expert's output columns, for all its tokens.
struct Task<'a> {
    expert: usize,
    places: Range<usize>,
    columns: Range<usize>,
    out: ColumnsMut<'a>,
}

impl Cpu {
    /// Runs the routed experts; the routing was done by [`MoeScratch::route`].
    pub(super) fn run_experts(
        &mut self,
        x: &CpuTensor,
        experts: &ExpertWeights,
        top_k: usize,
    ) -> CpuTensor {
        let (isa, hidden) = (self.isa, x.cols());
        let inner = experts.gate_up.blocks.shape()[1] / 2;
        let routing = std::mem::take(&mut self.moe);
        let assignments = routing.rows.len();

        let mut gathered = self.tensor(assignments, hidden);
        for (out, row) in gathered
            .data_mut()
            .chunks_exact_mut(hidden)
            .zip(&routing.rows)
        {
            out.copy_from_slice(x.row(*row));
        }

        let mut activated = self.tensor(assignments, inner);
        let mut gate_up = self.tensor(assignments, 2 * inner);
        {
            let gathered = gathered.data();
            // Both outputs are split alike: `inner` columns and their pairs of gate and up.
            let narrow = self.tasks(&routing, activated.data_mut(), inner, COLUMN_UNIT);
            let wide = self.tasks(&routing, gate_up.data_mut(), 2 * inner, 2 * COLUMN_UNIT);
            let tasks = wide.into_iter().zip(narrow);
            let run = |(mut wide, mut narrow): (Task<'_>, Task<'_>)| {
                let (matrix, bias) = expert(&experts.gate_up, wide.expert);
                let x = &gathered[wide.places.start * hidden..wide.places.end * hidden];
                mxfp4_matmul(isa, x, matrix, wide.columns, Some(bias), &mut wide.out);
                for row in 0..wide.places.len() {
                    swiglu(
                        isa,
                        wide.out.row(row),
                        experts.swiglu_limit,
                        narrow.out.row(row),
                    );
                }
            };
            if assignments * hidden * inner < MIN_PARALLEL_WORK {
                tasks.for_each(run);
            } else {
                self.team.for_each(tasks, |_, task| run(task));
            }
        }
        drop(gate_up);

        let mut outputs = gathered; // Read to the end above; the same shape is needed again.
        {
            let activated = activated.data();
            let tasks = self.tasks(&routing, outputs.data_mut(), hidden, COLUMN_UNIT);
            let run = |mut task: Task<'_>| {
                let (matrix, bias) = expert(&experts.down, task.expert);
                let x = &activated[task.places.start * inner..task.places.end * inner];
                mxfp4_matmul(isa, x, matrix, task.columns, Some(bias), &mut task.out);
            };
            if assignments * hidden * inner < MIN_PARALLEL_WORK {
                tasks.into_iter().for_each(run);
            } else {
                self.team.for_each(tasks, |_, task| run(task));
            }
        }

        let mut mixed = self.tensor(x.rows(), hidden);
        self.for_row_runs(&mut mixed, top_k * hidden, |first, rows| {
            rows.fill(0.0);
            let ranks = routing
                .places
                .chunks_exact(top_k)
                .zip(routing.weights.chunks_exact(top_k));
            for (sum, (places, weights)) in rows.chunks_exact_mut(hidden).zip(ranks.skip(first)) {
                for (place, weight) in places.iter().zip(weights) {
                    add_scaled(isa, sum, *weight, outputs.row(*place));
                }
            }
        });
        self.moe = routing;
        mixed
    }

    /// Splits `[assignments, width]` by expert and then by columns, into enough tasks for all threads.
    fn tasks<'a>(
        &self,
        routing: &MoeScratch,
        out: &'a mut [f32],
        width: usize,
        unit: usize,
    ) -> Vec<Task<'a>> {
        let wanted = self.team.size() * PARTS_PER_THREAD;
        let parts = wanted.div_ceil(routing.groups.len());
        let mut tasks = Vec::with_capacity(parts * routing.groups.len());
        let mut rest = out;
        for (expert, places) in &routing.groups {
            let (own, after) = rest.split_at_mut(places.len() * width);
            rest = after;
            let split = ColumnsMut::new(own, places.len()).split_even(parts, unit);
            tasks.extend(split.into_iter().map(|(columns, out)| Task {
                expert: *expert,
                places: places.clone(),
                columns,
                out,
            }));
        }
        tasks
    }
}
