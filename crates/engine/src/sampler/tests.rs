//! The sampler against the definitions: exact expectations where there are any, frequencies elsewhere (fixed seeds).

use std::sync::Arc;

use gossamer_scheduler::{History, SeqId};

use super::*;

mod constraints;

fn spec(change: impl FnOnce(&mut SamplingParams)) -> SampleSpec {
    let mut params = SamplingParams::greedy();
    params.temperature = 1.0;
    change(&mut params);
    SampleSpec {
        seq: SeqId(3),
        choice: 0,
        output_len: 0,
        params: Arc::new(params),
        banned: None,
        history: None,
        constraint: None,
    }
}

fn sampled(logits: Row<'_>, spec: &SampleSpec) -> Result<SampledToken, StepError> {
    sample(Isa::detect(), logits, spec, &mut Scratch::default())
}

fn token(logits: &[f32], spec: &SampleSpec) -> u32 {
    sampled(Row::whole(logits), spec).unwrap().token
}

/// How often each token is drawn in `draws` positions of one stream.
fn frequencies(logits: Row<'_>, mut spec: SampleSpec, draws: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    let mut scratch = Scratch::default();
    for output_len in 0..draws {
        spec.output_len = output_len;
        let drawn = sample(Isa::detect(), logits, &spec, &mut scratch).unwrap();
        counts[drawn.token as usize] += 1;
    }
    counts
}

/// Probabilities by definition: softmax, then the filters one after the other on a full sort.
fn expected(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: &f32| (f64::from(*x - top) / f64::from(params.temperature)).exp();
    let mut p: Vec<f64> = logits.iter().map(weight).collect();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
    for token in &order {
        if p[*token] < f64::from(params.min_p) {
            p[*token] = 0.0;
        }
    }
    if params.top_k > 0 {
        order
            .iter()
            .skip(params.top_k as usize)
            .for_each(|token| p[*token] = 0.0);
    }
    let total: f64 = p.iter().sum();
    let mut mass = 0.0;
    for token in &order {
        let reached = mass >= f64::from(params.top_p) * total;
        mass += p[*token];
        if reached && params.top_p < 1.0 {
            p[*token] = 0.0;
        }
    }
    let total: f64 = p.iter().sum();
    p.iter().map(|p| p / total).collect()
}

/// Chi-square of `counts` against `p`; a token of probability 0 must not occur.
fn chi_square(counts: &[usize], p: &[f64]) -> (f64, usize) {
    let draws: usize = counts.iter().sum();
    let mut sum = 0.0;
    let mut cells = 0;
    for (count, p) in counts.iter().zip(p) {
        if *p == 0.0 {
            assert_eq!(*count, 0, "a filtered token was drawn");
        } else {
            let mean = p * draws as f64;
            sum += (*count as f64 - mean).powi(2) / mean;
            cells += 1;
        }
    }
    (sum, cells - 1)
}

const LOGITS: [f32; 12] = [
    0.3, 2.0, -1.0, 1.5, 0.0, 2.5, -0.5, 1.0, 0.7, -2.0, 1.9, 0.1,
];

/// Temperatures and filters that the tests of frequencies go through.
const CHANGES: [fn(&mut SamplingParams); 9] = [
    |_| (),
    |p| p.temperature = 0.5,
    |p| p.temperature = 3.0,
    |p| p.top_k = 4,
    |p| p.top_p = 0.7,
    |p| p.min_p = 0.2,
    |p| (p.top_k, p.top_p) = (6, 0.8),
    |p| (p.min_p, p.top_p) = (0.1, 0.9),
    |p| (p.min_p, p.top_k, p.top_p, p.temperature) = (0.05, 7, 0.95, 1.3),
];

/// Draws from `row` under every one of [`CHANGES`] and compares with the definition on `logits`, the row written out.
fn frequencies_follow_the_definition(row: Row<'_>, logits: &[f32]) {
    for (index, change) in CHANGES.into_iter().enumerate() {
        let spec = spec(|params| {
            change(params);
            params.seed = 100 + index as u64;
        });
        let p = expected(logits, &spec.params);
        let (sum, freedom) = chi_square(&frequencies(row, spec, 20_000), &p);
        // Wilson-Hilferty: exceeded about once in ten thousand seeds.
        let k = freedom.max(1) as f64;
        let limit = k * (1.0 - 2.0 / (9.0 * k) + 3.72 * (2.0 / (9.0 * k)).sqrt()).powi(3);
        assert!(
            sum < limit,
            "case {index}: {sum} over {limit} ({freedom} degrees of freedom)"
        );
    }
}

#[test]
fn frequencies_follow_the_filtered_softmax() {
    frequencies_follow_the_definition(Row::whole(&LOGITS), &LOGITS);
}

#[test]
fn a_row_of_runs_is_drawn_from_like_the_row_written_out() {
    let counts = [2, 1, 5, 3, 1, 1, 4, 2, 1, 7, 2, 1];
    let runs = Runs::new(&counts);
    let row = Row::of_runs(&LOGITS, &runs);
    let mut logits = Vec::new();
    row.write_out(&mut logits);
    let by_hand: Vec<f32> = LOGITS
        .iter()
        .zip(counts)
        .flat_map(|(logit, count)| vec![*logit; count as usize])
        .collect();
    assert_eq!((&logits, row.len()), (&by_hand, by_hand.len()));
    frequencies_follow_the_definition(row, &logits);

    // Ties, edits, bans and log-probabilities too are those of the row written out.
    let edits: [fn(&mut SamplingParams); 4] = [
        |_| (),
        |p| p.logit_bias = vec![(3, 9.0), (14, -50.0)],
        |p| p.presence_penalty = 1.5,
        |p| p.repetition_penalty = 1.7,
    ];
    for change in edits {
        for (banned, history) in [(vec![], vec![]), (vec![11, 12], vec![2, 11, 28, 28])] {
            let mut spec = spec(|p| {
                (p.temperature, p.logprobs) = (0.0, Some(30));
                change(p);
            });
            spec.banned = Some(banned.into());
            spec.history = Some(History {
                tokens: history,
                prompt_len: 0,
            });
            let (of_runs, whole) = (sampled(row, &spec), sampled(Row::whole(&logits), &spec));
            let (of_runs, whole) = (of_runs.unwrap(), whole.unwrap());
            assert_eq!(of_runs.token, whole.token);
            let tokens_and_logprobs = |drawn: SampledToken| drawn.logprobs.unwrap().top;
            let (of_runs, whole) = (tokens_and_logprobs(of_runs), tokens_and_logprobs(whole));
            assert_eq!(of_runs.len(), 30);
            for (a, b) in of_runs.iter().zip(&whole) {
                assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-5, "{a:?} or {b:?}");
            }
        }
    }
    let mut odd = LOGITS;
    odd[2] = f32::NAN;
    assert_eq!(
        sampled(Row::of_runs(&odd, &runs), &spec(|_| ())),
        Err(StepError::NonFiniteLogits { seq: 3, token: 3 })
    );
}

#[test]
fn a_long_run_is_drawn_from_evenly() {
    // More than one block of values, one run of most tokens in the middle, and draws over all of it.
    let counts: Vec<u32> = (0..5000)
        .map(|run| if run == 3000 { 90_000 } else { 1 })
        .collect();
    let runs = Runs::new(&counts);
    let values = vec![1.5; counts.len()];
    let drawn = frequencies(Row::of_runs(&values, &runs), spec(|_| ()), 9_500);
    let tenths: Vec<usize> = drawn
        .chunks(9_500)
        .map(|tenth| tenth.iter().sum())
        .collect();
    let (sum, freedom) = chi_square(&tenths, &[0.1; 10]);
    assert!(freedom == 9 && sum < 33.7, "{sum}: {tenths:?}"); // exceeded about once in ten thousand seeds
}

#[test]
fn a_large_vocabulary_is_drawn_from_evenly() {
    // Across the blocks of the running sum, and beyond the first distances of the filters.
    let logits = vec![-3.0; 10_000];
    for (change, draws) in [
        ((|_| ()) as fn(&mut SamplingParams), 20_000),
        (|p| p.top_p = 0.999_99, 1_000),
    ] {
        let counts = frequencies(Row::whole(&logits), spec(change), draws);
        let tenths: Vec<usize> = counts
            .chunks(1000)
            .map(|tenth| tenth.iter().sum())
            .collect();
        let (sum, _) = chi_square(&tenths, &[0.1; 10]);
        assert!(sum < 33.7, "{sum}, {tenths:?}");
    }
}

#[test]
fn filters_keep_the_same_set_as_a_full_sort_on_wide_logits() {
    let mut state = 1u64;
    let logits: Vec<f32> = (0..5000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32 * 60.0 - 30.0
        })
        .collect();
    for (top_k, top_p, min_p, temperature) in [
        (1, 1.0, 0.0, 1.0),
        (40, 1.0, 0.0, 1.0),
        (0, 0.9, 0.0, 1.0),
        (0, 0.999, 0.0, 8.0),
        (300, 0.5, 0.0, 5.0),
        (0, 1.0, 0.01, 2.0),
        (4000, 1.0, 0.0, 2.0),
    ] {
        let spec = spec(|p| {
            (p.top_k, p.top_p, p.min_p, p.temperature) = (top_k, top_p, min_p, temperature)
        });
        let allowed = expected(&logits, &spec.params);
        let counts = frequencies(Row::whole(&logits), spec, 2000);
        for (count, p) in counts.iter().zip(&allowed) {
            assert!(*count == 0 || *p > 0.0);
        }
    }
}

#[test]
fn greedy_takes_the_largest_and_the_smallest_id_among_equals() {
    let greedy = spec(|p| p.temperature = 0.0);
    assert_eq!(token(&[1.0, 3.0, 3.0, 2.0], &greedy), 1);
    for almost in [1e-30, f32::NAN, -1.0] {
        assert_eq!(
            token(&[1.0, 3.0, 3.0, 2.0], &spec(|p| p.temperature = almost)),
            1
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_choices_differ() {
    let stream = |seed, choice| -> Vec<u32> {
        let mut spec = spec(|p| p.seed = seed);
        spec.choice = choice;
        let draw = |output_len| {
            token(
                &LOGITS,
                &SampleSpec {
                    output_len,
                    ..spec.clone()
                },
            )
        };
        (0..50).map(draw).collect()
    };
    assert_eq!(stream(5, 0), stream(5, 0));
    assert_ne!(stream(5, 0), stream(5, 1));
    assert_ne!(stream(5, 0), stream(6, 0));
}

#[test]
fn bias_bans_and_penalties_change_the_greedy_token() {
    let greedy = |change: fn(&mut SampleSpec, &mut SamplingParams)| {
        let mut spec = spec(|p| p.temperature = 0.0);
        let mut params = SamplingParams::clone(&spec.params);
        change(&mut spec, &mut params);
        spec.params = Arc::new(params);
        token(&[1.0, 2.0, -1.0, 1.9], &spec)
    };
    assert_eq!(greedy(|_, _| ()), 1);
    assert_eq!(greedy(|_, p| p.logit_bias = vec![(2, 3.5), (99, 100.0)]), 2);
    assert_eq!(greedy(|s, _| s.banned = Some([1, 99].into())), 3);
    // Repetition reaches into the prompt, presence and frequency do not.
    assert_eq!(
        greedy(|s, p| {
            p.repetition_penalty = 1.2;
            s.history = Some(History {
                tokens: vec![1],
                prompt_len: 1,
            });
        }),
        3
    );
    assert_eq!(
        greedy(|s, p| {
            p.presence_penalty = 5.0;
            s.history = Some(History {
                tokens: vec![1, 3, 0],
                prompt_len: 2,
            });
        }),
        1
    );
    // 2.0 - 3 * 0.1 against 1.9 - 0.1, then against 1.9 unpenalized.
    assert_eq!(
        greedy(|s, p| {
            p.frequency_penalty = 0.1;
            s.history = Some(History {
                tokens: vec![1, 3, 1, 1],
                prompt_len: 0,
            });
        }),
        3
    );
    assert_eq!(
        greedy(|s, p| {
            p.repetition_penalty = 2.0;
            s.history = Some(History {
                tokens: vec![0, 1, 3],
                prompt_len: 1,
            });
        }),
        1,
        "all three halved, the negative one untouched"
    );
}

#[test]
fn a_negative_logit_is_penalized_downwards() {
    let mut spec = spec(|p| (p.temperature, p.repetition_penalty) = (0.0, 2.0));
    spec.history = Some(History {
        tokens: vec![0],
        prompt_len: 1,
    });
    assert_eq!(token(&[-1.0, -1.5], &spec), 1);
}

#[test]
fn logprobs_are_those_of_the_raw_distribution() {
    let mut spec = spec(|p| {
        p.temperature = 0.0;
        p.logprobs = Some(3);
        p.logit_bias = vec![(2, 50.0)];
    });
    let drawn = sampled(Row::whole(&LOGITS), &spec).unwrap();
    assert_eq!(drawn.token, 2);
    let sum: f64 = LOGITS.iter().map(|x| f64::from(*x).exp()).sum();
    let close = |found: f32, token: usize| {
        (f64::from(found) - (f64::from(LOGITS[token]) - sum.ln())).abs() < 1e-5
    };
    let logprobs = drawn.logprobs.unwrap();
    assert!(close(logprobs.logprob, 2));
    let tokens: Vec<u32> = logprobs.top.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens, [5, 1, 10]);
    assert!(
        logprobs
            .top
            .iter()
            .all(|(token, found)| close(*found, *token as usize))
    );

    spec.params = Arc::new(SamplingParams {
        logprobs: Some(0),
        ..SamplingParams::clone(&spec.params)
    });
    let drawn = sampled(Row::whole(&LOGITS), &spec).unwrap();
    assert!(drawn.logprobs.unwrap().top.is_empty());
    spec.params = Arc::new(SamplingParams {
        logprobs: Some(255),
        ..SamplingParams::clone(&spec.params)
    });
    let drawn = sampled(Row::whole(&LOGITS), &spec).unwrap();
    assert_eq!(drawn.logprobs.unwrap().top.len(), LOGITS.len());
}

#[test]
fn a_token_is_scored_by_its_logit_and_its_place_in_the_row() {
    let runs = Runs::new(&[1, 3, 2, 1]);
    let values = [0.5, -1.0, 2.0, -1.0];
    let whole = [0.5, -1.0, -1.0, -1.0, 2.0, 2.0, -1.0];
    let sum: f64 = whole.iter().map(|x| f64::from(*x).exp()).sum();
    for (token, rank) in [(4, 1), (5, 2), (0, 3), (1, 4), (2, 5), (3, 6), (6, 7)] {
        for row in [Row::whole(&whole), Row::of_runs(&values, &runs)] {
            let asked = Score {
                seq: 3,
                token,
                top: 2,
            };
            let found = score(Isa::detect(), row, asked, &mut Scratch::default()).unwrap();
            assert_eq!(found.rank, rank);
            let expected = f64::from(whole[token as usize]) - sum.ln();
            assert!((f64::from(found.logprobs.logprob) - expected).abs() < 1e-5);
            let top: Vec<u32> = found.logprobs.top.iter().map(|(token, _)| *token).collect();
            assert_eq!(top, [4, 5]);
        }
    }
    let asked = Score {
        seq: 3,
        token: 0,
        top: 0,
    };
    let odd = [0.0, f32::NAN];
    let found = score(
        Isa::detect(),
        Row::whole(&odd),
        asked,
        &mut Scratch::default(),
    );
    assert_eq!(
        found.unwrap_err(),
        StepError::NonFiniteLogits { seq: 3, token: 1 }
    );
}

#[test]
fn what_cannot_be_sampled_is_an_error_that_names_the_sequence() {
    let error = |logits: &[f32], spec: &SampleSpec| sampled(Row::whole(logits), spec).unwrap_err();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let found = error(&[0.0, 1.0, odd], &spec(|_| ()));
        assert_eq!(found, StepError::NonFiniteLogits { seq: 3, token: 2 });
    }
    let mut all = spec(|_| ());
    all.banned = Some([0, 1].into());
    assert_eq!(
        error(&[0.0, 1.0], &all),
        StepError::NothingToSample { seq: 3 }
    );
    let penalized = spec(|p| p.presence_penalty = 1.0);
    assert!(matches!(
        error(&[0.0, 1.0], &penalized),
        StepError::InvalidPlan(_)
    ));
}

#[test]
fn banned_tokens_are_never_drawn_at_temperature_1() {
    let mut spec = spec(|_| ());
    spec.banned = Some([5, 1].into());
    let counts = frequencies(Row::whole(&LOGITS), spec, 5000);
    assert_eq!((counts[5], counts[1]), (0, 0));
    assert!(counts[10] > 0);
}

#[test]
fn extreme_parameters_saturate_instead_of_failing_the_step() {
    let greedy = |change: fn(&mut SamplingParams)| {
        let mut spec = spec(|p| {
            p.temperature = 0.0;
            change(p);
        });
        spec.history = Some(History {
            tokens: vec![0, 1, 1],
            prompt_len: 0,
        });
        token(&[0.0, 1.0, -1.0], &spec)
    };
    assert_eq!(greedy(|p| p.logit_bias = vec![(2, f32::INFINITY)]), 2);
    assert_eq!(
        greedy(|p| p.logit_bias = vec![(1, f32::NEG_INFINITY), (0, f32::NAN)]),
        2
    );
    assert_eq!(greedy(|p| p.repetition_penalty = 0.0), 1);
    assert_eq!(greedy(|p| p.frequency_penalty = f32::MAX), 2);
    let hot =
        spec(|p| (p.temperature, p.top_p, p.logit_bias) = (f32::MAX, 0.5, vec![(0, f32::MAX)]));
    assert_eq!(token(&[0.0, 1.0], &hot), 0);
}
