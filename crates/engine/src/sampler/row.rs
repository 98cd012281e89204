//! One row of logits, as the output projection left it: every token's, or one for each run of equal ones.
//!
//! Knows where a token's logit is and how to search and add up, no sampling policy. A model that was trained on a part
//! of its vocabulary has the same output row for all the rest (see `backend/cpu/head.rs`); for the embedded model that makes
//! a row 35 times shorter. Invariant: results are those of the row written out, sums but for rounding.

use std::cmp::Ordering;
use std::ops::Range;

use gossamer_kernels::{Isa, argmax, collect_at_least, max, sum_exp, sum_exp_weighted};

/// Logits summed at a time when drawing: a draw reads one block number by number, so it is small.
const SUM_BLOCK: usize = 256;

/// Sign bit of an f32.
const SIGN: u32 = 1 << 31;

/// Which neighbouring tokens share a logit.
#[derive(Default)]
pub struct Runs {
    /// First token of each run, ascending, `[num_runs]`.
    starts: Vec<u32>,
    /// Tokens of each run, `[num_runs]`; exact in f32 for every vocabulary.
    counts: Vec<f32>,
    num_tokens: usize,
}

impl Runs {
    /// Runs of these lengths, one after the other; no length is 0.
    pub fn new(counts: &[u32]) -> Self {
        let mut runs = Self::default();
        counts.iter().for_each(|count| runs.push(*count));
        runs
    }

    fn push(&mut self, count: u32) {
        self.starts.push(self.num_tokens as u32);
        self.counts.push(count as f32);
        self.num_tokens += count as usize;
    }

    fn clear(&mut self) {
        self.starts.clear();
        self.counts.clear();
        self.num_tokens = 0;
    }

    /// Appends `runs[range]`, which begins at the token where this ends.
    fn append(&mut self, runs: &Self, range: Range<usize>) {
        let Some(last) = range.clone().next_back() else {
            return;
        };
        self.starts.extend_from_slice(&runs.starts[range.clone()]);
        self.counts.extend_from_slice(&runs.counts[range]);
        self.num_tokens = runs.tokens(last).end as usize;
    }

    /// The run that a token is in.
    fn run_of(&self, token: u32) -> usize {
        self.starts.partition_point(|start| *start <= token) - 1
    }

    /// The tokens of one run.
    fn tokens(&self, run: usize) -> Range<u32> {
        let start = self.starts[run];
        start..start + self.counts[run] as u32
    }
}

/// Buffers for a row with changes.
#[derive(Default)]
pub struct Edited {
    values: Vec<f32>,
    runs: Runs,
}

impl Edited {
    fn push(&mut self, count: u32, value: f32) {
        self.runs.push(count);
        self.values.push(value);
    }

    /// Goes on with the logits of a row of `runs`, from where this ends to just before token `end`.
    fn copy_up_to(&mut self, end: u32, values: &[f32], runs: &Runs) {
        let start = self.runs.num_tokens as u32;
        if start >= end {
            return;
        }
        let (mut first, last) = (runs.run_of(start), runs.run_of(end - 1));
        if start > runs.starts[first] {
            // The rest of a run that a change has split.
            let rest = runs.tokens(first).end.min(end) - start;
            self.push(rest, values[first]);
            first += 1;
        }
        let whole = if runs.tokens(last).end == end {
            last + 1
        } else {
            last
        };
        if first < whole {
            self.runs.append(runs, first..whole);
            self.values.extend_from_slice(&values[first..whole]);
        }
        if let missing @ 1.. = end - self.runs.num_tokens as u32 {
            self.push(missing, values[last]);
        }
    }
}

/// The logits of one position.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    values: &'a [f32],
    runs: Option<&'a Runs>,
}

impl<'a> Row<'a> {
    /// A logit per token, `[vocab_size]`.
    pub fn whole(logits: &'a [f32]) -> Self {
        Self {
            values: logits,
            runs: None,
        }
    }

    /// A logit per run, `[num_runs]`.
    pub fn of_runs(values: &'a [f32], runs: &'a Runs) -> Self {
        debug_assert_eq!(values.len(), runs.starts.len());
        Self {
            values,
            runs: Some(runs),
        }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.runs.map_or(self.values.len(), |runs| runs.num_tokens)
    }

    /// The logit of a token.
    pub fn at(&self, token: u32) -> f32 {
        match self.runs {
            None => self.values[token as usize],
            Some(runs) => self.values[runs.run_of(token)],
        }
    }

    /// Writes every token's logit to `out`, in place of what it held.
    pub fn write_out(&self, out: &mut Vec<f32>) {
        out.clear();
        match self.runs {
            None => out.extend_from_slice(self.values),
            Some(runs) => {
                for (value, count) in self.values.iter().zip(&runs.counts) {
                    out.resize(out.len() + *count as usize, *value);
                }
            }
        }
    }

    /// The row with other logits for some tokens, ascending and distinct. A run is split where one of its tokens changes.
    pub fn with<'b>(&self, changes: &[(u32, f32)], buffers: &'b mut Edited) -> Row<'b> {
        buffers.values.clear();
        let Some(runs) = self.runs else {
            buffers.values.extend_from_slice(self.values);
            for (token, logit) in changes {
                buffers.values[*token as usize] = *logit;
            }
            return Row::whole(&buffers.values);
        };
        buffers.runs.clear();
        for (token, logit) in changes {
            buffers.copy_up_to(*token, self.values, runs);
            buffers.push(1, *logit);
        }
        buffers.copy_up_to(runs.num_tokens as u32, self.values, runs);
        Row::of_runs(&buffers.values, &buffers.runs)
    }

    /// The first token whose logit is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<u32> {
        // The largest magnitude as an integer: unlike a chain of comparisons of floats, this runs on vector registers.
        let magnitude = |logit: &f32| (logit.to_bits() & !SIGN) as i32;
        let finite = |chunk: &[f32]| {
            chunk.iter().map(magnitude).fold(0, i32::max) < f32::INFINITY.to_bits() as i32
        };
        if self.values.chunks(SUM_BLOCK).all(finite) {
            return None;
        }
        let index = self.values.iter().position(|logit| !logit.is_finite())?;
        Some(self.first_token(index))
    }

    fn first_token(&self, index: usize) -> u32 {
        self.runs.map_or(index as u32, |runs| runs.starts[index])
    }

    /// The token with the largest logit, the smallest among equals.
    pub fn best(&self, isa: Isa) -> u32 {
        self.first_token(argmax(isa, self.values))
    }

    /// The largest logit.
    pub fn max(&self, isa: Isa) -> f32 {
        max(isa, self.values)
    }

    /// Tokens with a logit of at least `floor`, ascending, in place of what `kept` held; never one at -inf.
    pub fn collect(&self, isa: Isa, floor: f32, kept: &mut Vec<u32>) {
        kept.clear();
        collect_at_least(isa, self.values, floor.max(f32::MIN), kept);
        let Some(runs) = self.runs else { return };
        let found = kept.len();
        for index in 0..found {
            let run = kept[index] as usize;
            kept.extend(runs.tokens(run));
        }
        kept.drain(..found);
    }

    /// The token's place when all are ordered by logit, from 1; of equal ones the smaller id comes first.
    pub fn rank(&self, token: u32) -> u32 {
        let logit = self.at(token);
        match self.runs {
            None => {
                let before = |(id, other): &(usize, &f32)| match other.total_cmp(&logit) {
                    Ordering::Greater => true,
                    Ordering::Equal => *id < token as usize,
                    Ordering::Less => false,
                };
                1 + self.values.iter().enumerate().filter(before).count() as u32
            }
            Some(runs) => {
                let tokens_before = |(run, value): (usize, &f32)| {
                    let tokens = runs.tokens(run);
                    match value.total_cmp(&logit) {
                        Ordering::Greater => tokens.len() as u32,
                        Ordering::Equal => token.clamp(tokens.start, tokens.end) - tokens.start,
                        Ordering::Less => 0,
                    }
                };
                let values = self.values.iter().enumerate();
                1 + values.map(tokens_before).sum::<u32>()
            }
        }
    }

    /// Weight `exp((logit - largest) * scale)` summed over all tokens.
    pub fn mass(&self, isa: Isa, largest: f32, scale: f32) -> f64 {
        self.block_masses(isa, largest, scale).sum()
    }

    /// As [`Row::mass`], block by block of values.
    fn block_masses(
        &self,
        isa: Isa,
        largest: f32,
        scale: f32,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let (values, runs) = (self.values, self.runs);
        (0..values.len()).step_by(SUM_BLOCK).map(move |start| {
            let block = start..values.len().min(start + SUM_BLOCK);
            let sum = match runs {
                None => sum_exp(isa, &values[block], largest, scale),
                Some(runs) => {
                    let counts = &runs.counts[block.clone()];
                    sum_exp_weighted(isa, &values[block], counts, largest, scale)
                }
            };
            f64::from(sum)
        })
    }

    /// The token at which the running sum of weights exceeds `uniform` (in [0, 1)) of all; `masses` is a buffer.
    pub fn draw(
        &self,
        isa: Isa,
        largest: f32,
        scale: f32,
        uniform: f64,
        masses: &mut Vec<f64>,
    ) -> u32 {
        masses.clear();
        masses.extend(self.block_masses(isa, largest, scale));
        let target = uniform * masses.iter().sum::<f64>();
        let block = pick(masses.iter().copied(), target);
        let target = target - masses[..block].iter().sum::<f64>();

        let first = block * SUM_BLOCK;
        let end = self.values.len().min(first + SUM_BLOCK);
        let weight = |index: usize| f64::from(((self.values[index] - largest) * scale).exp());
        let count = |index: usize| self.runs.map_or(1.0, |runs| f64::from(runs.counts[index]));
        let mass = |index: usize| weight(index) * count(index);
        let index = first + pick((first..end).map(mass), target);
        // All tokens of a run weigh the same, so what is left of the target says which.
        let left = target - (first..index).map(mass).sum::<f64>();
        let nth = (left / weight(index)).clamp(0.0, count(index) - 1.0);
        self.first_token(index) + nth as u32
    }
}

/// The first index at which the running sum of `weights` exceeds `target`; where rounding keeps it below, the last
/// index with a weight.
pub fn pick(weights: impl Iterator<Item = f64>, target: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (index, weight) in weights.enumerate() {
        if weight > 0.0 {
            sum += weight;
            last = index;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written_out(row: Row<'_>) -> Vec<f32> {
        let mut all = vec![7.0];
        row.write_out(&mut all);
        all
    }

    proptest! {
        #[test]
        fn a_changed_row_is_the_changed_row_written_out(
            counts in prop::collection::vec(1u32..6, 1..20),
            changed in prop::collection::btree_set(0u32..100, 0..30),
        ) {
            let runs = Runs::new(&counts);
            let values: Vec<f32> = (0..counts.len()).map(|run| run as f32).collect();
            let row = Row::of_runs(&values, &runs);
            let mut expect = written_out(row);
            let changes: Vec<(u32, f32)> = changed
                .into_iter()
                .filter(|token| (*token as usize) < row.len())
                .map(|token| (token, -1.0 - token as f32))
                .collect();
            let plain = expect.clone();
            for (token, logit) in &changes {
                expect[*token as usize] = *logit;
            }
            let mut buffers = Edited::default();
            for row in [row, Row::whole(&plain)] {
                let edited = row.with(&changes, &mut buffers);
                prop_assert_eq!(edited.len(), expect.len());
                prop_assert_eq!(&written_out(edited), &expect);
                for (token, logit) in expect.iter().enumerate() {
                    prop_assert_eq!(edited.at(token as u32), *logit);
                }
            }
        }
    }
}
