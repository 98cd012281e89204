//! Drawing a token under a constraint.
//!
//! # Refuse and draw again
//! A mask over 201088 tokens costs more than a draw, and the model nearly always draws an allowed token by itself. So one is
//! drawn from the distribution as it is, and only if the constraint refuses it, it is taken out and another one is drawn;
//! after [`ATTEMPTS`] of them, from the tokens that are allowed and no others.
//!
//! This is exact. Let A be what is allowed, p the distribution, and R what was refused so far, none of it in A. A draw from
//! p without R is x with p(x) / (1 - p(R)); that it is in A and is x, given that it is in A, has the probability
//! p(x) / p(A), whatever R is. So each attempt, if it succeeds, has the distribution p(x) / p(A) on A, and so has the last
//! one, which is drawn from it directly. Greedy: what is taken out is larger than what is left, so the first that is
//! allowed is the largest allowed one.
//! A constraint that refuses nothing therefore changes nothing: same seed, same text.
//!
//! With top-k, top-p or min-p this does not hold (they would keep what is refused, and leave out what would take its
//! place), so then the mask comes first, and the filters see what it left: what vLLM does.
//!
//! Bans of stop tokens (`min_tokens`) yield where they and the constraint leave nothing. Where the constraint alone leaves
//! nothing the sequence ends.

use gossamer_kernels::Isa;
use gossamer_scheduler::{
    Allowed, Bearing, ConstraintState, Part, SampleSpec, SamplingParams, TokenConstraint,
};

use super::{Drawing, MIN_TEMPERATURE, Row, choose};
use crate::error::StepError;

/// Draws that are made before the mask is: each costs one of the row, the mask some of them.
const ATTEMPTS: u32 = 4;

/// The token, and how the constraint bore on it. `logits` is the raw row, `candidates` the edited one.
pub fn sample(
    isa: Isa,
    logits: Row<'_>,
    candidates: Row<'_>,
    spec: &SampleSpec,
    state: &ConstraintState,
    drawing: &mut Drawing,
) -> Result<(u32, Option<(Part, Bearing)>), StepError> {
    let nothing = || StepError::NothingToSample { seq: spec.seq.0 };
    let drawn = state.ask(|constraint| {
        let part = constraint.part();
        if part == Part::Free {
            let Drawing { kept, weights, .. } = drawing;
            let token = choose(isa, candidates, spec, 0, kept, weights).ok_or_else(nothing)?;
            return Ok(Some((token, None)));
        }
        let mut attempts = 0;
        if !filters(&spec.params) {
            let (token, refused) = by_refusal(isa, candidates, spec, constraint, drawing);
            if let Some(token) = token {
                let bearing = if refused == 0 {
                    Bearing::Kept
                } else {
                    Bearing::Masked
                };
                return Ok(Some((token, Some((part, bearing)))));
            }
            attempts = refused;
        }
        let token = by_mask(isa, candidates, spec, attempts, constraint, drawing)
            .or_else(|| by_mask(isa, logits, spec, attempts, constraint, drawing));
        Ok(token.map(|token| (token, Some((part, Bearing::Masked)))))
    });
    match drawn {
        Some(Ok(Some(token))) => Ok(token),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => Ok((0, Some((Part::Body, Bearing::DeadEnd)))),
    }
}

/// Whether some tokens are left out for being unlikely beside others.
pub fn filters(params: &SamplingParams) -> bool {
    params.temperature >= MIN_TEMPERATURE
        && (params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0)
}

/// An allowed token, if one comes up soon, and how many were refused before.
fn by_refusal(
    isa: Isa,
    candidates: Row<'_>,
    spec: &SampleSpec,
    constraint: &mut dyn TokenConstraint,
    drawing: &mut Drawing,
) -> (Option<u32>, u32) {
    let Drawing {
        masked,
        kept,
        weights,
    } = drawing;
    let mut refused: Vec<u32> = Vec::new();
    for attempt in 0..ATTEMPTS {
        let row = match refused.is_empty() {
            true => candidates,
            false => candidates.without(&refused, masked),
        };
        let Some(token) = choose(isa, row, spec, attempt, kept, weights) else {
            return (None, attempt);
        };
        if constraint.allows(token) {
            return (Some(token), attempt);
        }
        // A header has few ways to go on, and its list is at hand.
        if constraint.part() == Part::Header {
            return (None, attempt + 1);
        }
        let at = refused.partition_point(|other| *other < token);
        refused.insert(at, token);
    }
    (None, ATTEMPTS)
}

/// A token out of those that are allowed; `None` if none of them has a finite logit.
fn by_mask(
    isa: Isa,
    candidates: Row<'_>,
    spec: &SampleSpec,
    attempt: u32,
    constraint: &mut dyn TokenConstraint,
    drawing: &mut Drawing,
) -> Option<u32> {
    let Drawing {
        masked,
        kept,
        weights,
    } = drawing;
    let row = match constraint.allowed() {
        Allowed::Everything => candidates,
        Allowed::AllBut(tokens) => candidates.without(tokens, masked),
        Allowed::Only(tokens) => candidates.only(tokens, masked),
        Allowed::Mask(mask) => candidates.masked(mask, masked),
    };
    choose(isa, row, spec, attempt, kept, weights)
}
