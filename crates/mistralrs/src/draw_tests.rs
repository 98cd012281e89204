//! What is drawn, and what mistral.rs gets to see of it.

use super::*;

const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, 0.0];

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams {
        temperature: 1.0,
        ..SamplingParams::greedy()
    };
    change(&mut params);
    params
}

fn drawer(params: SamplingParams) -> Draw {
    Draw {
        params,
        choice: 0,
        ends: Arc::new([3]),
        min_tokens: 0,
        ignore_eos: false,
        max_len: usize::MAX,
        tap: Arc::default(),
        wanted: Box::new(|| true),
        _held: Box::new(()),
        state: Mutex::default(),
    }
}

/// Feeds the same logits at every position; returns the tokens.
fn run(draw: &Draw, logits: &[f32], steps: usize) -> Vec<u32> {
    let row = Tensor::new(logits, &Device::Cpu).unwrap();
    let mut context = vec![0, 1];
    for _ in 0..steps {
        let out = draw
            .apply(&row, &context)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let above: Vec<usize> = (0..out.len()).filter(|&i| out[i] > 0.0).collect();
        assert_eq!(above.len(), 1);
        context.push(above[0] as u32);
    }
    context.split_off(2)
}

#[test]
fn the_same_seed_draws_the_same_and_another_another() {
    let seeded = |seed, choice| {
        let mut draw = drawer(params(|params| params.seed = seed));
        draw.choice = choice;
        run(&draw, &LOGITS, 64)
    };
    assert_eq!(seeded(7, 0), seeded(7, 0));
    assert_ne!(seeded(7, 0), seeded(8, 0));
    assert_ne!(seeded(7, 0), seeded(7, 1));
}

#[test]
fn tokens_come_as_often_as_they_are_likely() {
    let drawn = run(&drawer(params(|_| ())), &LOGITS, 20_000);
    let scores = log_softmax(&LOGITS);
    for (token, score) in (0_u32..).zip(&scores) {
        let share = drawn.iter().filter(|&&other| other == token).count() as f32 / 20_000.0;
        // Four standard deviations of the rarest-to-judge share.
        assert!((share - score.exp()).abs() < 0.015, "{token}: {share}");
    }
}

#[test]
fn filters_leave_what_they_should() {
    let kept = |params: SamplingParams| {
        let mut drawn = run(&drawer(params), &LOGITS, 2000);
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    };
    assert_eq!(kept(params(|_| ())), [0, 1, 2, 3]);
    assert_eq!(kept(SamplingParams::greedy()), [1]);
    assert_eq!(kept(params(|params| params.top_k = 2)), [1, 2]);
    // 0.644 + 0.237 = 0.881 of the mass.
    assert_eq!(kept(params(|params| params.top_p = 0.6)), [1]);
    assert_eq!(kept(params(|params| params.top_p = 0.85)), [1, 2]);
    assert_eq!(kept(params(|params| params.top_p = 0.9)), [0, 1, 2]);
    assert_eq!(kept(params(|params| params.top_p = 0.0)), [1]);
    // exp(-1) = 0.37, exp(-2) = 0.14.
    assert_eq!(kept(params(|params| params.min_p = 0.3)), [1, 2]);
    // Of what that leaves, 0.644 is more than 0.7 of the mass; of all tokens it is less.
    let first = |params: &mut SamplingParams| (params.min_p, params.top_p) = (0.3, 0.7);
    assert_eq!(kept(params(first)), [1]);
    assert_eq!(kept(params(|params| params.temperature = 0.01)), [1]);
}

#[test]
fn penalties_make_what_was_said_less_likely() {
    let greedy = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::greedy();
        change(&mut params);
        run(&drawer(params), &LOGITS, 3)
    };
    assert_eq!(greedy(|_| ()), [1, 1, 1]);
    assert_eq!(greedy(|params| params.presence_penalty = 1.5), [1, 2, 1]);
    assert_eq!(greedy(|params| params.frequency_penalty = 0.6), [1, 1, 2]);
    // The prompt is 0, 1: repetition concerns it too.
    assert_eq!(greedy(|params| params.repetition_penalty = 2.0), [2, 1, 1]);
}

#[test]
fn ends_wait_for_their_time_and_come_when_nobody_listens() {
    let likely_end = [0.0, 0.0, 0.0, 9.0];
    let mut draw = drawer(SamplingParams::greedy());
    draw.min_tokens = 2;
    assert_eq!(run(&draw, &likely_end, 4), [0, 0, 3, 3]);
    let mut draw = drawer(SamplingParams::greedy());
    draw.ignore_eos = true;
    assert_eq!(run(&draw, &likely_end, 3), [0, 0, 0]);

    let mut draw = drawer(SamplingParams::greedy());
    draw.max_len = 2;
    assert_eq!(run(&draw, &LOGITS, 4), [1, 1, 3, 3]);

    let draw = drawer(SamplingParams::greedy());
    draw.tap.close();
    let masked = [0.0, 1.0, 2.0, f32::NEG_INFINITY];
    assert_eq!(
        run(&draw, &masked, 1),
        [2],
        "what a grammar forbids is not drawn"
    );

    let draw = drawer(SamplingParams::greedy());
    draw.tap.close();
    assert_eq!(run(&draw, &LOGITS, 1), [3]);
    let mut draw = drawer(SamplingParams::greedy());
    draw.ignore_eos = true;
    draw.wanted = Box::new(|| false);
    assert_eq!(run(&draw, &LOGITS, 1), [3]);
}

#[test]
fn broken_logits_are_drawn_from_all_the_same() {
    let nan = [f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY];
    assert_eq!(run(&drawer(params(|_| ())), &nan, 3), [1, 1, 1]);
    let nothing = [f32::NEG_INFINITY; 4];
    assert_eq!(run(&drawer(params(|_| ())), &nothing, 1), [0]);
    let infinite = [0.0, f32::INFINITY, 0.0, 0.0];
    assert_eq!(run(&drawer(params(|_| ())), &infinite, 1), [1]);
}

#[test]
fn marks_say_how_many_tokens_a_piece_of_text_took() {
    let draw = drawer(params(|params| params.logprobs = Some(2)));
    let row = Tensor::new(&LOGITS, &Device::Cpu).unwrap();
    let mut context = vec![0, 1];
    let mut marks = Vec::new();
    for _ in 0..3 * CYCLE {
        let out = draw
            .apply(&row, &context)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let token = best(&out);
        // As mistral.rs computes it (`sampler.rs`, `sample_argmax`).
        marks.push(out[token as usize].log(10.0));
        context.push(token);
    }
    let tokens = &context[2..];
    // Texts of one token, of two, of three, and so on, read long after they were drawn or at once.
    let (mut from, mut size) = (0, 1);
    while from + size <= tokens.len() {
        let taken = draw.tap.take(marks[from + size - 1]);
        let expected = &tokens[from..from + size];
        assert!(
            taken
                .iter()
                .map(|drawn| drawn.token)
                .eq(expected.iter().copied())
        );
        from += size;
        size = size % 60 + 1;
    }
    assert!(draw.tap.take(marks[from]).len() == 1);
}

#[test]
fn a_draw_that_a_grammar_refused_is_replaced() {
    let draw = drawer(params(|params| params.logprobs = Some(1)));
    let row = |logits: [f32; 4]| Tensor::new(&logits, &Device::Cpu).unwrap();
    draw.apply(&row(LOGITS), &[0, 1]).unwrap();
    let masked = [f32::NEG_INFINITY, f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY];
    let out = draw.apply(&row(masked), &[0, 1]).unwrap();
    let mark = out.to_vec1::<f32>().unwrap()[2].log(10.0);
    let taken = draw.tap.take(mark);
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].token, taken[0].logprob), (2, 0.0));
    assert_eq!(taken[0].top, [(2, 0.0)]);
}

#[test]
fn numbers_are_spread_and_their_own() {
    let numbers: Vec<f64> = (0..1000).map(|i| uniform(1, 0, i, 0)).collect();
    assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
    let mean = numbers.iter().sum::<f64>() / 1000.0;
    assert!((mean - 0.5).abs() < 0.03, "{mean}");
    assert_ne!(uniform(1, 0, 1, 0), uniform(1, 1, 0, 0));
    assert_ne!(uniform(1, 0, 0, 0), uniform(1, 0, 0, 1));
}
