//! The state machine: requests, sequences, the waiting queue, the running set; how they enter and how they end.
//!
//! What a step runs is decided in `planning.rs`, what it leaves behind in `commit.rs`. No clock, no threads, no I/O:
//! the same calls give the same plans and the same events.
//! Invariant: every sequence ends in `end_sequence`, which alone gives its blocks back; see `invariants.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Limits;
use crate::config::{SchedulerConfig, Speculation};
use crate::constraint::ConstraintState;
use crate::drafter::Drafter;
use crate::executor::Capacity;
use crate::kv_groups::{KvGroups, SequenceKv};
use crate::request::{
    FinishReason, Handover, NewRequest, RequestError, RequestId, RequestSummary, SamplingParams,
    SeqId, StopConditions, SubmitError, TokenEvent, TokenId,
};
use crate::sequence::{Counter, Doom, Phase, Rank, Sequence, Tokens};
use crate::speculation::DraftCounts;
use crate::step_cost::StepCost;

/// The pure core: owns every request from `submit` to its terminal event.
///
/// ```text
/// submit -> [ next_plan -> (the executor runs it) -> commit | fail_step ]* -> events
/// ```
/// `cancel`, `finish_sequence`, `fail_request` and `submit` may come at any moment, also between `next_plan` and
/// `commit`: what is in the step then stays until `commit`.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) max_num_seqs: usize,
    pub(crate) limits: Limits,
    pub(crate) kv: KvGroups,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) sequences: BTreeMap<SeqId, Sequence>,
    /// By priority, then first come, first served: a preempted sequence comes back to its place.
    pub(crate) waiting: BTreeSet<Rank>,
    pub(crate) running: BTreeSet<Rank>,
    pub(crate) in_flight: Option<InFlight>,
    /// Requests of which nothing was planned yet: what the queue bound counts.
    pub(crate) num_unstarted: usize,
    pub(crate) num_preemptions: u64,
    pub(crate) speculates: bool,
    pub(crate) step_cost: StepCost,
    pub(crate) draft_counts: DraftCounts,
    next_seq: u64,
    pub(crate) events: Vec<(RequestId, TokenEvent)>,
    pub(crate) started: Vec<Started>,
    ended: Vec<RequestId>,
}

/// One request's shared state.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) sampling: Arc<SamplingParams>,
    pub(crate) stop: StopConditions,
    pub(crate) salt: u64,
    pub(crate) priority: i32,
    pub(crate) handover: Option<Arc<Handover>>,
    pub(crate) prompt_logprobs: Option<u8>,
    pub(crate) speculates: bool,
    /// With `prompt_logprobs`: positions of the prompt whose logits were used. The prefix cache may serve these, and no
    /// more.
    pub(crate) scored_len: usize,
    /// The first choice's sequence; choice `i` has this id plus `i`.
    pub(crate) first_seq: SeqId,
    /// Sequences that have not ended.
    pub(crate) live: BTreeSet<SeqId>,
    /// Whether a part of it was ever planned.
    pub(crate) started: bool,
    /// No more events: its terminal event was sent, or nobody listens (cancelled).
    pub(crate) closed: bool,
    pub(crate) summary: RequestSummary,
}

/// The step being executed.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) slices: Vec<InFlightSlice>,
}

/// One slice of the step being executed.
#[derive(Debug)]
pub(crate) struct InFlightSlice {
    pub(crate) seq: SeqId,
    /// Who receives a token.
    pub(crate) samples: Vec<SeqId>,
    /// Tokens of the prompt that are scored.
    pub(crate) num_scores: usize,
    /// Tokens that may be drawn one after the other.
    pub(crate) drafts: Vec<TokenId>,
}

/// A request of which the first chunk was just planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub request: RequestId,
    /// Tokens of its prompt.
    pub prompt_len: usize,
    /// Of those, tokens that the prefix cache served.
    pub cached_len: usize,
}

/// The scheduler in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences with a seat.
    pub running: usize,
    /// Waiting: requests of which nothing has run, and preempted sequences.
    pub waiting: usize,
    /// Blocks held by sequences, all groups together.
    pub blocks_used: usize,
    /// Blocks held by none and reusable by a matching prefix.
    pub blocks_cached: usize,
    /// Blocks held by none and without content.
    pub blocks_free: usize,
    /// All blocks: the sum of the three.
    pub blocks_total: usize,
}

impl Scheduler {
    /// An empty scheduler. `queue_timeout` of the configuration is the worker's business.
    pub fn new(config: &SchedulerConfig, capacity: &Capacity) -> Self {
        Self {
            max_num_batched_tokens: config.max_num_batched_tokens,
            max_num_seqs: config.max_num_seqs,
            limits: Limits::new(config, capacity),
            kv: KvGroups::new(config, capacity),
            requests: BTreeMap::new(),
            sequences: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            in_flight: None,
            num_unstarted: 0,
            num_preemptions: 0,
            speculates: config.speculation == Speculation::Auto,
            step_cost: StepCost::default(),
            draft_counts: DraftCounts::default(),
            next_seq: 0,
            events: Vec::new(),
            started: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Puts a request into the queue. `id` must be new.
    ///
    /// # Errors
    /// Nothing was queued and no event will come: the request can never run here, or the queue is full.
    pub fn submit(&mut self, id: RequestId, request: NewRequest) -> Result<(), SubmitError> {
        self.limits.check(&request)?;
        if self.num_unstarted >= self.limits.max_waiting {
            return Err(SubmitError::QueueFull {
                limit: self.limits.max_waiting,
            });
        }
        let prompt: Arc<[_]> = request.prompt.into();
        let first_seq = SeqId(self.next_seq);
        self.next_seq += u64::from(request.n);
        let live: BTreeSet<_> = (first_seq.0..self.next_seq).map(SeqId).collect();
        for (index, &seq) in (0..).zip(&live) {
            let sequence = Sequence {
                request: id,
                rank: Rank {
                    priority: request.priority,
                    seq,
                },
                index,
                tokens: Tokens {
                    prompt: Arc::clone(&prompt),
                    output: Vec::new(),
                },
                counter: Counter::default(),
                constraint: (request.constraint.as_ref())
                    .map(|source| Arc::new(ConstraintState::new(Arc::clone(source)))),
                phase: if index == 0 {
                    Phase::Waiting
                } else {
                    Phase::Following
                },
                kv: SequenceKv::default(),
                in_flight: 0,
                drafts: Vec::new(),
                drafter: Drafter::default(),
                doom: None,
            };
            self.sequences.insert(seq, sequence);
        }
        self.waiting.insert(Rank {
            priority: request.priority,
            seq: first_seq,
        });
        self.num_unstarted += 1;
        let request = Request {
            sampling: request.sampling,
            stop: request.stop,
            salt: request.cache_salt,
            priority: request.priority,
            handover: request.handover,
            prompt_logprobs: request.prompt_logprobs,
            speculates: request.speculation == Speculation::Auto,
            scored_len: 0,
            first_seq,
            live,
            started: false,
            closed: false,
            summary: RequestSummary {
                prompt_len: prompt.len(),
                ..RequestSummary::default()
            },
        };
        let replaced = self.requests.insert(id, request);
        assert!(replaced.is_none(), "request ids are not reused");
        Ok(())
    }

    /// Nobody listens to this request any more: ends it without an event. Unknown or ended ids are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.close(id, None);
    }

    /// Ends one request with [`TokenEvent::Failed`]. Unknown or ended ids are ignored.
    pub fn fail_request(&mut self, id: RequestId, error: RequestError) {
        self.close(id, Some(error));
    }

    /// Ends every request with [`TokenEvent::Failed`].
    pub fn fail_all(&mut self, error: &RequestError) {
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            self.close(id, Some(error.clone()));
        }
    }

    /// The caller has what it wants from choice `index`: ends it with [`FinishReason::Caller`].
    /// Unknown or ended ones are ignored.
    pub fn finish_sequence(&mut self, id: RequestId, index: u32) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let seq = SeqId(request.first_seq.0 + u64::from(index));
        if request.live.contains(&seq) {
            self.end_or_doom(seq, Doom::Finish(FinishReason::Caller));
        }
    }

    /// Takes the events that came up since the last call, in order.
    pub fn take_events(&mut self) -> Vec<(RequestId, TokenEvent)> {
        std::mem::take(&mut self.events)
    }

    /// Takes the requests that `next_plan` has started since the last call.
    pub fn take_started(&mut self) -> Vec<Started> {
        std::mem::take(&mut self.started)
    }

    /// Takes the requests that are gone since the last call, in whatever way they ended.
    pub fn take_ended(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.ended)
    }

    /// Requests accepted and not yet ended. A cancelled one counts until the step that it is in was committed.
    pub fn num_requests(&self) -> usize {
        self.requests.len()
    }

    /// Requests of which nothing was planned yet; never more than the queue bound.
    pub fn num_unstarted(&self) -> usize {
        self.num_unstarted
    }

    /// Whether the request waits for its first chunk.
    pub fn is_unstarted(&self, id: RequestId) -> bool {
        self.requests
            .get(&id)
            .is_some_and(|r| !r.started && !r.closed)
    }

    /// Preemptions since the beginning.
    pub fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    /// Drafts since the beginning.
    pub fn draft_counts(&self) -> DraftCounts {
        self.draft_counts
    }

    /// How long a step of so many rows took. Decides whether drafts are worth their rows, and nothing else.
    pub fn observe_step(&mut self, num_rows: usize, took: Duration) {
        self.step_cost.observe(num_rows, took);
    }

    /// The limits that every request is held to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The scheduler in numbers.
    pub fn stats(&self) -> Stats {
        let pool = &self.kv.pool;
        let (total, free, cached) = (pool.num_blocks(), pool.num_free(), pool.num_evictable());
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: total - free - cached,
            blocks_cached: cached,
            blocks_free: free,
            blocks_total: total,
        }
    }

    fn close(&mut self, id: RequestId, error: Option<RequestError>) {
        let Some(request) = self.requests.get_mut(&id).filter(|r| !r.closed) else {
            return;
        };
        request.closed = true;
        if let Some(error) = error {
            self.events.push((id, TokenEvent::Failed(error)));
        }
        let live: Vec<_> = request.live.iter().copied().collect();
        // Last choice first: followers are gone before the carrier, so nobody takes its place.
        for seq in live.into_iter().rev() {
            self.end_or_doom(seq, Doom::Discard);
        }
    }

    /// Ends a sequence now, or at commit if it is in the step being executed: its blocks are being written.
    fn end_or_doom(&mut self, id: SeqId, doom: Doom) {
        let sequence = self.sequences.get_mut(&id).expect("live");
        if sequence.in_flight == 0 {
            self.end_sequence(id, doom);
        } else if sequence.doom != Some(Doom::Discard) {
            sequence.doom = Some(doom);
        }
    }

    /// The one place where a sequence ends and its blocks are given back. Ends its request with its last sequence.
    pub(crate) fn end_sequence(&mut self, id: SeqId, doom: Doom) {
        self.hand_over(id);
        let sequence = self.sequences.remove(&id).expect("live");
        self.running.remove(&sequence.rank);
        self.waiting.remove(&sequence.rank);
        self.kv.release(sequence.kv);

        let request_id = sequence.request;
        let request = self.requests.get_mut(&request_id).expect("has a sequence");
        request.live.remove(&id);
        if let (false, Doom::Finish(reason)) = (request.closed, doom) {
            let index = sequence.index;
            let finished = TokenEvent::SequenceFinished { index, reason };
            self.events.push((request_id, finished));
        }
        if request.live.is_empty() {
            if !request.closed {
                let finished = TokenEvent::Finished(request.summary);
                self.events.push((request_id, finished));
            }
            if !request.started {
                self.num_unstarted -= 1;
            }
            self.requests.remove(&request_id);
            self.ended.push(request_id);
        }
    }

    /// If others follow this sequence, the first of them becomes the carrier of the shared prompt in its place,
    /// with its blocks and its seat.
    fn hand_over(&mut self, id: SeqId) {
        let Some(&heir) = self.followers(id).first() else {
            return;
        };
        let carrier = self.sequences.get_mut(&id).expect("live");
        let (phase, rank) = (carrier.phase, carrier.rank);
        let kv = std::mem::take(&mut carrier.kv);
        let places = match phase {
            Phase::Running => &mut self.running,
            Phase::Waiting => &mut self.waiting,
            Phase::Following => unreachable!("a follower has no followers"),
        };
        let heir = self.sequences.get_mut(&heir).expect("live");
        places.remove(&rank);
        places.insert(heir.rank);
        (heir.phase, heir.kv) = (phase, kv);
    }

    /// The siblings that wait for `id` to compute their prompt; empty if it carries none.
    pub(crate) fn followers(&self, id: SeqId) -> Vec<SeqId> {
        let sequence = &self.sequences[&id];
        // Once a sequence has output, its siblings were forked or have ended.
        if sequence.phase == Phase::Following || sequence.output_len() > 0 {
            return Vec::new();
        }
        let live = &self.requests[&sequence.request].live;
        let follows = |seq: &SeqId| self.sequences[seq].phase == Phase::Following;
        live.iter().copied().filter(follows).collect()
    }

    /// Takes a running sequence's seat and blocks; it waits at its place in the queue and will be recomputed.
    pub(crate) fn unseat(&mut self, id: SeqId) {
        let sequence = self.sequences.get_mut(&id).expect("live");
        debug_assert_eq!((sequence.phase, sequence.in_flight), (Phase::Running, 0));
        sequence.phase = Phase::Waiting;
        let kv = std::mem::take(&mut sequence.kv);
        let rank = sequence.rank;
        self.kv.release(kv);
        self.running.remove(&rank);
        self.waiting.insert(rank);
    }
}
