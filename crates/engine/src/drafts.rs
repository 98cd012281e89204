//! Drawing where a sequence has drafts: token after token, for as long as each is the draft at its place.
//!
//! Works in rounds: the first token of everybody, then the second of those whose first was the draft, and so on; each round
//! is one call of the backend's sampler, over all sequences that are still in it. Knows nothing of logits.
//! Invariant: each token is drawn as the next step would draw it: one position further, with the tokens before it in
//! history and constraint.

use std::ops::Range;

use gossamer_scheduler::{SampleSpec, SampledToken};

use crate::backend::Backend;
use crate::error::StepError;
use crate::step::Draw;

/// The end of the longest part of `rows`, a range of logit rows from the beginning of a draw, that does not cut a draw in
/// two; beyond `rows` where the first one is longer.
pub fn whole_draws(draws: &[Draw<'_>], rows: Range<usize>) -> usize {
    let before = draws.partition_point(|draw| draw.row < rows.end);
    let Some(last) = draws[..before].last() else {
        return rows.end;
    };
    let end = last.row + 1 + last.drafts.len();
    match (end > rows.end, last.row > rows.start) {
        (false, _) => rows.end,
        (true, true) => last.row,
        (true, false) => end,
    }
}

/// The tokens of `draws`, one after the other. Row 0 of `logits` is logit row `first` of the step.
///
/// # Errors
/// Those of [`Backend::sample`].
pub fn draw<B: Backend>(
    backend: &mut B,
    logits: &B::Logits,
    draws: &[Draw<'_>],
    first: usize,
) -> Result<Vec<SampledToken>, StepError> {
    let drafted = || draws.iter().filter(|draw| !draw.drafts.is_empty());
    for state in drafted().filter_map(|draw| draw.spec.constraint.as_ref()) {
        state.suppose(&[]);
    }
    let specs: Vec<_> = (draws.iter())
        .map(|draw| (draw.row - first, draw.spec))
        .collect();
    let drawn = backend.sample(logits, &specs)?;
    if drafted().next().is_none() {
        return Ok(drawn);
    }

    let mut drawn: Vec<Vec<SampledToken>> = drawn.into_iter().map(|token| vec![token]).collect();
    let with_drafts = |(_, draw): &(usize, &Draw<'_>)| !draw.drafts.is_empty();
    let mut runs: Vec<(usize, SampleSpec)> = (draws.iter().enumerate())
        .filter(with_drafts)
        .map(|(index, draw)| (index, draw.spec.clone()))
        .collect();
    for round in 1.. {
        runs.retain_mut(|(index, spec)| {
            let drafts = draws[*index].drafts;
            let newest = drawn[*index].last();
            let goes_on = newest.is_some_and(|newest| {
                drafts.get(round - 1) == Some(&newest.token) && !newest.is_dead_end()
            });
            if goes_on {
                go_on(spec, &drafts[..round]);
            }
            goes_on
        });
        if runs.is_empty() {
            break;
        }
        let row = |index: usize| draws[index].row - first + round;
        let specs: Vec<_> = (runs.iter())
            .map(|(index, spec)| (row(*index), spec))
            .collect();
        let tokens = backend.sample(logits, &specs)?;
        for ((index, _), token) in runs.iter().zip(tokens) {
            drawn[*index].push(token);
        }
    }
    Ok(drawn.into_iter().flatten().collect())
}

/// The last of `accepted` was drawn: what comes next is drawn behind it.
fn go_on(spec: &mut SampleSpec, accepted: &[u32]) {
    spec.output_len += 1;
    if let Some(history) = &mut spec.history {
        history.tokens.extend(accepted.last());
    }
    if let Some(state) = &spec.constraint {
        state.suppose(accepted);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gossamer_scheduler::{SamplingParams, SeqId};

    use super::*;

    #[test]
    fn draws_are_never_cut_in_two() {
        let spec = SampleSpec {
            seq: SeqId(0),
            choice: 0,
            output_len: 0,
            params: Arc::new(SamplingParams::greedy()),
            banned: None,
            history: None,
            constraint: None,
        };
        // Rows 0; 1, 2, 3; 4; then five that are only scored; 10 and 11.
        let draws = [(0, 0), (1, 2), (4, 0), (10, 1)].map(|(row, num_drafts)| Draw {
            row,
            spec: &spec,
            drafts: &[0; 5][..num_drafts],
        });
        let cases = [
            (0..1, 1),
            (0..2, 1),
            (0..3, 1),
            (0..4, 4),
            (1..2, 4),
            (1..3, 4),
            (4..7, 7),
            (4..11, 10),
            (7..11, 10),
            (7..12, 12),
            (10..11, 12),
        ];
        for (rows, end) in cases {
            assert_eq!(whole_draws(&draws, rows.clone()), end, "{rows:?}");
        }
        assert_eq!(whole_draws(&[], 3..9), 9);
    }
}
