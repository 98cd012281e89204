//! A plan as the model sees it: rows, positions, slots, block tables. Host side, free of any device.
//!
//! Owns the checks that a plan is consistent with itself and with the capacity, so that no operation below has to.
//! Invariant: every token id and slot of a [`Step`], and every block that its rows see, is in range, and its sequences
//! tile its rows in order.

use std::ops::Range;

use gossamer_scheduler::{BatchPlan, Capacity, PromptScores, SampleSpec, SeqSlice};

use crate::error::StepError;

/// One step.
pub struct Step<'a> {
    /// Token id of each row, `[num_rows]`.
    pub tokens: &'a [u32],
    /// Position of each row in its sequence, `[num_rows]`.
    pub positions: Vec<usize>,
    /// The sequences, tiling the rows.
    pub sequences: Vec<SeqRows>,
    /// Where each KV group keeps these rows.
    pub groups: Vec<GroupStep>,
    /// Rows whose logits are needed, ascending.
    pub logit_rows: Vec<usize>,
    /// The tokens to draw, by ascending rows.
    pub draws: Vec<Draw<'a>>,
    /// The tokens to score: index into `logit_rows`, and what.
    pub scores: Vec<(usize, Score)>,
}

/// A token to draw, and those after it for as long as they are the drafts.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Index into [`Step::logit_rows`]. The drafts' logits are in the rows behind it.
    pub row: usize,
    /// How the first of them is drawn.
    pub spec: &'a SampleSpec,
    /// Perhaps none.
    pub drafts: &'a [u32],
}

/// A token of a prompt whose probability is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Its sequence, for errors.
    pub seq: u64,
    /// The token.
    pub token: u32,
    /// How many of the likeliest tokens to report beside it.
    pub top: usize,
}

/// The rows of one sequence.
pub struct SeqRows {
    /// Its rows.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub first_position: usize,
}

/// One KV group's view of a step.
#[derive(Default)]
pub struct GroupStep {
    /// Slot that each row's key and value go to, `[num_rows]`.
    pub slots: Vec<usize>,
    blocks: Vec<u32>,
    tables: Vec<Range<usize>>,
}

impl GroupStep {
    /// Block table of sequence `index` of the step.
    pub fn block_table(&self, index: usize) -> &[u32] {
        &self.blocks[self.tables[index].clone()]
    }
}

impl<'a> Step<'a> {
    /// Checks `plan` and lays it out.
    ///
    /// # Errors
    /// [`StepError::InvalidPlan`] saying which part of the plan contradicts what.
    pub fn new(
        plan: &'a BatchPlan,
        capacity: &Capacity,
        vocab_size: usize,
    ) -> Result<Self, StepError> {
        if let Some(token) = plan
            .tokens
            .iter()
            .find(|token| **token as usize >= vocab_size)
        {
            return invalid(format!("token id {token} of a vocabulary of {vocab_size}"));
        }
        let mut step = Self {
            tokens: &plan.tokens,
            positions: Vec::with_capacity(plan.tokens.len()),
            sequences: Vec::with_capacity(plan.slices.len()),
            groups: Vec::new(),
            logit_rows: Vec::new(),
            draws: Vec::new(),
            scores: Vec::new(),
        };
        step.groups
            .resize_with(capacity.groups.len(), GroupStep::default);
        for slice in &plan.slices {
            step.add(plan, slice, capacity, vocab_size)?;
        }
        if step.positions.len() != plan.tokens.len() {
            return invalid(format!(
                "slices cover {} of {} tokens",
                step.positions.len(),
                plan.tokens.len()
            ));
        }
        Ok(step)
    }

    fn add(
        &mut self,
        plan: &'a BatchPlan,
        slice: &'a SeqSlice,
        capacity: &Capacity,
        vocab_size: usize,
    ) -> Result<(), StepError> {
        let seq = slice.seq.0;
        let start = self.positions.len();
        let left = plan.tokens.len() - start;
        if slice.query_start != start || !(1..=left).contains(&slice.query_len) {
            return invalid(format!(
                "sequence {seq} has rows {} + {}, expected some of {start}..{}",
                slice.query_start,
                slice.query_len,
                plan.tokens.len()
            ));
        }
        if slice.query_len > slice.context_len || slice.context_len > capacity.max_model_len {
            return invalid(format!(
                "sequence {seq} has {} queries in a context of {}, the model's being {}",
                slice.query_len, slice.context_len, capacity.max_model_len
            ));
        }
        let drafts_hang = slice.query_len != 1 + slice.num_drafts || slice.samples.len() != 1;
        if slice.num_drafts > 0 && drafts_hang {
            return invalid(format!(
                "sequence {seq} has {} drafts in {} rows with {} samples",
                slice.num_drafts,
                slice.query_len,
                slice.samples.len()
            ));
        }
        if slice.block_tables.len() != self.groups.len() {
            return invalid(format!(
                "sequence {seq} has {} block tables for {} KV groups",
                slice.block_tables.len(),
                self.groups.len()
            ));
        }
        let positions = slice.context_len - slice.query_len..slice.context_len;
        let block_size = capacity.block_size;
        let tables = self
            .groups
            .iter_mut()
            .zip(&capacity.groups)
            .zip(&slice.block_tables);
        for ((group, kv_group), table) in tables {
            if table.len() * block_size < slice.context_len {
                return invalid(format!(
                    "sequence {seq} has {} blocks of {block_size} for {} tokens",
                    table.len(),
                    slice.context_len
                ));
            }
            // Behind the window there may be none, and nobody looks.
            let seen = kv_group.first_block(positions.start, block_size)..;
            if let Some(block) = table[seen]
                .iter()
                .find(|block| block.0 as usize >= capacity.num_blocks)
            {
                return invalid(format!(
                    "sequence {seq} has block {} of {}",
                    block.0, capacity.num_blocks
                ));
            }
            let first = group.blocks.len();
            group.blocks.extend(table.iter().map(|block| block.0));
            group.tables.push(first..group.blocks.len());
            group.slots.extend(positions.clone().map(|position| {
                table[position / block_size].0 as usize * block_size + position % block_size
            }));
        }
        if let Some(scores) = &slice.scores {
            self.add_scores(slice, scores, start, vocab_size)?;
        }
        if !slice.samples.is_empty() {
            let row = self.logit_rows.len();
            let end = start + slice.query_len;
            self.logit_rows.extend(end - 1 - slice.num_drafts..end);
            let drafts = plan.drafts(slice);
            let draws = (slice.samples.iter()).map(|spec| Draw { row, spec, drafts });
            self.draws.extend(draws);
        }
        self.sequences.push(SeqRows {
            rows: start..start + slice.query_len,
            first_position: positions.start,
        });
        self.positions.extend(positions);
        Ok(())
    }

    fn add_scores(
        &mut self,
        slice: &SeqSlice,
        scores: &PromptScores,
        start: usize,
        vocab_size: usize,
    ) -> Result<(), StepError> {
        let (seq, rows) = (slice.seq.0, &scores.rows);
        // The last row may be sampled, and each row is computed once.
        let end = slice.query_len - usize::from(!slice.samples.is_empty());
        if rows.end > end || rows.len() != scores.targets.len() {
            return invalid(format!(
                "sequence {seq} has {} tokens to score from rows {rows:?} of {end}",
                scores.targets.len()
            ));
        }
        for (row, &token) in rows.clone().zip(&scores.targets) {
            if token as usize >= vocab_size {
                return invalid(format!("token id {token} of a vocabulary of {vocab_size}"));
            }
            let score = Score {
                seq,
                token,
                top: scores.top.into(),
            };
            self.scores.push((self.logit_rows.len(), score));
            self.logit_rows.push(start + row);
        }
        Ok(())
    }
}

/// Checks the copies of `plan` and returns them as (source, destination).
///
/// # Errors
/// [`StepError::InvalidPlan`] for a block that does not exist.
pub fn copies(plan: &BatchPlan, capacity: &Capacity) -> Result<Vec<(u32, u32)>, StepError> {
    let mut copies = Vec::with_capacity(plan.copies.len());
    for copy in &plan.copies {
        if copy.src.0.max(copy.dst.0) as usize >= capacity.num_blocks {
            return invalid(format!(
                "copy of block {} to {} of {}",
                copy.src.0, copy.dst.0, capacity.num_blocks
            ));
        }
        copies.push((copy.src.0, copy.dst.0));
    }
    Ok(copies)
}

fn invalid<T>(message: String) -> Result<T, StepError> {
    Err(StepError::InvalidPlan(message))
}
