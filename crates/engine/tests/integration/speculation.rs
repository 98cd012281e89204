//! Drafts change when tokens come and never which: the embedded model's answers, greedy and sampled, with everything that
//! depends on the tokens before, are the same with speculation on and off.

use std::sync::Arc;

use gossamer_engine::{Engine, EngineConfig, ModelSource, WeightFormat};
use gossamer_scheduler::{
    Allowed, ConstraintSource, ExecuteError, Executor, Handover, NewRequest, Part, SamplingParams,
    Speculation, StopConditions, TokenConstraint, TokenId,
};

use crate::driver::{Row, plan};
use crate::folder::config;
use crate::parity::{fixtures, tokens};
use crate::scheduled::{greedy, run};

/// What the model ends a message and a turn with.
const END: TokenId = 200_007;
const RETURN: TokenId = 200_002;

/// Refuses every third token that it is asked about where the output has an odd length, so that most draws of a repeated
/// text stand and some do not.
#[derive(Clone, Debug, Default)]
struct Picky {
    len: usize,
    sum: u32,
}

impl ConstraintSource for Picky {
    fn start(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

impl TokenConstraint for Picky {
    fn part(&self) -> Part {
        Part::Body
    }
    fn allows(&mut self, token: TokenId) -> bool {
        self.len % 5 != 4 || !(token ^ self.sum).is_multiple_of(3)
    }
    fn allowed(&mut self) -> Allowed<'_> {
        Allowed::Everything
    }
    fn advance(&mut self, token: TokenId) {
        self.len += 1;
        self.sum = self.sum.wrapping_add(token);
    }
}

/// Conversations that are had a second time: the model says again what stands in its prompt.
fn echoes(max_tokens: usize) -> Vec<NewRequest> {
    let cases = fixtures().into_iter();
    let cases = cases.map(|case| (tokens(&case["prompt"]), tokens(&case["greedy"])));
    let short = cases.filter(|(prompt, _)| prompt.len() <= 130);
    let repeated =
        short.map(|(prompt, said)| greedy(&[&prompt[..], &said, &prompt].concat(), max_tokens));
    repeated.collect()
}

fn with(request: NewRequest, change: impl FnOnce(&mut SamplingParams)) -> NewRequest {
    let mut sampling = (*request.sampling).clone();
    change(&mut sampling);
    NewRequest {
        sampling: Arc::new(sampling),
        ..request
    }
}

/// Each conversation in another way.
fn requests() -> Vec<NewRequest> {
    let ways: [fn(NewRequest) -> NewRequest; 8] = [
        |request| with(request, |params| params.logprobs = Some(3)),
        |request| {
            with(request, |params| {
                (params.temperature, params.seed) = (0.7, 3)
            })
        },
        |request| NewRequest {
            n: 3,
            ..with(request, |params| {
                (params.temperature, params.top_p, params.seed) = (1.0, 0.9, 4);
            })
        },
        |request| {
            with(request, |params| {
                (params.frequency_penalty, params.repetition_penalty) = (0.05, 1.02);
                params.logprobs = Some(0);
            })
        },
        |request| NewRequest {
            stop: StopConditions {
                stop_token_ids: Arc::new([END, RETURN]),
                min_tokens: 7,
                ..request.stop.clone()
            },
            ..request
        },
        |request| NewRequest {
            constraint: Some(Arc::new(Picky::default())),
            ..with(request, |params| params.logprobs = Some(1))
        },
        |request| NewRequest {
            constraint: Some(Arc::new(Picky::default())),
            ..with(request, |params| {
                (params.temperature, params.top_k, params.seed) = (0.6, 5, 9);
            })
        },
        |request| NewRequest {
            handover: Some(Arc::new(Handover {
                opens: vec![request.prompt[request.prompt.len() - 1]],
                closes: vec![END],
                max_tokens: 5,
                tokens: vec![END, RETURN],
            })),
            ..request
        },
    ];
    let echoes = echoes(70);
    let requests = (echoes.iter().cycle().zip(ways.iter().cycle()))
        .take(3 * ways.len())
        .map(|(request, way)| way(request.clone()));
    requests.collect()
}

#[test]
fn every_answer_is_the_same_with_and_without_drafts() {
    // The second wave finds the first in the prefix cache.
    let waves = [requests(), echoes(24)];
    let mut without = None;
    for (num_blocks, is_scarce) in [(3000, false), (40, true)] {
        let settings = EngineConfig {
            window_groups: !is_scarce,
            weights: WeightFormat::Int8,
            ..config(2, num_blocks)
        };
        let mut engine = Engine::load(&ModelSource::Tiny, &settings).unwrap();
        let off = without.get_or_insert_with(|| run(&mut engine, &waves, false, Speculation::Off));
        let on = run(&mut engine, &waves, true, Speculation::Auto);
        println!(
            "{num_blocks} blocks: {:?}, {} steps instead of {}, {} preemptions",
            on.drafts, on.steps, off.steps, on.preemptions
        );
        assert_eq!(off.drafts.drafted, 0);
        assert!(on.drafts.accepted > 300 && on.drafts.accepted < on.drafts.drafted);
        assert_eq!(on.preemptions > 0, is_scarce);
        for (id, answer) in &off.answers {
            assert_eq!(on.answers[id], *answer, "request and choice {id:?}");
        }
        assert_eq!(on.answers.len(), off.answers.len());
    }
}

#[test]
fn a_request_may_go_without() {
    let settings = config(2, 3000);
    let mut engine = Engine::load(&ModelSource::Tiny, &settings).unwrap();
    let without = |mut request: NewRequest| {
        request.speculation = Speculation::Off;
        request
    };
    let wave = echoes(20).into_iter().map(without).collect();
    let outcome = run(&mut engine, &[wave], false, Speculation::Auto);
    assert_eq!(outcome.drafts.drafted, 0);
}

#[test]
fn drafts_that_belong_to_no_decode_are_refused() {
    let mut engine = Engine::load(&ModelSource::Tiny, &config(1, 8)).unwrap();
    let row = Row::new(&[1, 2, 3], 0..1);
    for num_drafts in [1, 3] {
        let mut plan = plan(&[(&row, 3)]);
        plan.slices[0].num_drafts = num_drafts;
        let error = engine.execute(&plan).unwrap_err();
        assert!(
            matches!(&error, ExecuteError::Step(text) if text.starts_with("invalid plan")),
            "{error}"
        );
    }
}
