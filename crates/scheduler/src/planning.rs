//! The policy: what the next step runs.
//!
//! The order of everything is [`Rank`]: priority, then arrival.
//!
//! 1. Shares of the token budget: one token for each running sequence in decode, in order of rank, then chunks of
//!    prefill from what is left, in order of rank.
//! 2. Blocks for those shares, in order of rank; when they run out the least important running sequence is preempted.
//! 3. With budget and seats left, and unless somebody was preempted: the waiting queue, strictly from its head. Nobody is
//!    preempted for somebody who waits.
//! 4. With budget and blocks still left: drafts (`speculation.rs`).
//!
//! Why this ends: a sequence is preempted only for a more important one that then runs, or for itself; the most
//! important can preempt everybody else and, alone, fits (`admission.rs`). Why nobody of the best priority starves:
//! nobody overtakes the queue's head, and the head is admitted at the latest when nothing runs. The others wait for as
//! long as better ones keep coming: that is what a priority asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::batch_plan::{BatchPlan, BlockCopy, History, PromptScores, SampleSpec, SeqSlice};
use crate::request::SeqId;
use crate::scheduler::{InFlight, InFlightSlice, Scheduler, Started};
use crate::sequence::{Phase, Rank};

/// Who runs how many rows.
pub(crate) type Share = (Rank, usize);

impl Scheduler {
    /// The next step, or `None` if there is nothing to do: then no request is left.
    ///
    /// # Panics
    /// When the previous plan was neither committed nor failed.
    pub fn next_plan(&mut self) -> Option<BatchPlan> {
        assert!(self.in_flight.is_none(), "the previous step has not ended");
        let mut plan = BatchPlan::default();
        let mut step = InFlight::default();
        let mut shares;
        loop {
            shares = self.share_budget();
            let num_running = self.running.len();
            self.secure_blocks(&mut shares, &mut plan);
            let preempted = self.running.len() < num_running;
            if !shares.is_empty() || self.running.is_empty() {
                if !preempted || self.running.is_empty() {
                    self.admit_waiting(&mut shares);
                }
                break;
            }
            // Those with a share preempted themselves. Fewer run now, so this ends.
        }
        if shares.is_empty() {
            return None;
        }
        self.add_drafts(&mut shares);
        // Decodes first, as the engine likes its batch; stable, so otherwise in order of rank.
        shares.sort_by_key(|&(rank, _)| self.sequences[&rank.seq].remaining_len() > 1);
        for (Rank { seq, .. }, query_len) in shares {
            let slice = self.slice(seq, query_len, &mut plan);
            step.slices.push(InFlightSlice {
                seq,
                samples: slice.samples.iter().map(|spec| spec.seq).collect(),
                num_scores: slice.scores.as_ref().map_or(0, |s| s.targets.len()),
                drafts: plan.drafts(&slice).to_vec(),
            });
            plan.slices.push(slice);
            self.sequences.get_mut(&seq).expect("running").in_flight = query_len;
        }
        debug_assert!(copies_are_independent(&plan.copies));
        self.in_flight = Some(step);
        Some(plan)
    }

    /// Who runs how many tokens, in order of rank.
    fn share_budget(&self) -> Vec<Share> {
        let mut budget = self.max_num_batched_tokens;
        let mut shares = Vec::with_capacity(self.running.len());
        for prefills in [false, true] {
            for &rank in &self.running {
                let remaining = self.sequences[&rank.seq].remaining_len();
                if budget > 0 && (remaining > 1) == prefills {
                    let share = remaining.min(budget);
                    budget -= share;
                    shares.push((rank, share));
                }
            }
        }
        shares.sort_unstable();
        shares
    }

    /// Gives every share its blocks, preempting from the end of the running set; drops the shares of the preempted.
    fn secure_blocks(&mut self, shares: &mut Vec<Share>, plan: &mut BatchPlan) {
        let mut secured = 0;
        while let Some(&(rank, query_len)) = shares.get(secured) {
            let sequence = self.sequences.get_mut(&rank.seq).expect("running");
            let copies = &mut plan.copies;
            if self.kv.make_writable(&mut sequence.kv, query_len, copies) {
                secured += 1;
                continue;
            }
            // Never one that is secured already: those rank before `rank`, which itself runs.
            let victim = *self.running.last().expect("`rank` runs");
            self.preempt(victim.seq);
            if shares.last().is_some_and(|&(last, _)| last == victim) {
                shares.pop();
            }
        }
    }

    fn preempt(&mut self, victim: SeqId) {
        self.unseat(victim);
        self.num_preemptions += 1;
        let request = self.sequences[&victim].request;
        let request = self.requests.get_mut(&request).expect("live");
        request.summary.preemptions += 1;
    }

    /// Seats waiting sequences, from the head, while budget, seats and blocks last. A sequence gets blocks for all
    /// its tokens at once, but for those that a window will give back, so that two half-computed prompts never wait
    /// for each other's blocks; and it leaves what running sequences will take for their tokens and the next one, so
    /// that a newcomer is not preempted at their next block boundary.
    fn admit_waiting(&mut self, shares: &mut Vec<Share>) {
        let used: usize = shares.iter().map(|&(_, share)| share).sum();
        let mut budget = self.max_num_batched_tokens - used;
        while budget > 0 && self.running.len() < self.max_num_seqs {
            let Some(&rank) = self.waiting.first() else {
                break;
            };
            let reserve = self.promised_blocks();
            let sequence = self.sequences.get_mut(&rank.seq).expect("waiting");
            let request = self.requests.get_mut(&sequence.request).expect("live");
            let reusable = match request.prompt_logprobs {
                None => usize::MAX,
                Some(_) => request.scored_len,
            };
            let (salt, tokens) = (request.salt, &sequence.tokens);
            let Some(kv) = (self.kv).admit(salt, tokens, reusable, budget, reserve) else {
                break;
            };
            let cached_len = kv.computed_len;
            sequence.kv = kv;
            sequence.phase = Phase::Running;
            let share = sequence.remaining_len().min(budget);
            budget -= share;
            shares.push((rank, share));
            self.waiting.remove(&rank);
            self.running.insert(rank);
            if !request.started {
                request.started = true;
                request.summary.cached_len = cached_len;
                self.num_unstarted -= 1;
                self.started.push(Started {
                    request: sequence.request,
                    prompt_len: request.summary.prompt_len,
                    cached_len,
                });
            }
        }
    }

    /// Blocks that running sequences will take soon.
    fn promised_blocks(&self) -> usize {
        let of_sequence = |rank: &Rank| {
            let sequence = &self.sequences[&rank.seq];
            self.kv.growth(&sequence.kv, sequence.len())
        };
        self.running.iter().map(of_sequence).sum()
    }

    /// Packs a sequence's share into the plan's tokens.
    fn slice(&self, id: SeqId, query_len: usize, plan: &mut BatchPlan) -> SeqSlice {
        let sequence = &self.sequences[&id];
        let computed_len = sequence.kv.computed_len;
        let num_drafts = sequence.drafts.len();
        let context_len = computed_len + query_len;
        let known_len = context_len - num_drafts;
        let query_start = plan.tokens.len();
        sequence
            .tokens
            .extend(computed_len..known_len, &mut plan.tokens);
        plan.tokens.extend_from_slice(&sequence.drafts);
        let mut samples = Vec::new();
        if known_len == sequence.len() {
            samples.push(self.sample_spec(id));
            let followers = self.followers(id);
            samples.extend(followers.into_iter().map(|seq| self.sample_spec(seq)));
        }
        SeqSlice {
            seq: id,
            query_start,
            query_len,
            context_len,
            num_drafts,
            block_tables: sequence.kv.tables.clone(),
            samples,
            scores: self.scores(id, query_len),
        }
    }

    /// Which of the rows predict tokens of the prompt that are asked for and not yet scored.
    fn scores(&self, id: SeqId, query_len: usize) -> Option<PromptScores> {
        let sequence = &self.sequences[&id];
        let request = &self.requests[&sequence.request];
        let top = request.prompt_logprobs?;
        let (prompt, computed_len) = (&sequence.tokens.prompt, sequence.kv.computed_len);
        let start = request.scored_len;
        let end = (computed_len + query_len).min(prompt.len() - 1);
        (start < end).then(|| PromptScores {
            rows: start - computed_len..end - computed_len,
            targets: prompt[start + 1..=end].to_vec(),
            top,
        })
    }

    fn sample_spec(&self, id: SeqId) -> SampleSpec {
        let sequence = &self.sequences[&id];
        let request = &self.requests[&sequence.request];
        let output_len = sequence.output_len();
        let ban_stops = output_len < request.stop.min_tokens;
        let history = request.sampling.needs_history().then(|| {
            let mut tokens = Vec::with_capacity(sequence.len());
            sequence.tokens.extend(0..sequence.len(), &mut tokens);
            let prompt_len = sequence.tokens.prompt.len();
            History { tokens, prompt_len }
        });
        SampleSpec {
            seq: id,
            choice: sequence.index,
            output_len,
            params: Arc::clone(&request.sampling),
            banned: ban_stops.then(|| Arc::clone(&request.stop.stop_token_ids)),
            history,
            constraint: sequence.constraint.clone(),
        }
    }
}

/// Whether the copies may be made in any order. They may, because a source is freed in the same plan only by
/// preempting its other holders: siblings, whose ranks are neighbours, so that nobody comes after them who could be
/// given the block as a destination and is not preempted before them.
fn copies_are_independent(copies: &[BlockCopy]) -> bool {
    let destinations: BTreeSet<_> = copies.iter().map(|copy| copy.dst).collect();
    let read = |copy: &BlockCopy| destinations.contains(&copy.src);
    destinations.len() == copies.len() && !copies.iter().any(read)
}
