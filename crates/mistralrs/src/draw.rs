//! Draws the tokens of one choice, in place of mistral.rs's sampler.
//!
//! mistral.rs 0.8.1 has no seed per request: one generator, seeded with 0, serves whatever runs (`engine/mod.rs`, `SEED`), so
//! a text depends on what else was asked. But it lets a request change its logits last of all before an argmax
//! (`CustomLogitsProcessor`), with all tokens so far. So the token is drawn here, from a stream that the seed, the choice
//! and the position name, and what goes back has one entry above zero.
//! That entry also says which draw it was: mistral.rs sends it on as the chunk's log-probability, and so each piece of text
//! comes with the exact number of tokens that were drawn for it.
//! Knows logits and token ids. Invariants: same seed and same logits, same token; [`Draw`] never returns an error, because
//! mistral.rs would let the others of the same step go without a token.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};
use gossamer_api::text_engine::SamplingParams;
use mistralrs_core::CustomLogitsProcessor;

/// Draws are told apart modulo this: as long as fewer are on their way at the same time, and few enough that an f32 says
/// them exactly, also behind a logarithm.
const CYCLE: usize = 4096;

/// The entry of the first draw of a cycle; its logarithm is above that of zero.
const FIRST: usize = 2;

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    /// Natural logarithms, of the model's own distribution.
    pub logprob: f32,
    /// The likeliest, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// What draws and whoever reads the text share.
#[derive(Debug, Default)]
pub(crate) struct Tap(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Draws that nobody has taken yet.
    drawn: Vec<Drawn>,
    /// How many were taken before them.
    taken: usize,
    /// Nobody reads any more.
    closed: bool,
}

impl Tap {
    /// Says that nobody wants more: the next token is an end.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// The draws up to and with the one that came with `mark`, mistral.rs's log-probability of a chunk.
    pub fn take(&self, mark: f32) -> Vec<Drawn> {
        let mut shared = self.lock();
        let taken = shared.taken;
        // The next draw with this mark that has not been taken.
        let entry = 10_f64.powf(f64::from(mark)).round() as usize;
        let in_cycle = (entry + CYCLE - FIRST) % CYCLE;
        let ahead = (in_cycle + CYCLE - taken % CYCLE) % CYCLE;
        let count = (ahead + 1).min(shared.drawn.len());
        shared.taken += count;
        shared.drawn.drain(..count).collect()
    }

    /// All draws that are left, and how many there were in all.
    pub fn rest(&self) -> (Vec<Drawn>, usize) {
        let mut shared = self.lock();
        shared.taken += shared.drawn.len();
        (std::mem::take(&mut shared.drawn), shared.taken)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        // Nothing in here is half done when a thread panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the file's header.
pub(crate) struct Draw {
    pub params: SamplingParams,
    pub choice: u32,
    /// The model's own ends; not drawn before so many tokens, and never with `ignore_eos`.
    pub ends: Arc<[u32]>,
    pub min_tokens: usize,
    pub ignore_eos: bool,
    /// Most tokens. mistral.rs goes on once where the first token was the last (`engine/mod.rs`: after a prompt, whatever ended
    /// in it runs again), so what comes behind them is an end.
    pub max_len: usize,
    pub tap: Arc<Tap>,
    /// Whether anybody wants more.
    pub wanted: Box<dyn Fn() -> bool + Send + Sync>,
    /// Kept for as long as mistral.rs knows the sequence: its place among those that run.
    pub _held: Box<dyn Send + Sync>,
    pub state: Mutex<Position>,
}

/// Where a sequence is.
#[derive(Debug, Default)]
pub(crate) struct Position {
    prompt_len: Option<usize>,
    /// Tokens before the one that was drawn last, and how often it was drawn: a grammar may refuse a token.
    last: Option<(usize, u64)>,
}

impl CustomLogitsProcessor for Draw {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> Result<Tensor> {
        let mut logits = logits.to_vec1::<f32>()?;
        let (position, again) = self.advance(context.len());
        let output = &context[context.len() - position..];
        let drawn = self.draw(&mut logits, context, output, again);
        let (len, token) = (logits.len(), drawn.token as usize);
        {
            let mut shared = self.tap.lock();
            if again > 0 {
                shared.drawn.pop();
            }
            shared.drawn.push(drawn);
        }
        let mut row = logits;
        row.fill(0.0);
        row[token] = (FIRST + position % CYCLE) as f32;
        Tensor::from_vec(row, len, &Device::Cpu)
    }
}

impl Draw {
    /// The position of the token that is drawn now, from 0, and how often it was drawn before.
    fn advance(&self, context_len: usize) -> (usize, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let prompt_len = *state.prompt_len.get_or_insert(context_len);
        let position = context_len.saturating_sub(prompt_len);
        let again = match state.last {
            Some((last, again)) if last == position => again + 1,
            _ => 0,
        };
        state.last = Some((position, again));
        (position, again)
    }

    fn draw(&self, logits: &mut [f32], context: &[u32], output: &[u32], again: u64) -> Drawn {
        for logit in logits.iter_mut() {
            if logit.is_nan() {
                *logit = f32::NEG_INFINITY;
            }
        }
        let scores = (self.params.logprobs).map(|_| log_softmax(logits));
        let over = output.len() >= self.max_len;
        let token = if over || !(self.wanted)() || self.tap.lock().closed {
            // mistral.rs has no way to end a sequence from outside; the model's end does it, in this step. Where a grammar does
            // not allow it yet something that it allows: an error there is one for the whole step.
            let allowed = |end: &&u32| {
                logits
                    .get(**end as usize)
                    .is_some_and(|logit| *logit > f32::NEG_INFINITY)
            };
            (self.ends.iter().find(allowed)).map_or_else(|| best(logits), |end| *end)
        } else {
            penalize(logits, &self.params, context, output);
            if self.ignore_eos || output.len() < self.min_tokens {
                for &end in &*self.ends {
                    if let Some(logit) = logits.get_mut(end as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            let uniform = uniform(self.params.seed, self.choice, output.len(), again);
            pick(logits, &self.params, uniform)
        };
        // A model whose vocabulary is larger than its logits has no such token to draw.
        let token = token.min(logits.len().saturating_sub(1) as u32);
        match (scores, self.params.logprobs) {
            (Some(scores), Some(count)) => Drawn {
                token,
                logprob: scores[token as usize],
                top: likeliest(&scores, usize::from(count)),
            },
            _ => Drawn {
                token,
                logprob: 0.0,
                top: Vec::new(),
            },
        }
    }
}

/// As `SamplingParams` says: repetition over prompt and output, presence and frequency over the output.
fn penalize(logits: &mut [f32], params: &SamplingParams, context: &[u32], output: &[u32]) {
    if !params.needs_history() {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &token in context {
        let Some(seen) = seen.get_mut(token as usize) else {
            continue;
        };
        if !std::mem::replace(seen, true) {
            let logit = &mut logits[token as usize];
            *logit = match *logit {
                positive @ 0.0.. => positive / params.repetition_penalty,
                negative => negative * params.repetition_penalty,
            };
        }
    }
    let mut counted = vec![0_u32; logits.len()];
    for &token in output {
        if let Some(count) = counted.get_mut(token as usize) {
            *count += 1;
        }
    }
    for (logit, count) in logits.iter_mut().zip(counted) {
        if count > 0 {
            *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
        }
    }
}

/// The token at which the running sum of probabilities exceeds `uniform`, among those that the filters leave: first
/// `min_p`, then `top_k`, then `top_p`, all on the distribution at the request's temperature. So does the local engine,
/// as vLLM does: which engine answers must not decide what a `top_p` is a part of.
fn pick(logits: &[f32], params: &SamplingParams, uniform: f64) -> u32 {
    let first = best(logits);
    let largest = logits.get(first as usize).copied();
    let Some(largest) = largest.filter(|largest| largest.is_finite()) else {
        // Nothing may be drawn, or one token is infinitely likely.
        return first;
    };
    if params.temperature <= 0.0 {
        return first;
    }
    let scale = 1.0 / params.temperature;
    let weight = |logit: f32| f64::from(((logit - largest) * scale).exp());
    let mut kept: Vec<(u32, f64)> = (0_u32..)
        .zip(logits)
        .map(|(token, &logit)| (token, weight(logit)))
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    if params.min_p > 0.0 {
        // The likeliest weighs 1.
        let least = f64::from(params.min_p);
        kept.retain(|(_, weight)| *weight >= least);
    }
    // Likelier first, then smaller ids: what is kept does not depend on how a sort treats equals.
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let top_k = params.top_k as usize;
    if (1..kept.len()).contains(&top_k) {
        kept.select_nth_unstable_by(top_k - 1, order);
        kept.truncate(top_k);
    }
    if params.top_p < 1.0 {
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let wanted = f64::from(params.top_p) * total;
        // All tokens below this together are less than what is left out, so none of them is kept.
        let floor = (total - wanted) / kept.len() as f64;
        kept.retain(|(_, weight)| *weight >= floor);
        kept.sort_unstable_by(order);
        let mut sum = 0.0;
        let enough = kept.iter().position(|(_, weight)| {
            sum += weight;
            sum >= wanted
        });
        kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    }
    kept.sort_unstable_by_key(|(token, _)| *token);
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let target = uniform * total;
    let mut sum = 0.0;
    let drawn = kept.iter().find(|(_, weight)| {
        sum += weight;
        sum > target
    });
    // Rounding may keep the sum below the target: the last one then.
    drawn.or(kept.last()).map_or(first, |(token, _)| *token)
}

/// The largest logit, the smallest id among equals.
fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = (logits.iter())
        .map(|logit| f64::from(logit - largest).exp())
        .sum();
    let log = largest + mass.ln() as f32;
    logits.iter().map(|logit| logit - log).collect()
}

fn likeliest(scores: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0_u32..).zip(scores.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if (1..all.len()).contains(&count) {
        all.select_nth_unstable_by(count - 1, order);
    }
    all.truncate(count);
    all.sort_unstable_by(order);
    all
}

/// The number in [0, 1) that this draw is made with: a counter through a mixer, not a generator with a state.
fn uniform(seed: u64, choice: u32, position: usize, again: u64) -> f64 {
    let counter = [u64::from(choice), position as u64, again];
    let bits = counter
        .iter()
        .fold(mix(seed), |bits, part| mix(bits ^ mix(*part)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
