//! Constraints over a small vocabulary, against the distribution that they must give.

use gossamer_scheduler::{
    Allowed, Bearing, ConstraintSource, ConstraintState, Part, TokenConstraint,
};

use super::*;

/// Allows the same tokens for ever, and says so in one of the forms that there are.
#[derive(Clone, Debug)]
struct Always {
    part: Part,
    form: u8,
    tokens: Vec<u32>,
    others: Vec<u32>,
    words: Vec<u32>,
}

impl Always {
    fn new(part: Part, form: u8, tokens: &[u32], vocab_size: u32) -> Self {
        let mut words = vec![0; vocab_size.div_ceil(32) as usize];
        for token in tokens {
            words[*token as usize / 32] |= 1 << (token % 32);
        }
        Self {
            part,
            form,
            tokens: tokens.to_vec(),
            others: (0..vocab_size).filter(|t| !tokens.contains(t)).collect(),
            words,
        }
    }
}

impl ConstraintSource for Always {
    fn start(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

impl TokenConstraint for Always {
    fn part(&self) -> Part {
        self.part
    }
    fn allows(&mut self, token: u32) -> bool {
        self.tokens.contains(&token)
    }
    fn allowed(&mut self) -> Allowed<'_> {
        match self.form {
            0 => Allowed::Only(&self.tokens),
            1 => Allowed::AllBut(&self.others),
            _ => Allowed::Mask(&self.words),
        }
    }
    fn advance(&mut self, _: u32) {}
}

fn held(rule: &Always, change: impl FnOnce(&mut SamplingParams)) -> SampleSpec {
    SampleSpec {
        constraint: Some(Arc::new(ConstraintState::new(Arc::new(rule.clone())))),
        ..spec(change)
    }
}

const LOGITS: [f32; 12] = [3.0, 1.0, 0.5, -1.0, 2.5, 2.0, 0.0, 0.0, 0.0, 1.5, -2.0, 0.3];

type Change = fn(&mut SamplingParams);

#[test]
fn draws_have_the_masked_distribution_with_and_without_filters() {
    // The likeliest tokens are not allowed, so nearly every draw is refused, some of them many times.
    let allowed = [1, 3, 6, 8, 9, 10];
    let masked: Vec<f32> = (LOGITS.iter().enumerate())
        .map(|(token, logit)| match allowed.contains(&(token as u32)) {
            true => *logit,
            false => f32::NEG_INFINITY,
        })
        .collect();
    let changes: [Change; 5] = [
        |_| {},
        |params| params.temperature = 0.6,
        |params| params.top_k = 3,
        |params| params.top_p = 0.7,
        |params| (params.min_p, params.top_p) = (0.1, 0.95),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        for (part, form) in [(Part::Header, 0), (Part::Text, 1), (Part::Body, 2)] {
            let rule = Always::new(part, form, &allowed, LOGITS.len() as u32);
            let spec = held(&rule, |params| {
                change(params);
                params.seed = 5;
            });
            let expected = expected(&masked, &spec.params);
            let draws = 20_000;
            let counts = frequencies(Row::whole(&LOGITS), spec, draws);
            for (token, count) in counts.iter().enumerate() {
                let p = expected[token];
                let deviation = (*count as f64 - p * draws as f64).abs();
                let tolerance = 4.5 * (p * (1.0 - p) * draws as f64).sqrt();
                assert!(
                    deviation <= tolerance,
                    "case {index}, form {form}: token {token} came {count} times, expected {:.0}",
                    p * draws as f64
                );
            }
        }
    }
}

#[test]
fn greedy_takes_the_largest_allowed_logit() {
    for allowed in [&[9, 1][..], &[7, 8], &[10], &[0, 4]] {
        let mut sorted = allowed.to_vec();
        sorted.sort_unstable();
        let best = *sorted
            .iter()
            .rev()
            .max_by(|a, b| LOGITS[**a as usize].total_cmp(&LOGITS[**b as usize]))
            .unwrap();
        for form in 0..3 {
            let rule = Always::new(Part::Body, form, &sorted, LOGITS.len() as u32);
            let spec = held(&rule, |params| params.temperature = 0.0);
            assert_eq!(token(&LOGITS, &spec), best);
        }
    }
}

#[test]
fn a_constraint_that_refuses_nothing_changes_nothing() {
    let all: Vec<u32> = (0..LOGITS.len() as u32).collect();
    for form in 0..3 {
        for output_len in 0..200 {
            let rule = Always::new(Part::Body, form, &all, LOGITS.len() as u32);
            let mut held = held(&rule, |params| params.seed = 9);
            held.output_len = output_len;
            let drawn = sampled(Row::whole(&LOGITS), &held).unwrap();
            assert_eq!(drawn.constrained, Some((Part::Body, Bearing::Kept)));
            let free = SampleSpec {
                constraint: None,
                ..held
            };
            assert_eq!(drawn.token, token(&LOGITS, &free));
        }
    }
}

#[test]
fn bans_yield_to_a_constraint_and_a_constraint_to_nothing() {
    let rule = Always::new(Part::Body, 2, &[4], LOGITS.len() as u32);
    let mut spec = held(&rule, |_| {});
    spec.banned = Some(Arc::from([4]));
    assert_eq!(token(&LOGITS, &spec), 4);

    for form in [0, 2] {
        let rule = Always::new(Part::Body, form, &[], LOGITS.len() as u32);
        let spec = held(&rule, |_| {});
        for _ in 0..2 {
            let drawn = sampled(Row::whole(&LOGITS), &spec).unwrap();
            assert_eq!(drawn.constrained, Some((Part::Body, Bearing::DeadEnd)));
        }
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let rule = Always::new(Part::Body, 2, &[3], LOGITS.len() as u32);
    let spec = held(&rule, |params| params.logprobs = Some(1));
    let drawn = sampled(Row::whole(&LOGITS), &spec).unwrap();
    let logprobs = drawn.logprobs.unwrap();
    let sum: f32 = LOGITS.iter().map(|logit| logit.exp()).sum();
    assert!((logprobs.logprob - (LOGITS[3] - sum.ln())).abs() < 1e-4);
    assert_eq!(logprobs.top[0].0, 0);
}
