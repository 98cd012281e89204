//! From logits to a token: bias, bans, penalties, temperature, filters, the draw, log-probabilities.
//!
//! Knows one row at a time, never the batch; with [`random`] a pure function of the row and the [`SampleSpec`].
//! Invariant: what is drawn has a finite logit after every edit.
//!
//! Order: bias, repetition, frequency and presence penalty, bans; then greedy, or temperature, min-p, top-k, top-p
//! (each over what the one before left, as vLLM does). Log-probabilities are the model's own, before all of that.
//!
//! The vocabulary has 201088 tokens, so nothing sorts it. Filters look at the tokens within some distance below the
//! largest logit and widen that distance until what they search for must be inside.

mod random;

use std::cmp::Ordering;

use gossamer_kernels::{Isa, argmax, collect_at_least, max, sum_exp};
use gossamer_scheduler::{SampleSpec, SampledToken, SamplingParams, TokenLogprobs};

use crate::error::StepError;

/// Below this a temperature counts as 0: the quotient would leave the range of f32.
const MIN_TEMPERATURE: f32 = 1e-5;

/// How far below the largest logit to look for candidates, in units of the temperature; then everywhere.
const DISTANCES: [f32; 3] = [8.0, 16.0, 32.0];

/// Sign bit of an f32.
const SIGN: u32 = 1 << 31;

/// Logits summed at a time when drawing from the whole vocabulary.
const SUM_BLOCK: usize = 2048;

/// Buffers of one sampling thread, reused from row to row.
#[derive(Default)]
pub struct Scratch {
    edited: Vec<f32>,
    kept: Vec<u32>,
    weights: Vec<f64>,
    tokens: Vec<u32>,
}

/// Draws the token that `spec` asks for from one row of raw logits, `[vocab_size]`.
///
/// # Errors
/// Logits that are not finite, or nothing left to draw.
pub fn sample(
    isa: Isa,
    logits: &[f32],
    spec: &SampleSpec,
    scratch: &mut Scratch,
) -> Result<SampledToken, StepError> {
    check_finite(logits, spec)?;
    let params = &spec.params;
    let edited = edit(logits, spec, scratch)?;
    let Scratch {
        edited: buffer,
        kept,
        weights,
        ..
    } = scratch;
    let candidates: &[f32] = if edited { buffer } else { logits };

    let best = argmax(isa, candidates);
    if candidates[best] == f32::NEG_INFINITY {
        return Err(StepError::NothingToSample { seq: spec.seq.0 });
    }
    // A temperature that is not a number is greedy too.
    let token = if params.temperature >= MIN_TEMPERATURE {
        let uniform = random::uniform(params.seed, spec.choice, spec.output_len);
        let largest = candidates[best];
        draw(isa, candidates, largest, params, uniform, kept, weights)
    } else {
        best as u32
    };
    let logprobs = params
        .logprobs
        .map(|count| Box::new(logprobs(isa, logits, token, usize::from(count), kept)));
    Ok(SampledToken { token, logprobs })
}

fn check_finite(logits: &[f32], spec: &SampleSpec) -> Result<(), StepError> {
    // The largest magnitude as an integer: unlike a chain of comparisons of floats, this runs on vector registers.
    let magnitude = |logit: &f32| (logit.to_bits() & !SIGN) as i32;
    let finite = |chunk: &[f32]| {
        chunk.iter().map(magnitude).fold(0, i32::max) < f32::INFINITY.to_bits() as i32
    };
    if logits.chunks(SUM_BLOCK).all(finite) {
        return Ok(());
    }
    let token = logits
        .iter()
        .position(|logit| !logit.is_finite())
        .unwrap_or(0);
    Err(StepError::NonFiniteLogits {
        seq: spec.seq.0,
        token: token as u32,
    })
}

/// Writes the row with bias, penalties and bans applied to `scratch.edited`; false if there are none.
fn edit(logits: &[f32], spec: &SampleSpec, scratch: &mut Scratch) -> Result<bool, StepError> {
    let params = &spec.params;
    let banned = spec.banned.as_deref().unwrap_or_default();
    if params.logit_bias.is_empty() && banned.is_empty() && !params.needs_history() {
        return Ok(false);
    }
    let edited = &mut scratch.edited;
    edited.clear();
    edited.extend_from_slice(logits);
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = edited.get_mut(token as usize) {
            *logit = saturate(*logit + bias);
        }
    }
    if params.needs_history() {
        let history = spec
            .history
            .as_ref()
            .filter(|history| history.prompt_len <= history.tokens.len())
            .ok_or_else(|| {
                StepError::InvalidPlan(format!(
                    "sequence {}: penalties without history",
                    spec.seq.0
                ))
            })?;
        if params.repetition_penalty != 1.0 {
            for_each_distinct(&history.tokens, &mut scratch.tokens, |token, _| {
                if let Some(logit) = edited.get_mut(token as usize) {
                    *logit = saturate(match *logit > 0.0 {
                        true => *logit / params.repetition_penalty,
                        false => *logit * params.repetition_penalty,
                    });
                }
            });
        }
        let output = &history.tokens[history.prompt_len..];
        for_each_distinct(output, &mut scratch.tokens, |token, count| {
            if let Some(logit) = edited.get_mut(token as usize) {
                let penalty = params.frequency_penalty * count as f32 + params.presence_penalty;
                *logit = saturate(*logit - penalty);
            }
        });
    }
    for &token in banned {
        if let Some(logit) = edited.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    Ok(true)
}

/// Keeps edited logits finite: one request's extreme parameters must not fail the step for all others.
fn saturate(logit: f32) -> f32 {
    match logit.is_nan() {
        true => f32::MIN,
        false => logit.clamp(f32::MIN, f32::MAX),
    }
}

/// Calls `each(token, occurrences)` once per distinct token.
fn for_each_distinct(tokens: &[u32], sorted: &mut Vec<u32>, mut each: impl FnMut(u32, usize)) {
    sorted.clear();
    sorted.extend_from_slice(tokens);
    sorted.sort_unstable();
    for run in sorted.chunk_by(|a, b| a == b) {
        each(run[0], run.len());
    }
}

/// Draws a token by temperature and filters; `largest` is the largest logit, `uniform` in [0, 1).
fn draw(
    isa: Isa,
    logits: &[f32],
    largest: f32,
    params: &SamplingParams,
    uniform: f64,
    kept: &mut Vec<u32>,
    weights: &mut Vec<f64>,
) -> u32 {
    let scale = 1.0 / params.temperature;
    let weight = |token: u32| f64::from(((logits[token as usize] - largest) * scale).exp());
    let top_k = match params.top_k as usize {
        k if k < logits.len() => k,
        _ => 0,
    };
    let filters_mass = params.top_p < 1.0;
    if top_k == 0 && !filters_mass && params.min_p <= 0.0 {
        return draw_from_all(isa, logits, largest, scale, uniform, weights);
    }

    if params.min_p > 0.0 {
        let floor = largest + params.temperature * params.min_p.min(1.0).ln();
        collect(isa, logits, floor, kept);
    } else if top_k > 0 {
        collect_top(isa, logits, largest, params.temperature, kept, |kept| {
            kept.len() >= top_k
        });
    } else {
        let all: f64 = block_sums(isa, logits, largest, scale).sum();
        let wanted = f64::from(params.top_p) * all;
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
            false => block_sums(isa, logits, largest, scale).sum(),
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
fn by_logit(logits: &[f32], a: u32, b: u32) -> Ordering {
    logits[b as usize]
        .total_cmp(&logits[a as usize])
        .then(a.cmp(&b))
}

/// Tokens with a logit of at least `floor`, by id, and never a banned one.
fn collect(isa: Isa, logits: &[f32], floor: f32, kept: &mut Vec<u32>) {
    kept.clear();
    collect_at_least(isa, logits, floor.max(f32::MIN), kept);
}

/// Tokens close enough below the largest logit that `enough` says so, or all.
fn collect_top(
    isa: Isa,
    logits: &[f32],
    largest: f32,
    unit: f32,
    kept: &mut Vec<u32>,
    enough: impl Fn(&[u32]) -> bool,
) {
    for distance in DISTANCES {
        collect(isa, logits, largest - distance * unit, kept);
        if enough(kept) {
            return;
        }
    }
    collect(isa, logits, f32::MIN, kept);
}

fn block_sums(isa: Isa, logits: &[f32], largest: f32, scale: f32) -> impl Iterator<Item = f64> {
    logits
        .chunks(SUM_BLOCK)
        .map(move |block| f64::from(sum_exp(isa, block, largest, scale)))
}

fn draw_from_all(
    isa: Isa,
    logits: &[f32],
    largest: f32,
    scale: f32,
    uniform: f64,
    sums: &mut Vec<f64>,
) -> u32 {
    sums.clear();
    sums.extend(block_sums(isa, logits, largest, scale));
    let target = uniform * sums.iter().sum::<f64>();
    let block = pick(sums.iter().copied(), target);
    let before: f64 = sums[..block].iter().sum();
    let start = block * SUM_BLOCK;
    let within = logits[start..]
        .iter()
        .take(SUM_BLOCK)
        .map(|logit| f64::from(((logit - largest) * scale).exp()));
    (start + pick(within, target - before)) as u32
}

/// The first index at which the running sum of `weights` exceeds `target`; where rounding keeps it below, the last
/// index with a weight.
fn pick(weights: impl Iterator<Item = f64>, target: f64) -> usize {
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

/// Log-probabilities of the raw distribution.
fn logprobs(
    isa: Isa,
    logits: &[f32],
    token: u32,
    count: usize,
    kept: &mut Vec<u32>,
) -> TokenLogprobs {
    let largest = max(isa, logits);
    let sum: f64 = block_sums(isa, logits, largest, 1.0).sum();
    let log_sum = f64::from(largest) + sum.ln();
    let logprob = |token: u32| (f64::from(logits[token as usize]) - log_sum) as f32;
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
