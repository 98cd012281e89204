//! Mixture of experts on the CPU: tokens grouped by expert, so that each expert's weights are read once per step.
//!
//! ```text
//! assignments (row, rank)      r0:e5 r0:e2 | r1:e2 r1:e7      one row's experts, best first
//! sorted by expert             e2: r0 r1 | e5: r0 | e7: r1    rows gathered, each group one matmul
//! combined per row, by rank    r0 = w0*e5 + w1*e2             always in rank order: batch invariance
//! ```

use std::ops::Range;

use gossamer_kernels::{ColumnsMut, add_scaled, router_topk};

use super::buffers::CpuTensor;
use super::experts::CpuExperts;
use super::{Cpu, MIN_PARALLEL_WORK, PARTS_PER_THREAD};

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
    rows: Vec<u32>,
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
                    self.rows[place] = (assignment / top_k) as u32;
                    place += 1;
                }
            }
            if place > start {
                self.groups.push((expert, start..place));
            }
        }
    }

    /// Row of each assignment, sorted by expert.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }
}

/// A range of one expert's output columns, for all its tokens.
pub struct Task<'a, T> {
    /// Index of the expert.
    pub expert: usize,
    /// Its sorted assignments.
    pub places: Range<usize>,
    /// Which columns.
    pub columns: Range<usize>,
    /// These columns of these assignments.
    pub out: ColumnsMut<'a, T>,
}

impl Cpu {
    /// Runs the routed experts; the routing was done by [`MoeScratch::route`].
    pub(super) fn run_experts(
        &mut self,
        x: &CpuTensor,
        experts: &CpuExperts,
        top_k: usize,
    ) -> CpuTensor {
        let (isa, hidden) = (self.isa, x.cols());
        let routing = std::mem::take(&mut self.moe);
        let outputs = match experts {
            CpuExperts::InPlace(experts) => self.run_in_place(x, experts, &routing),
            CpuExperts::Packed(experts) => self.run_packed(x, experts, &routing),
        };
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

    /// Runs `work` for every task: on all threads, if there are `cost` multiply-adds to share.
    pub(super) fn for_tasks<I: Iterator<Item: Send> + Send>(
        &mut self,
        cost: usize,
        tasks: I,
        work: impl Fn(I::Item) + Sync,
    ) {
        if cost < MIN_PARALLEL_WORK {
            tasks.for_each(work);
        } else {
            self.team.for_each(tasks, |_, task| work(task));
        }
    }

    /// Splits `[assignments, width]` by expert and then by columns, into enough tasks for all threads.
    pub(super) fn tasks<'a, T>(
        &self,
        routing: &MoeScratch,
        out: &'a mut [T],
        width: usize,
        unit: usize,
    ) -> std::vec::IntoIter<Task<'a, T>> {
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
        tasks.into_iter()
    }
}
