//! A row of logits known by its blocks: enough to draw from it with a look at a few of them.
//!
//! A row of GPT-OSS is 201088 numbers, and a draw decides by a handful. So the device adds the row up in blocks of
//! [`BLOCK`] tokens (the largest logit of each, and its mass), the host says from those which blocks matter, and only
//! they are copied. What is drawn is what the sampler draws from the whole row: the blocks that were not copied become runs
//! of equal logits with the same mass, a form that the sampler knows ([`Row::of_runs`]), and which of them could hold
//! the token, or any token that outranks it, was settled before.
//! Knows the parameters of a draw, not the device. Invariant: what [`Coarse::sample`] returns is what the whole row would
//! give, sums but for rounding; where it cannot know that, it returns `None` and the whole row decides.

use gossamer_kernels::Isa;
use gossamer_scheduler::{Bearing, Part, SampleSpec, SampledToken};

use crate::error::StepError;
use crate::sampler::{self, MIN_TEMPERATURE, Row, Runs, Scratch};

/// Tokens of a block. GPT-OSS's vocabulary has 1571 of them, none left over.
pub const BLOCK: usize = 128;

/// How far below the largest logit the candidates of a nucleus are looked for, in units of the temperature: as the
/// sampler itself begins.
const NUCLEUS_DISTANCE: f32 = 8.0;

/// A row whose blocks would nearly all be copied is copied at once.
const MOST_BLOCKS: usize = 400;

/// Whether a draw can be made from blocks at all: nothing edits the row, and nobody asks for other tokens' probabilities.
pub fn applies(spec: &SampleSpec) -> bool {
    let params = &spec.params;
    let banned = spec
        .banned
        .as_ref()
        .is_some_and(|banned| !banned.is_empty());
    let edited = banned || !params.logit_bias.is_empty() || params.needs_history();
    // A constraint goes before filters, over the whole row.
    let masked = spec.constraint.is_some() && sampler::constrained::filters(params);
    !edited && !masked && params.logprobs.is_none()
}

/// What a logit is multiplied by before it is added up, for [`Coarse::masses`].
pub fn scale(spec: &SampleSpec) -> f32 {
    match is_greedy(spec) {
        true => 1.0,
        false => 1.0 / spec.params.temperature,
    }
}

fn is_greedy(spec: &SampleSpec) -> bool {
    // A temperature that is not a number is greedy too.
    spec.params.temperature.is_nan() || spec.params.temperature < MIN_TEMPERATURE
}

/// A row by its blocks.
#[derive(Clone, Copy)]
pub struct Coarse<'a> {
    /// Largest logit of each block.
    pub maxima: &'a [f32],
    /// `exp((logit - largest) * scale)` summed over each block, `largest` being that of the row.
    pub masses: &'a [f32],
    /// [`scale`] of the draw.
    pub scale: f32,
    /// Tokens; the last block may have fewer than the others.
    pub len: usize,
}

impl Coarse<'_> {
    fn largest(&self) -> f32 {
        self.maxima
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max)
    }

    fn is_finite(&self) -> bool {
        let mut numbers = self.maxima.iter().chain(self.masses);
        numbers.all(|number| number.is_finite())
    }

    /// As the sampler reads it: 0 where it leaves all tokens.
    fn top_k(&self, spec: &SampleSpec) -> usize {
        match spec.params.top_k as usize {
            k if k < self.len => k,
            _ => 0,
        }
    }

    /// Blocks, ascending, with the logits that decide; `None` for the whole row.
    pub fn needed(&self, isa: Isa, spec: &SampleSpec, scratch: &mut Scratch) -> Option<Vec<u32>> {
        if !self.is_finite() {
            // Which logit it is must be said.
            return None;
        }
        let (params, largest) = (&spec.params, self.largest());
        let top_k = self.top_k(spec);
        let floor = if is_greedy(spec) {
            let best = self.maxima.iter().position(|max| *max == largest)?;
            return Some(vec![best as u32]);
        } else if params.min_p > 0.0 {
            // As the sampler computes it.
            largest + params.temperature * params.min_p.min(1.0).ln()
        } else if top_k > self.maxima.len() {
            return None;
        } else if top_k > 0 {
            // As many blocks as tokens are wanted hold a token each that is at least this large.
            let mut maxima = self.maxima.to_vec();
            let (_, kth, _) = maxima.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
            *kth
        } else if params.top_p < 1.0 {
            largest - NUCLEUS_DISTANCE * params.temperature
        } else {
            let (values, runs) = self.runs(&[], &[]);
            let alone = SampleSpec {
                constraint: None,
                ..spec.clone()
            };
            let row = Row::of_runs(&values, &runs);
            let token = sampler::sample(isa, row, &alone, scratch).ok()?.token;
            return Some(vec![token / BLOCK as u32]);
        };
        let blocks = self.maxima.iter().enumerate();
        let above = blocks.filter(|(_, max)| **max >= floor);
        let needed: Vec<u32> = above.map(|(block, _)| block as u32).collect();
        (needed.len() <= MOST_BLOCKS.min(self.maxima.len() / 2 + 1)).then_some(needed)
    }

    /// Draws, with the logits of the blocks that [`Coarse::needed`] named: `[blocks, BLOCK]`, row by row. `None` where only
    /// the whole row can say.
    ///
    /// # Errors
    /// Those of the sampler.
    pub fn sample(
        &self,
        isa: Isa,
        blocks: &[u32],
        logits: &[f32],
        spec: &SampleSpec,
        scratch: &mut Scratch,
    ) -> Result<Option<SampledToken>, StepError> {
        let params = &spec.params;
        let only_mass =
            !is_greedy(spec) && self.top_k(spec) == 0 && params.min_p <= 0.0 && params.top_p < 1.0;
        if only_mass && !self.holds_nucleus(logits, params.top_p) {
            return Ok(None);
        }
        let (values, runs) = self.runs(blocks, logits);
        let alone = SampleSpec {
            constraint: None,
            ..spec.clone()
        };
        let drawn = sampler::sample(isa, Row::of_runs(&values, &runs), &alone, scratch)?;
        if blocks.binary_search(&(drawn.token / BLOCK as u32)).is_err() {
            return Ok(None);
        }
        let Some(state) = &spec.constraint else {
            return Ok(Some(drawn));
        };
        // The first of the draws that the sampler makes under a constraint; what follows one that is refused needs the
        // whole row.
        let kept = state.ask(|constraint| match constraint.part() {
            Part::Free => Some(None),
            part if constraint.allows(drawn.token) => Some(Some((part, Bearing::Kept))),
            _ => None,
        });
        Ok(kept.flatten().map(|constrained| SampledToken {
            constrained,
            ..drawn
        }))
    }

    /// Whether the tokens near the largest one are a `top_p` of all, with room for rounding.
    fn holds_nucleus(&self, logits: &[f32], top_p: f32) -> bool {
        let largest = self.largest();
        let floor = largest - NUCLEUS_DISTANCE / self.scale;
        let near = logits.iter().filter(|logit| **logit >= floor);
        let weight = |logit: &f32| f64::from(((logit - largest) * self.scale).exp());
        let whole: f64 = self.masses.iter().copied().map(f64::from).sum();
        near.map(weight).sum::<f64>() >= f64::from(top_p) * whole * (1.0 + 1e-3)
    }

    /// The row: these blocks token by token, each of the others one run with its mass.
    fn runs(&self, blocks: &[u32], logits: &[f32]) -> (Vec<f32>, Runs) {
        let largest = self.largest();
        let (mut values, mut counts) = (Vec::new(), Vec::new());
        let mut fine = blocks.iter().zip(logits.chunks_exact(BLOCK)).peekable();
        for (block, (max, mass)) in self.maxima.iter().zip(self.masses).enumerate() {
            let count = BLOCK.min(self.len - block * BLOCK);
            if let Some((_, logits)) = fine.next_if(|(id, _)| **id as usize == block) {
                values.extend_from_slice(&logits[..count]);
                counts.extend(std::iter::repeat_n(1, count));
            } else {
                let mean = largest + (mass / count as f32).ln() / self.scale;
                // A mass that vanished, and rounding, are no reason to be above the largest or infinite.
                values.push(mean.clamp(f32::MIN, *max));
                counts.push(count as u32);
            }
        }
        (values, Runs::new(&counts))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gossamer_scheduler::{
        Allowed, ConstraintSource, ConstraintState, SamplingParams, SeqId, TokenConstraint,
    };
    use proptest::prelude::*;

    use super::*;

    fn spec(params: SamplingParams) -> SampleSpec {
        SampleSpec {
            seq: SeqId(1),
            choice: 2,
            output_len: 3,
            params: Arc::new(params),
            banned: None,
            history: None,
            constraint: None,
        }
    }

    /// Maxima and masses as a device computes them.
    fn sums(row: &[f32], scale: f32) -> (Vec<f32>, Vec<f32>) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let max = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mass = |block: &[f32]| block.iter().map(|x| ((x - largest) * scale).exp()).sum();
        (
            row.chunks(BLOCK).map(max).collect(),
            row.chunks(BLOCK).map(mass).collect(),
        )
    }

    /// What the blocks say, and how many of them were looked at.
    fn by_blocks(row: &[f32], spec: &SampleSpec) -> (Option<SampledToken>, usize) {
        let isa = Isa::detect();
        let mut scratch = Scratch::default();
        let scale = scale(spec);
        let (maxima, masses) = sums(row, scale);
        let coarse = Coarse {
            maxima: &maxima,
            masses: &masses,
            scale,
            len: row.len(),
        };
        let Some(needed) = coarse.needed(isa, spec, &mut scratch) else {
            return (None, 0);
        };
        let mut logits = Vec::new();
        for block in &needed {
            let first = *block as usize * BLOCK;
            let own = &row[first..row.len().min(first + BLOCK)];
            logits.extend_from_slice(own);
            logits.resize(logits.len().next_multiple_of(BLOCK), f32::MIN);
        }
        let drawn = coarse.sample(isa, &needed, &logits, spec, &mut scratch);
        (drawn.unwrap(), needed.len())
    }

    fn by_row(row: &[f32], spec: &SampleSpec) -> SampledToken {
        let mut scratch = Scratch::default();
        sampler::sample(Isa::detect(), Row::whole(row), spec, &mut scratch).unwrap()
    }

    /// Logits with few large ones, as a model's are; rounded, so that there are ties.
    fn row(len: usize, seed: u64, spread: f32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let logit = |u: f32| (-(u.max(1e-7)).ln() * spread * 4.0).round() / 4.0;
        (0..len).map(|_| logit(random()) - 5.0).collect()
    }

    proptest! {
        #[test]
        fn blocks_draw_what_the_row_draws(
            len in 1usize..6000,
            seed: u64,
            spread in 0.5f32..3.0,
            temperature in prop_oneof![Just(0.0f32), Just(1.0), 0.2f32..1.5],
            top_k in prop_oneof![4 => Just(0u32), 2 => 1u32..60, 1 => Just(u32::MAX)],
            top_p in prop_oneof![Just(1.0f32), 0.1f32..1.0],
            min_p in prop_oneof![2 => Just(0.0f32), 1 => 0.01f32..0.5],
        ) {
            let row = row(len, seed, spread);
            let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..SamplingParams::greedy() };
            let spec = spec(params);
            prop_assert!(applies(&spec));
            // Sums in another order may decide a draw otherwise: once in a million.
            if let (Some(drawn), _) = by_blocks(&row, &spec) {
                prop_assert_eq!(drawn, by_row(&row, &spec));
            }
        }
    }

    #[test]
    fn most_draws_need_few_blocks() {
        let whole = SamplingParams {
            temperature: 1.0,
            ..SamplingParams::greedy()
        };
        let kinds = [
            SamplingParams::greedy(),
            whole.clone(),
            SamplingParams {
                top_k: 40,
                ..whole.clone()
            },
            SamplingParams {
                top_p: 0.9,
                ..whole.clone()
            },
            SamplingParams {
                min_p: 0.05,
                ..whole
            },
        ];
        for params in kinds {
            let mut most = 0;
            for seed in 1..40 {
                let row = row(201_088, seed, 1.7);
                let params = SamplingParams {
                    seed,
                    ..params.clone()
                };
                let (drawn, blocks) = by_blocks(&row, &spec(params.clone()));
                assert_eq!(drawn.as_ref(), Some(&by_row(&row, &spec(params.clone()))));
                most = most.max(blocks);
            }
            println!("{params:?}: at most {most} blocks");
            assert!(most <= 60, "{params:?}: {most} blocks");
        }
    }

    #[test]
    fn a_top_k_that_leaves_all_tokens_is_none() {
        // One token is likelier than any other, and not than all others together.
        let mut row = vec![0.0; 201_088];
        row[7] = 10.0;
        for top_k in [0, 201_088, u32::MAX] {
            let params = SamplingParams {
                temperature: 1.0,
                top_k,
                top_p: 0.5,
                ..SamplingParams::greedy()
            };
            let (drawn, blocks) = by_blocks(&row, &spec(params));
            assert_eq!((drawn, blocks), (None, 1), "top_k {top_k}");
        }
    }

    #[test]
    fn edits_and_numbers_that_are_none_go_to_the_whole_row() {
        let plain = SamplingParams {
            temperature: 1.0,
            ..SamplingParams::greedy()
        };
        for params in [
            SamplingParams {
                logit_bias: vec![(3, 1.0)],
                ..plain.clone()
            },
            SamplingParams {
                presence_penalty: 0.5,
                ..plain.clone()
            },
            SamplingParams {
                logprobs: Some(0),
                ..plain.clone()
            },
        ] {
            assert!(!applies(&spec(params)));
        }
        let banned = SampleSpec {
            banned: Some(Arc::new([1])),
            ..spec(plain.clone())
        };
        assert!(!applies(&banned));
        for odd in [f32::NAN, f32::INFINITY] {
            let mut row = row(1000, 1, 1.0);
            row[700] = odd;
            assert_eq!(by_blocks(&row, &spec(plain.clone())), (None, 0));
        }
    }

    /// Refuses one token.
    #[derive(Debug)]
    struct AllBut([u32; 1]);

    impl ConstraintSource for AllBut {
        fn start(&self) -> Box<dyn TokenConstraint> {
            Box::new(Self(self.0))
        }
    }

    impl TokenConstraint for AllBut {
        fn part(&self) -> Part {
            Part::Text
        }
        fn allows(&mut self, token: u32) -> bool {
            token != self.0[0]
        }
        fn allowed(&mut self) -> Allowed<'_> {
            Allowed::AllBut(&self.0)
        }
        fn advance(&mut self, _: u32) {}
    }

    #[test]
    fn a_constraint_keeps_what_it_allows_and_sends_the_rest_to_the_whole_row() {
        let row = row(3000, 5, 1.0);
        let params = SamplingParams {
            temperature: 1.0,
            seed: 9,
            ..SamplingParams::greedy()
        };
        let drawn = by_row(&row, &spec(params.clone())).token;
        let with = |refused: u32, params: &SamplingParams| SampleSpec {
            constraint: Some(Arc::new(ConstraintState::new(Arc::new(AllBut([refused]))))),
            ..spec(params.clone())
        };
        let kept = with(drawn + 1, &params);
        assert_eq!(by_blocks(&row, &kept).0, Some(by_row(&row, &kept)));
        assert_eq!(
            by_row(&row, &kept).constrained,
            Some((Part::Text, Bearing::Kept))
        );
        assert_eq!(by_blocks(&row, &with(drawn, &params)).0, None);
        // A filter comes after the mask.
        assert!(!applies(&with(
            drawn + 1,
            &SamplingParams { top_k: 5, ..params }
        )));
    }
}
