//! A row of which only some tokens are left: the others get a logit of -inf.
//!
//! What is left is usually either a handful or nearly everything. So the result is made of runs: its length is that of
//! what is left (and of the gaps between), not that of the vocabulary. Only a long row of which most is left is copied.

use std::ops::Range;

use super::{Edited, Row};

impl Row<'_> {
    /// The row without all tokens but these, ascending and distinct.
    pub fn only<'b>(&self, tokens: &[u32], buffers: &'b mut Edited) -> Row<'b> {
        let tokens = tokens
            .iter()
            .filter(|token| (**token as usize) < self.len());
        self.keep(tokens.map(|token| *token..token + 1), buffers)
    }

    /// The row without these tokens, ascending and distinct.
    pub fn without<'b>(&self, tokens: &[u32], buffers: &'b mut Edited) -> Row<'b> {
        let changes = tokens
            .iter()
            .filter(|token| (**token as usize) < self.len());
        let changes: Vec<_> = changes.map(|token| (*token, f32::NEG_INFINITY)).collect();
        self.with(&changes, buffers)
    }

    /// The row without the tokens whose bit in `mask` is not set: token `t` is bit `t % 32` of word `t / 32`.
    pub fn masked<'b>(&self, mask: &[u32], buffers: &'b mut Edited) -> Row<'b> {
        let kept = runs_of_ones(mask, self.len() as u32);
        let num_kept: u32 = mask.iter().map(|word| word.count_ones()).sum();
        if self.runs.is_some() || (num_kept as usize) < self.len() / 8 {
            return self.keep(kept, buffers);
        }
        // A logit per token, and most of them stay: a run for each would be longer than the row.
        buffers.values.clear();
        buffers.values.extend_from_slice(self.values);
        let mut from = 0;
        for range in kept {
            buffers.values[from..range.start as usize].fill(f32::NEG_INFINITY);
            from = range.end as usize;
        }
        buffers.values[from..].fill(f32::NEG_INFINITY);
        Row::whole(&buffers.values)
    }

    /// The row without what is in none of these ranges, which are ascending and within the row.
    fn keep<'b>(
        &self,
        ranges: impl Iterator<Item = Range<u32>>,
        buffers: &'b mut Edited,
    ) -> Row<'b> {
        buffers.values.clear();
        buffers.runs.clear();
        for range in ranges {
            buffers.leave_out(range.start);
            match self.runs {
                Some(runs) => buffers.copy_up_to(range.end, self.values, runs),
                None => {
                    for value in &self.values[range.start as usize..range.end as usize] {
                        buffers.push(1, *value);
                    }
                }
            }
        }
        buffers.leave_out(self.len() as u32);
        Row::of_runs(&buffers.values, &buffers.runs)
    }
}

impl Edited {
    /// Fills up with -inf to just before token `end`.
    fn leave_out(&mut self, end: u32) {
        if let gap @ 1.. = end - self.runs.num_tokens as u32 {
            self.push(gap, f32::NEG_INFINITY);
        }
    }
}

/// The longest ranges of bits that are set, below `end`.
fn runs_of_ones(mask: &[u32], end: u32) -> impl Iterator<Item = Range<u32>> {
    let end = end.min(32 * mask.len() as u32);
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next_bit(mask, at, end, 0);
        at = next_bit(mask, start, end, u32::MAX);
        (start < end).then_some(start..at)
    })
}

/// The first bit from `from` on that is set in `mask ^ flip`; `end` if there is none below it.
fn next_bit(mask: &[u32], from: u32, end: u32, flip: u32) -> u32 {
    let mut word = (from / 32) as usize;
    let mut bits = match mask.get(word) {
        Some(bits) if from < end => (bits ^ flip) & (u32::MAX << (from % 32)),
        _ => return end,
    };
    while bits == 0 {
        word += 1;
        match mask.get(word) {
            Some(next) if 32 * (word as u32) < end => bits = next ^ flip,
            _ => return end,
        }
    }
    (32 * word as u32 + bits.trailing_zeros()).min(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Runs;
    use super::*;

    proptest! {
        #[test]
        fn what_is_left_is_left_and_the_rest_is_impossible(
            counts in prop::collection::vec(1u32..50, 1..20),
            mask in prop::collection::vec(prop_oneof![Just(0), Just(u32::MAX), any::<u32>()], 0..12),
        ) {
            let runs = Runs::new(&counts);
            let values: Vec<f32> = (0..counts.len()).map(|run| run as f32).collect();
            let row = Row::of_runs(&values, &runs);
            let mut plain = Vec::new();
            row.write_out(&mut plain);
            let is_set = |token: usize| mask.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
            let expect: Vec<f32> = (plain.iter().enumerate())
                .map(|(token, logit)| if is_set(token) { *logit } else { f32::NEG_INFINITY })
                .collect();
            let (kept, refused): (Vec<u32>, Vec<u32>) = (0..1000).partition(|token| is_set(*token as usize));
            let mut buffers = Edited::default();
            let mut all = Vec::new();
            for row in [row, Row::whole(&plain)] {
                row.masked(&mask, &mut buffers).write_out(&mut all);
                prop_assert_eq!(&all, &expect);
                row.only(&kept, &mut buffers).write_out(&mut all);
                prop_assert_eq!(&all, &expect);
                row.without(&refused, &mut buffers).write_out(&mut all);
                prop_assert_eq!(&all, &expect);
            }
        }
    }
}
