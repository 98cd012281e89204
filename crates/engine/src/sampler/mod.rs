//! From logits to a token: bias, bans, penalties, temperature, filters, the draw, log-probabilities.
//!
//! Knows one row at a time, never the batch; with [`random`] a pure function of the row, the [`SampleSpec`] and the state of
//! its constraint. Invariant: what is drawn has a finite logit after every edit.
//!
//! Order: bias, repetition, frequency and presence penalty, bans; what the sequence's constraint refuses ([`constrained`]);
//! then greedy, or temperature, min-p, top-k, top-p (each over what the one before left, as vLLM does). Log-probabilities
//! are the model's own, before all of that.
//!
//! The vocabulary has 201088 tokens, so nothing sorts it. Filters look at the tokens within some distance below the
//! largest logit and widen that distance until what they search for must be inside.

pub mod constrained;
mod random;
mod row;

use std::cmp::Ordering;

use gossamer_kernels::Isa;
use gossamer_scheduler::{PromptLogprobs, SampleSpec, SampledToken, SamplingParams, TokenLogprobs};

use crate::error::StepError;
use crate::step::Score;

use row::{Edited, pick};
pub use row::{Row, Runs};

/// Below this a temperature counts as 0: the quotient would leave the range of f32.
pub const MIN_TEMPERATURE: f32 = 1e-5;

/// How far below the largest logit to look for candidates, in units of the temperature; then everywhere.
const DISTANCES: [f32; 3] = [8.0, 16.0, 32.0];

/// Buffers of one sampling thread, reused from row to row.
#[derive(Default)]
pub struct Scratch {
    changes: Changes,
    edited: Edited,
    drawing: Drawing,
}

/// Buffers of one draw.
#[derive(Default)]
pub struct Drawing {
    /// Row without what a constraint refuses.
    masked: Edited,
    kept: Vec<u32>,
    weights: Vec<f64>,
}

/// Draws the token that `spec` asks for from one row of raw logits.
///
/// # Errors
/// Logits that are not finite, or nothing left to draw.
pub fn sample(
    isa: Isa,
    logits: Row<'_>,
    spec: &SampleSpec,
    scratch: &mut Scratch,
) -> Result<SampledToken, StepError> {
    check_finite(logits, spec.seq.0)?;
    let Scratch {
        changes,
        edited,
        drawing,
    } = scratch;
    let candidates = edit(logits, spec, changes, edited)?;
    let (token, constrained) = match &spec.constraint {
        None => {
            let token = choose(
                isa,
                candidates,
                spec,
                0,
                &mut drawing.kept,
                &mut drawing.weights,
            );
            (
                token.ok_or(StepError::NothingToSample { seq: spec.seq.0 })?,
                None,
            )
        }
        Some(state) => constrained::sample(isa, logits, candidates, spec, state, drawing)?,
    };
    let kept = &mut drawing.kept;
    let logprobs = (spec.params.logprobs)
        .map(|count| Box::new(logprobs(isa, logits, token, usize::from(count), kept)));
    Ok(SampledToken {
        token,
        logprobs,
        constrained,
    })
}

/// The token that the parameters choose from a row; `None` if all logits are -inf.
fn choose(
    isa: Isa,
    candidates: Row<'_>,
    spec: &SampleSpec,
    attempt: u32,
    kept: &mut Vec<u32>,
    weights: &mut Vec<f64>,
) -> Option<u32> {
    let params = &spec.params;
    let best = candidates.best(isa);
    let largest = candidates.at(best);
    if largest == f32::NEG_INFINITY {
        return None;
    }
    // A temperature that is not a number is greedy too.
    Some(if params.temperature >= MIN_TEMPERATURE {
        let uniform = random::uniform(params.seed, spec.choice, spec.output_len, attempt);
        draw(isa, candidates, largest, params, uniform, kept, weights)
    } else {
        best
    })
}

/// How likely the token was by one row of raw logits.
///
/// # Errors
/// Logits that are not finite.
pub fn score(
    isa: Isa,
    logits: Row<'_>,
    score: Score,
    scratch: &mut Scratch,
) -> Result<PromptLogprobs, StepError> {
    check_finite(logits, score.seq)?;
    Ok(PromptLogprobs {
        rank: logits.rank(score.token),
        logprobs: logprobs(
            isa,
            logits,
            score.token,
            score.top,
            &mut scratch.drawing.kept,
        ),
    })
}

fn check_finite(logits: Row<'_>, seq: u64) -> Result<(), StepError> {
    match logits.first_not_finite() {
        None => Ok(()),
        Some(token) => Err(StepError::NonFiniteLogits { seq, token }),
    }
}

/// The row with bias, penalties and bans applied.
fn edit<'a>(
    logits: Row<'a>,
    spec: &SampleSpec,
    changes: &mut Changes,
    buffers: &'a mut Edited,
) -> Result<Row<'a>, StepError> {
    let params = &spec.params;
    let banned = spec.banned.as_deref().unwrap_or_default();
    let history = match &spec.history {
        _ if !params.needs_history() => &[][..],
        Some(history) if history.prompt_len <= history.tokens.len() => &history.tokens,
        _ => {
            return Err(StepError::InvalidPlan(format!(
                "sequence {}: penalties without history",
                spec.seq.0
            )));
        }
    };
    let biased = params.logit_bias.iter().map(|(token, _)| *token);
    let tokens = history.iter().chain(banned).copied().chain(biased);
    changes.begin(logits, tokens);
    if changes.logits.is_empty() {
        return Ok(logits);
    }

    for &(token, bias) in &params.logit_bias {
        changes.change(token, |logit| saturate(logit + bias));
    }
    if params.repetition_penalty != 1.0 {
        changes.change_distinct(history, |logit, _| {
            saturate(match logit > 0.0 {
                true => logit / params.repetition_penalty,
                false => logit * params.repetition_penalty,
            })
        });
    }
    let output = spec
        .history
        .as_ref()
        .map_or(0, |history| history.prompt_len);
    changes.change_distinct(history.get(output..).unwrap_or_default(), |logit, count| {
        let penalty = params.frequency_penalty * count as f32 + params.presence_penalty;
        saturate(logit - penalty)
    });
    for &token in banned {
        changes.change(token, |_| f32::NEG_INFINITY);
    }
    Ok(logits.with(&changes.logits, buffers))
}

/// New logits of the tokens that a request changes.
#[derive(Default)]
struct Changes {
    /// By token, ascending and distinct.
    logits: Vec<(u32, f32)>,
    /// A buffer of [`Changes::change_distinct`].
    sorted: Vec<u32>,
}

impl Changes {
    /// Starts with the logits that `tokens` have; those beyond the vocabulary are left out.
    fn begin(&mut self, logits: Row<'_>, tokens: impl Iterator<Item = u32>) {
        self.sorted.clear();
        self.sorted
            .extend(tokens.filter(|token| (*token as usize) < logits.len()));
        self.sorted.sort_unstable();
        self.sorted.dedup();
        self.logits.clear();
        let known = self.sorted.iter().map(|token| (*token, logits.at(*token)));
        self.logits.extend(known);
    }

    fn change(&mut self, token: u32, new: impl FnOnce(f32) -> f32) {
        if let Ok(index) = self
            .logits
            .binary_search_by_key(&token, |(token, _)| *token)
        {
            let (_, logit) = &mut self.logits[index];
            *logit = new(*logit);
        }
    }

    /// `new(logit, occurrences)` once per distinct token.
    fn change_distinct(&mut self, tokens: &[u32], new: impl Fn(f32, usize) -> f32) {
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        sorted.extend_from_slice(tokens);
        sorted.sort_unstable();
        for run in sorted.chunk_by(|a, b| a == b) {
            self.change(run[0], |logit| new(logit, run.len()));
        }
        self.sorted = sorted;
    }
}

/// Keeps edited logits finite: one request's extreme parameters must not fail the step for all others.
fn saturate(logit: f32) -> f32 {
    match logit.is_nan() {
        true => f32::MIN,
        false => logit.clamp(f32::MIN, f32::MAX),
    }
}

/// Draws a token by temperature and filters; `largest` is the largest logit, `uniform` in [0, 1).
fn draw(
    isa: Isa,
    logits: Row<'_>,
    largest: f32,
    params: &SamplingParams,
    uniform: f64,
    kept: &mut Vec<u32>,
    weights: &mut Vec<f64>,
) -> u32 {
    let scale = 1.0 / params.temperature;
    let weight = |token: u32| f64::from(((logits.at(token) - largest) * scale).exp());
    let top_k = match params.top_k as usize {
        k if k < logits.len() => k,
        _ => 0,
    };
    let filters_mass = params.top_p < 1.0;
    if top_k == 0 && !filters_mass && params.min_p <= 0.0 {
        return logits.draw(isa, largest, scale, uniform, weights);
    }

    if params.min_p > 0.0 {
        let floor = largest + params.temperature * params.min_p.min(1.0).ln();
        logits.collect(isa, floor, kept);
    } else if top_k > 0 {
        collect_top(isa, logits, largest, params.temperature, kept, |kept| {
            kept.len() >= top_k
        });
    } else {
        let wanted = f64::from(params.top_p) * logits.mass(isa, largest, scale);
        collect_top(isa, logits, largest, params.temperature, kept, |kept| {
            // Rounded sums of different order must not end the search too early.
            kept.iter().map(|token| weight(*token)).sum::<f64>() >= wanted * (1.0 + 1e-4)
        });
    }

    let by_logit = |a: &u32, b: &u32| by_logit(logits, *a, *b);
    if top_k > 0 && kept.len() > top_k {
        kept.select_nth_unstable_by(top_k - 1, by_logit);
        kept.truncate(top_k);
    }
    if top_k > 0 || filters_mass {
        kept.sort_unstable_by(by_logit);
    }
    weights.clear();
    weights.extend(kept.iter().map(|token| weight(*token)));
    if filters_mass {
        // Only without the other filters does the mass reach beyond `kept`.
        let whole: f64 = match top_k > 0 || params.min_p > 0.0 {
            true => weights.iter().sum(),
            false => logits.mass(isa, largest, scale),
        };
        let wanted = f64::from(params.top_p) * whole;
        let mut mass = 0.0;
        let reaches = weights.iter().position(|weight| {
            mass += weight;
            mass >= wanted
        });
        if let Some(last) = reaches {
            weights.truncate(last + 1);
        }
    }
    let total: f64 = weights.iter().sum();
    kept[pick(weights.iter().copied(), uniform * total)]
}

/// Larger logit first, then smaller id: the order of every ranking here.
fn by_logit(logits: Row<'_>, a: u32, b: u32) -> Ordering {
    logits.at(b).total_cmp(&logits.at(a)).then(a.cmp(&b))
}

/// Tokens close enough below the largest logit that `enough` says so, or all.
fn collect_top(
    isa: Isa,
    logits: Row<'_>,
    largest: f32,
    unit: f32,
    kept: &mut Vec<u32>,
    enough: impl Fn(&[u32]) -> bool,
) {
    for distance in DISTANCES {
        logits.collect(isa, largest - distance * unit, kept);
        if enough(kept) {
            return;
        }
    }
    logits.collect(isa, f32::MIN, kept);
}

/// Log-probabilities of the raw distribution.
fn logprobs(
    isa: Isa,
    logits: Row<'_>,
    token: u32,
    count: usize,
    kept: &mut Vec<u32>,
) -> TokenLogprobs {
    let largest = logits.max(isa);
    let log_sum = f64::from(largest) + logits.mass(isa, largest, 1.0).ln();
    let logprob = |token: u32| (f64::from(logits.at(token)) - log_sum) as f32;
    let count = count.min(logits.len());
    kept.clear();
    if count > 0 {
        collect_top(isa, logits, largest, 1.0, kept, |kept| kept.len() >= count);
        let by_logit = |a: &u32, b: &u32| by_logit(logits, *a, *b);
        if kept.len() > count {
            kept.select_nth_unstable_by(count - 1, by_logit);
            kept.truncate(count);
        }
        kept.sort_unstable_by(by_logit);
    }
    TokenLogprobs {
        logprob: logprob(token),
        top: kept.iter().map(|token| (*token, logprob(*token))).collect(),
    }
}

#[cfg(test)]
mod tests;
