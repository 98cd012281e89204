//! A step as the paged attention kernels read it: which rows, which blocks, which slots, which lengths.
//!
//! Whole numbers only: no tensor, no device, so all of it is tested everywhere. Knows what the kernels of mistral.rs 0.8.1
//! ask for, which is not one form but two:
//!
//! ```text
//! one query per sequence   a padded table of blocks and a context length   (reads whole sequences, knows no window)
//! runs of queries          queries padded to the longest run, keys packed  (knows a window; ends are aligned)
//! ```
//! Layers with a window therefore give even their single queries as runs of one, over keys picked slot by slot: a table of
//! blocks would begin at a block's first token, up to `block_size - 1` tokens before the window does.
//! Invariant: a query reads exactly the slots of the positions that it sees, each once.

use std::ops::Range;

use crate::step::{GroupStep, SeqRows, Step};

/// Longest context that one call of the single-query kernel takes together with arbitrarily many others. With more than
/// [`MAX_SPLIT_HEADS`] rows times heads it keeps all scores of a row in the threadgroup's memory, four bytes each, and a
/// threadgroup has 32 KiB on Metal.
const SHORT_CONTEXT: usize = 7168;

/// Rows times query heads up to which the single-query kernel splits long contexts over threadgroups.
const MAX_SPLIT_HEADS: usize = 512;

/// The rows of a step by the kernel that attends them; the same for every layer.
#[derive(Debug, PartialEq, Eq)]
pub struct Split {
    /// Sequences with one query: those with a short context first.
    pub decodes: Vec<usize>,
    /// Row of each of them.
    pub decode_rows: Vec<u32>,
    /// Runs of `decodes` that make one call each of the single-query kernel.
    pub calls: Vec<Range<usize>>,
    /// Sequences with several queries.
    pub chunks: Vec<usize>,
    /// Queries of the longest of them.
    pub max_queries: usize,
    /// Their rows, each padded to the longest by repeating its last: `[chunks, max_queries]`.
    pub padded: Vec<u32>,
    /// Where each of their rows is in that.
    pub unpadded: Vec<u32>,
    /// For every row of the step, its place among the decodes' rows and then the chunks'; `None` if they are in order.
    pub order: Option<Vec<u32>>,
}

impl Split {
    /// Splits the rows of `step`.
    pub fn new(step: &Step<'_>, num_heads: usize) -> Self {
        let sequences = &step.sequences;
        let (mut decodes, chunks): (Vec<usize>, Vec<usize>) =
            (0..sequences.len()).partition(|index| sequences[*index].rows.len() == 1);
        let is_long = |index: &usize| context_len(&sequences[*index]) > SHORT_CONTEXT;
        decodes.sort_by_key(|index| is_long(index));
        let num_short = decodes.partition_point(|index| !is_long(index));
        let long_run = (MAX_SPLIT_HEADS / num_heads).max(1);
        let long = (num_short..decodes.len()).step_by(long_run);
        let calls = (num_short > 0).then_some(0..num_short).into_iter();
        let calls = calls.chain(long.map(|start| start..decodes.len().min(start + long_run)));

        let row = |index: &usize| sequences[*index].rows.start as u32;
        let lens = chunks.iter().map(|index| sequences[*index].rows.len());
        let max_queries = lens.max().unwrap_or(0);
        let (mut padded, mut unpadded) = (Vec::new(), Vec::new());
        for index in &chunks {
            let rows = &sequences[*index].rows;
            let first = padded.len();
            unpadded.extend((first..first + rows.len()).map(|place| place as u32));
            padded.extend((0..max_queries).map(|query| rows.start + query.min(rows.len() - 1)));
        }
        let decode_rows: Vec<u32> = decodes.iter().map(row).collect();
        let chunk_rows = unpadded.iter().map(|place| padded[*place as usize] as u32);
        let mut order = vec![0; step.positions.len()];
        for (place, row) in decode_rows.iter().copied().chain(chunk_rows).enumerate() {
            order[row as usize] = place as u32;
        }
        Self {
            calls: calls.collect(),
            decode_rows,
            decodes,
            chunks,
            max_queries,
            padded: padded.into_iter().map(|row| row as u32).collect(),
            unpadded,
            order: (!order.is_sorted()).then_some(order),
        }
    }

    /// Whether no chunk has anything before it: then the keys that it sees are its own.
    pub fn is_fresh(&self, step: &Step<'_>) -> bool {
        let mut chunks = self.chunks.iter();
        chunks.all(|index| step.sequences[*index].first_position == 0)
    }
}

/// Blocks of whole sequences.
#[derive(Debug, PartialEq, Eq)]
pub struct Tables {
    /// `[sequences, width]`, row by row; behind a sequence's last block any block, which nobody reads.
    pub blocks: Vec<u32>,
    /// Blocks of the longest.
    pub width: usize,
    /// Tokens of each.
    pub context_lens: Vec<u32>,
    /// Tokens of the longest.
    pub max_context_len: usize,
}

impl Tables {
    /// The tables of some sequences of `step` in a group without a window.
    pub fn new(step: &Step<'_>, group: &GroupStep, sequences: &[usize], block_size: usize) -> Self {
        let lens = sequences
            .iter()
            .map(|index| context_len(&step.sequences[*index]));
        let max_context_len = lens.clone().max().unwrap_or(0);
        let width = max_context_len.div_ceil(block_size);
        let mut blocks = Vec::with_capacity(sequences.len() * width);
        for (index, len) in sequences.iter().zip(lens.clone()) {
            let own = &group.block_table(*index)[..len.div_ceil(block_size)];
            blocks.extend_from_slice(own);
            blocks.extend(std::iter::repeat_n(0, width - own.len()));
        }
        Self {
            blocks,
            width,
            context_lens: lens.map(|len| len as u32).collect(),
            max_context_len,
        }
    }

    /// The sequences' bounds when their tokens are packed, `[sequences + 1]`.
    pub fn cumulative(&self) -> Vec<u32> {
        cumulative(self.context_lens.iter().copied())
    }
}

/// The tokens that the queries of some sequences see through a window, packed.
#[derive(Debug, PartialEq, Eq)]
pub struct WindowKeys {
    /// Slot of each token.
    pub slots: Vec<u32>,
    /// The sequences' bounds in that, `[sequences + 1]`.
    pub cumulative: Vec<u32>,
}

impl WindowKeys {
    /// What the queries of `sequences` see: from where the first one's window begins to the last one.
    pub fn new(
        step: &Step<'_>,
        group: &GroupStep,
        sequences: &[usize],
        window: usize,
        block_size: usize,
    ) -> Self {
        let (mut slots, mut lens) = (Vec::new(), Vec::new());
        for index in sequences {
            let sequence = &step.sequences[*index];
            let table = group.block_table(*index);
            let seen = (sequence.first_position + 1).saturating_sub(window)..context_len(sequence);
            lens.push(seen.len() as u32);
            slots.extend(seen.map(|position| {
                table[position / block_size] * block_size as u32 + (position % block_size) as u32
            }));
        }
        Self {
            slots,
            cumulative: cumulative(lens.into_iter()),
        }
    }
}

/// Bounds of the queries of some sequences when packed, `[sequences + 1]`.
pub fn cumulative_queries(step: &Step<'_>, sequences: &[usize]) -> Vec<u32> {
    let len = |index: &usize| step.sequences[*index].rows.len() as u32;
    cumulative(sequences.iter().map(len))
}

/// Tokens of a sequence once this step is done.
fn context_len(sequence: &SeqRows) -> usize {
    sequence.first_position + sequence.rows.len()
}

fn cumulative(lens: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut sum = 0;
    let sums = lens.map(|len| {
        sum += len;
        sum
    });
    std::iter::once(0).chain(sums).collect()
}

#[cfg(test)]
mod tests {
    use gossamer_scheduler::Capacity;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::accelerated::plans::{steps, world};

    /// Slots that a query at `position` sees, in order of position: what the CPU backend's kernel reads.
    fn seen(table: &[u32], position: usize, window: Option<usize>, block_size: usize) -> Vec<u32> {
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let slot =
            |at: usize| table[at / block_size] * block_size as u32 + (at % block_size) as u32;
        (first..=position).map(slot).collect()
    }

    /// What the kernels read for each row, in the order of the step.
    fn read(step: &Step<'_>, split: &Split, capacity: &Capacity, group: usize) -> Vec<Vec<u32>> {
        let block_size = capacity.block_size;
        let window = capacity.groups[group].window;
        let group = &step.groups[group];
        let mut rows = Vec::new();
        // Single queries: tables and lengths, or slots of the window.
        for call in &split.calls {
            let decodes = &split.decodes[call.clone()];
            if let Some(window) = window {
                let keys = WindowKeys::new(step, group, decodes, window, block_size);
                let bounds = keys.cumulative.windows(2);
                rows.extend(bounds.map(|b| keys.slots[b[0] as usize..b[1] as usize].to_vec()));
                continue;
            }
            let tables = Tables::new(step, group, decodes, block_size);
            let each = tables
                .blocks
                .chunks_exact(tables.width)
                .zip(&tables.context_lens);
            rows.extend(each.map(|(table, len)| seen(table, *len as usize - 1, None, block_size)));
        }
        // Runs of queries: packed keys, ends aligned, a window of them.
        let (slots, bounds) = match window {
            Some(window) => {
                let keys = WindowKeys::new(step, group, &split.chunks, window, block_size);
                (keys.slots, keys.cumulative)
            }
            None => {
                let tables = Tables::new(step, group, &split.chunks, block_size);
                let each = tables
                    .blocks
                    .chunks_exact(tables.width.max(1))
                    .zip(&tables.context_lens);
                let slots =
                    each.flat_map(|(table, len)| seen(table, *len as usize - 1, None, block_size));
                (slots.collect(), tables.cumulative())
            }
        };
        let queries = cumulative_queries(step, &split.chunks);
        for (q, k) in queries.windows(2).zip(bounds.windows(2)) {
            let keys = &slots[k[0] as usize..k[1] as usize];
            let num_queries = (q[1] - q[0]) as usize;
            for query in 0..num_queries {
                let end = keys.len() - num_queries + query + 1;
                let start = window.map_or(0, |window| end.saturating_sub(window));
                rows.push(keys[start..end].to_vec());
            }
        }
        match &split.order {
            None => rows,
            Some(order) => order.iter().map(|at| rows[*at as usize].clone()).collect(),
        }
    }

    proptest! {
        #[test]
        fn every_row_reads_the_slots_that_the_cpu_reads(
            steps in steps(6),
            block_size in prop_oneof![Just(8usize), Just(16), Just(32)],
            window in 1usize..70,
            seed: u64,
        ) {
            let lens: Vec<usize> = steps.iter().map(|(past, count)| past + count).collect();
            let mut world = world(&lens, (400, block_size), Some(window), seed, 300);
            let counts: Vec<usize> = steps.iter().map(|(_, count)| *count).collect();
            for (sequence, (past, _)) in world.sequences.iter_mut().zip(&steps) {
                sequence.computed = *past;
            }
            let plan = world.plan(&counts);
            let step = Step::new(&plan, &world.capacity, 300).unwrap();
            let split = Split::new(&step, 64);
            prop_assert_eq!(split.decodes.len() + split.unpadded.len(), step.tokens.len());
            for group in 0..2 {
                let rows = read(&step, &split, &world.capacity, group);
                prop_assert_eq!(rows.len(), step.tokens.len());
                for (index, sequence) in step.sequences.iter().enumerate() {
                    for row in sequence.rows.clone() {
                        let table = step.groups[group].block_table(index);
                        let position = step.positions[row];
                        let window = world.capacity.groups[group].window;
                        let expected = seen(table, position, window, block_size);
                        prop_assert_eq!(&rows[row], &expected, "group {}, row {}", group, row);
                        // The row's own slot, written in this step, is the last that it reads.
                        prop_assert_eq!(
                            rows[row].last().map(|slot| *slot as usize),
                            Some(step.groups[group].slots[row])
                        );
                    }
                }
            }
        }

        #[test]
        fn padding_and_order_lose_no_row(steps in steps(8), seed: u64) {
            let lens: Vec<usize> = steps.iter().map(|(past, count)| past + count).collect();
            let mut world = world(&lens, (400, 16), None, seed, 300);
            for (sequence, (past, _)) in world.sequences.iter_mut().zip(&steps) {
                sequence.computed = *past;
            }
            let counts: Vec<usize> = steps.iter().map(|(_, count)| *count).collect();
            let plan = world.plan(&counts);
            let step = Step::new(&plan, &world.capacity, 300).unwrap();
            let split = Split::new(&step, 4);
            prop_assert_eq!(split.padded.len(), split.chunks.len() * split.max_queries);
            let chunk_rows = split.unpadded.iter().map(|at| split.padded[*at as usize]);
            let by_kernel: Vec<u32> = split.decode_rows.iter().copied().chain(chunk_rows).collect();
            let rows: Vec<u32> = match &split.order {
                None => by_kernel,
                Some(order) => order.iter().map(|at| by_kernel[*at as usize]).collect(),
            };
            prop_assert!(rows.iter().copied().eq(0..step.tokens.len() as u32));
            prop_assert_eq!(split.is_fresh(&step), split.chunks.iter().all(|i| {
                step.sequences[*i].first_position == 0
            }));
        }
    }

    #[test]
    fn long_contexts_are_called_apart_and_few_at_a_time() {
        let lens = [
            SHORT_CONTEXT + 1,
            5,
            SHORT_CONTEXT,
            SHORT_CONTEXT + 9,
            SHORT_CONTEXT + 2,
        ];
        let mut world = world(&lens, (1000, 32), None, 7, 300);
        for (sequence, len) in world.sequences.iter_mut().zip(lens) {
            sequence.computed = len - 1;
        }
        let plan = world.plan(&[1; 5]);
        let step = Step::new(&plan, &world.capacity, 300).unwrap();
        // 64 heads: 8 rows a call. 256 heads: 2.
        let split = Split::new(&step, 64);
        assert_eq!(split.decodes, [1, 2, 0, 3, 4]);
        assert_eq!(split.calls, [0..2, 2..5]);
        assert_eq!(split.order, Some(vec![2, 0, 1, 3, 4]));
        assert_eq!(Split::new(&step, 256).calls, [0..2, 2..4, 4..5]);
        let tables = Tables::new(&step, &step.groups[0], &split.decodes[0..2], 32);
        assert_eq!(tables.max_context_len, SHORT_CONTEXT);
        assert_eq!(tables.cumulative(), [0, 5, 5 + SHORT_CONTEXT as u32]);
    }
}
