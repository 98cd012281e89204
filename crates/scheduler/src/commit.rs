//! What a step leaves behind: computed lengths, cached blocks, forks, tokens, ends.
//!
//! Knows nothing of how a step is chosen (`planning.rs`).
//! Invariant: after `commit` or `fail_step` nothing is in flight and nothing is doomed.

use crate::executor::{SampledToken, StepOutput};
use crate::request::{FinishReason, PromptLogprobs, RequestError, SeqId, TokenEvent};
use crate::scheduler::{InFlight, InFlightSlice, Scheduler};
use crate::sequence::{Doom, Phase, Rank};

/// The executor answered a plan with the wrong number of results; the step counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the executor gave {given} {what} where {planned} were planned")]
pub struct OutputMismatch {
    /// Of what there is the wrong number.
    pub what: &'static str,
    /// How many were asked for.
    pub planned: usize,
    /// How many came.
    pub given: usize,
}

/// How many of the samples belong to each slice. More than there are if some are missing.
fn num_drawn(slices: &[InFlightSlice], samples: &[SampledToken]) -> Vec<usize> {
    let mut rest = samples;
    let of_slice = |slice: &InFlightSlice| {
        let accepted = (slice.drafts.iter().zip(rest))
            .take_while(|(draft, drawn)| drawn.token == **draft && !drawn.is_dead_end());
        let count = slice.samples.len() + accepted.count();
        rest = rest.get(count..).unwrap_or_default();
        count
    };
    slices.iter().map(of_slice).collect()
}

impl Scheduler {
    /// Takes the results of the step in flight.
    ///
    /// # Errors
    /// The output does not belong to the plan: the step was failed as by [`Scheduler::fail_step`].
    ///
    /// # Panics
    /// When no step is in flight.
    pub fn commit(&mut self, output: StepOutput) -> Result<(), OutputMismatch> {
        let slices = &self.in_flight.as_ref().expect("a step is in flight").slices;
        let num_drawn = num_drawn(slices, &output.samples);
        let draws: usize = num_drawn.iter().sum();
        let scores: usize = slices.iter().map(|slice| slice.num_scores).sum();
        for (what, planned, given) in [
            ("tokens", draws, output.samples.len()),
            ("scores", scores, output.scores.len()),
        ] {
            if planned != given {
                let mismatch = OutputMismatch {
                    what,
                    planned,
                    given,
                };
                self.fail_step(&mismatch.to_string());
                return Err(mismatch);
            }
        }
        let step = self.take_step();
        let mut samples = output.samples.into_iter();
        let mut scores = output.scores.into_iter();
        let mut forked = Vec::new();
        for (slice, num_drawn) in step.slices.iter().zip(num_drawn) {
            let scored = scores.by_ref().take(slice.num_scores).collect();
            self.commit_scores(slice, scored);
            let drawn = samples.by_ref().take(num_drawn);
            self.commit_slice(slice, drawn.collect(), &mut forked);
        }
        forked.sort_unstable();
        // Siblings without a seat wait, the least important first. They have computed nothing of their own, so this is no preemption.
        while self.running.len() > self.max_num_seqs {
            let latest = forked.pop().expect("only forks take seats in a commit");
            if self.running.contains(&latest) {
                self.unseat(latest.seq);
            }
        }
        Ok(())
    }

    /// The step in flight had no usable result: fails the requests it was part of, and only those.
    ///
    /// # Panics
    /// When no step is in flight.
    pub fn fail_step(&mut self, message: &str) {
        let step = self.take_step();
        for slice in step.slices {
            let sequence = self.sequences.get_mut(&slice.seq).expect("in flight");
            sequence.in_flight = 0;
            sequence.drafts.clear();
            let request = sequence.request;
            match sequence.doom {
                // Its request was closed while it was in flight.
                Some(Doom::Discard) => self.end_sequence(slice.seq, Doom::Discard),
                _ => self.fail_request(request, RequestError::Engine(message.to_owned())),
            }
        }
    }

    fn take_step(&mut self) -> InFlight {
        self.in_flight.take().expect("a step is in flight")
    }

    /// Even of a sequence that was ended meanwhile: who takes its place has its blocks, so nobody computes them again.
    fn commit_scores(&mut self, slice: &InFlightSlice, scored: Vec<PromptLogprobs>) {
        if scored.is_empty() {
            return;
        }
        let id = self.sequences[&slice.seq].request;
        let request = self.requests.get_mut(&id).expect("live");
        request.scored_len += scored.len();
        if !request.closed {
            self.events.push((id, TokenEvent::Prompt(scored)));
        }
    }

    fn commit_slice(
        &mut self,
        slice: &InFlightSlice,
        drawn: Vec<SampledToken>,
        forked: &mut Vec<Rank>,
    ) {
        let sequence = self.sequences.get_mut(&slice.seq).expect("in flight");
        let query_len = std::mem::take(&mut sequence.in_flight);
        let num_drafts = std::mem::take(&mut sequence.drafts).len();
        let doom = sequence.doom.take();
        self.advance(slice.seq, query_len - num_drafts);
        // Forks come before tokens: a token may end the carrier and give its blocks back.
        for &follower in slice.samples.iter().filter(|&&seq| seq != slice.seq) {
            if self.sequences.contains_key(&follower) {
                forked.push(self.fork(slice.seq, follower));
            }
        }
        if num_drafts > 0 && doom.is_none() {
            self.commit_drafts(slice, drawn);
            return;
        }
        for (&seq, token) in slice.samples.iter().zip(drawn) {
            let dropped = seq == slice.seq && doom.is_some();
            // A follower may have been ended while the step ran.
            if !dropped && self.sequences.contains_key(&seq) {
                self.append(seq, token);
            }
        }
        if let Some(doom) = doom {
            self.end_sequence(slice.seq, doom);
        }
    }

    /// Of a decode with drafts: what as many steps would have left behind, one token each.
    fn commit_drafts(&mut self, slice: &InFlightSlice, drawn: Vec<SampledToken>) {
        self.draft_counts.decodes += 1;
        self.draft_counts.drafted += slice.drafts.len() as u64;
        let mut drafts = slice.drafts.iter();
        for drawn in drawn {
            let is_draft = drafts.next() == Some(&drawn.token) && !drawn.is_dead_end();
            self.draft_counts.accepted += u64::from(is_draft);
            // What was drawn behind an end, or behind tokens that a handover has put in, is not what comes there.
            if !self.append(slice.seq, drawn) || !is_draft {
                break;
            }
            self.advance(slice.seq, 1);
        }
        if let Some(sequence) = self.sequences.get_mut(&slice.seq) {
            self.kv.trim(&mut sequence.kv);
        }
    }

    /// So many of the sequence's next tokens are computed.
    fn advance(&mut self, id: SeqId, num_tokens: usize) {
        let sequence = self.sequences.get_mut(&id).expect("live");
        let salt = self.requests[&sequence.request].salt;
        self.kv
            .advance(salt, &sequence.tokens, &mut sequence.kv, num_tokens);
    }

    /// The follower continues the carrier's computed prompt.
    fn fork(&mut self, carrier: SeqId, follower: SeqId) -> Rank {
        let kv = self.kv.fork(&self.sequences[&carrier].kv);
        let sequence = self.sequences.get_mut(&follower).expect("live");
        sequence.kv = kv;
        sequence.phase = Phase::Running;
        self.running.insert(sequence.rank);
        sequence.rank
    }

    /// Adds a drawn token, and what a handover puts behind it. `true` if drawing goes on right behind the token.
    fn append(&mut self, id: SeqId, drawn: SampledToken) -> bool {
        if drawn.is_dead_end() {
            self.end_sequence(id, Doom::Finish(FinishReason::DeadEnd));
            return false;
        }
        if !self.push(id, drawn) {
            return false;
        }
        let sequence = self.sequences.get_mut(&id).expect("it goes on");
        let Some(rule) = self.requests[&sequence.request].handover.clone() else {
            return true;
        };
        if !sequence.counter.push(&rule, &sequence.tokens.output) {
            return true;
        }
        sequence.counter.open = false;
        for &token in &rule.tokens {
            let put_in = SampledToken {
                token,
                logprobs: None,
                constrained: None,
            };
            if !self.push(id, put_in) {
                return false;
            }
        }
        rule.tokens.is_empty()
    }

    /// Adds a token; `false` if the sequence ends with it.
    fn push(&mut self, id: SeqId, drawn: SampledToken) -> bool {
        let sequence = self.sequences.get_mut(&id).expect("live");
        let request = self.requests.get_mut(&sequence.request).expect("live");
        let token = drawn.token;
        let may_stop = sequence.output_len() >= request.stop.min_tokens;
        sequence.tokens.output.push(token);
        if let Some(constraint) = &sequence.constraint {
            constraint.note(token);
        }
        request.summary.output_len += 1;
        let event = TokenEvent::Token {
            index: sequence.index,
            token,
            logprobs: drawn.logprobs,
        };
        self.events.push((sequence.request, event));
        // The context length needs no check here: admission holds prompt and max_tokens below it.
        let reason = if may_stop && request.stop.stop_token_ids.contains(&token) {
            FinishReason::Stop
        } else if sequence.output_len() == request.stop.max_tokens {
            FinishReason::Length
        } else {
            return true;
        };
        self.end_sequence(id, Doom::Finish(reason));
        false
    }
}
