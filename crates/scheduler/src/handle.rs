//! The face above: what other threads hold of the scheduler.
//!
//! `SchedulerHandle` submits, `TokenStream` listens and cancels; both only send commands to the worker and read
//! atomics, and neither ever blocks.
//! Invariant: a request that `submit` accepted yields exactly one terminal event, even if the worker dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::admission::Limits;
use crate::executor::Capacity;
use crate::request::{NewRequest, RequestError, RequestId, SubmitError, TokenEvent};
use crate::scheduler::Stats;

/// What the worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Submission),
    Cancel(RequestId),
    FinishSequence(RequestId, u32),
    Stop,
}

#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) request: NewRequest,
    pub(crate) submitted_at: Instant,
    pub(crate) events: mpsc::UnboundedSender<TokenEvent>,
    pub(crate) place: Place,
}

/// An accepted request's part in the counters. Travels with the request, so that wherever the request is dropped
/// (also with a dead worker's channel) the counters are right.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    /// Whether it still counts against the queue bound.
    queued: bool,
}

impl Place {
    /// Takes a place in the queue, or says why there is none.
    fn reserve(shared: &Arc<Shared>) -> Result<Self, SubmitError> {
        // Counted before `closed` is read: whoever closes and then sees `open == 0` knows that nobody slips in.
        shared.open.fetch_add(1, SeqCst);
        let mut place = Self {
            shared: Arc::clone(shared),
            queued: false,
        };
        if shared.closed.load(SeqCst) {
            return Err(SubmitError::ShuttingDown);
        }
        let limit = shared.limits.max_waiting;
        let one_more = |queued| (queued < limit).then_some(queued + 1);
        (shared.queued)
            .fetch_update(SeqCst, SeqCst, one_more)
            .map_err(|_| SubmitError::QueueFull { limit })?;
        place.queued = true;
        Ok(place)
    }

    /// The request's first chunk was planned.
    pub(crate) fn leave_queue(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.shared.queued.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave_queue();
        if self.shared.open.fetch_sub(1, SeqCst) == 1 {
            self.shared.all_ended.notify_waiters();
        }
    }
}

/// What handles and worker share besides the command channel. Plain atomics: each is read on its own, and only
/// `queued` and `open` guard a decision.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) capacity: Capacity,
    next_id: AtomicU64,
    /// Requests from `submit` until their first chunk is planned; never above `max_waiting`.
    pub(crate) queued: AtomicUsize,
    /// Requests from `submit` until the worker has forgotten them.
    pub(crate) open: AtomicUsize,
    /// Woken whenever `open` reaches 0.
    pub(crate) all_ended: Notify,
    /// No more submissions: draining, stopping, or the engine is unusable.
    pub(crate) closed: AtomicBool,
    /// The engine produced a token, and has not panicked or failed fatally since.
    pub(crate) healthy: AtomicBool,
    pub(crate) stats: SharedStats,
}

/// The last published [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct SharedStats {
    pub(crate) running: AtomicUsize,
    /// Preempted sequences only; requests that wait for their first chunk are in `Shared::queued`.
    pub(crate) preempted: AtomicUsize,
    pub(crate) blocks_used: AtomicUsize,
    pub(crate) blocks_cached: AtomicUsize,
    pub(crate) blocks_free: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(limits: Limits, capacity: Capacity) -> Self {
        let total = capacity.num_blocks;
        Self {
            limits,
            capacity,
            next_id: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            all_ended: Notify::new(),
            closed: AtomicBool::new(false),
            healthy: AtomicBool::new(false),
            stats: SharedStats {
                blocks_free: AtomicUsize::new(total),
                ..SharedStats::default()
            },
        }
    }
}

/// A cheap handle to the scheduler; clone it into every task that submits.
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: Sender<Command>,
}

impl SchedulerHandle {
    /// Queues a request and returns its events. Decides at once and never blocks.
    ///
    /// # Errors
    /// The request was not accepted; nothing was queued.
    pub fn submit(&self, request: NewRequest) -> Result<TokenStream, SubmitError> {
        self.shared.limits.check(&request)?;
        let place = Place::reserve(&self.shared)?;
        let id = RequestId(self.shared.next_id.fetch_add(1, SeqCst));
        // Unbounded, so that the worker never blocks on a client. Bounded in fact: a request of n sequences yields
        // at most prompt_len + n * (max_tokens + 1) + 1 events, and all of these were checked against the limits above.
        let (sender, events) = mpsc::unbounded_channel();
        let submission = Submission {
            id,
            request,
            submitted_at: Instant::now(),
            events: sender,
            place,
        };
        (self.commands)
            .send(Command::Submit(submission))
            .map_err(|_| SubmitError::ShuttingDown)?;
        Ok(TokenStream {
            id,
            events,
            commands: self.commands.clone(),
            ended: false,
        })
    }

    /// What the engine can hold.
    pub fn capacity(&self) -> &Capacity {
        &self.shared.capacity
    }

    /// Most tokens of one sequence, prompt and output together: the smaller of the model's context length and what
    /// the whole KV pool holds.
    pub fn max_sequence_len(&self) -> usize {
        self.shared.limits.max_sequence_len
    }

    /// The scheduler in numbers, as of the last step.
    pub fn stats(&self) -> Stats {
        let stats = &self.shared.stats;
        let (used, cached, free) = (
            stats.blocks_used.load(SeqCst),
            stats.blocks_cached.load(SeqCst),
            stats.blocks_free.load(SeqCst),
        );
        Stats {
            running: stats.running.load(SeqCst),
            waiting: self.shared.queued.load(SeqCst) + stats.preempted.load(SeqCst),
            blocks_used: used,
            blocks_cached: cached,
            blocks_free: free,
            blocks_total: used + cached + free,
        }
    }

    /// Whether a new request can be expected to be answered: the engine has produced a token, has not panicked or
    /// failed fatally since, and nothing is shutting down.
    pub fn is_ready(&self) -> bool {
        self.shared.healthy.load(SeqCst) && !self.shared.closed.load(SeqCst)
    }

    /// Accepts nothing more. What runs and waits goes on.
    pub fn drain(&self) {
        self.shared.closed.store(true, SeqCst);
    }

    /// Resolves when nothing runs or waits. Call [`SchedulerHandle::drain`] first, or it may not stay so.
    pub async fn drained(&self) {
        loop {
            // Registered before the count is read, so that no wake-up falls between.
            let mut ended = std::pin::pin!(self.shared.all_ended.notified());
            ended.as_mut().enable();
            if self.shared.open.load(SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Accepts nothing more, fails what is left with [`RequestError::ShuttingDown`] and ends the worker, at the
    /// latest when the step being executed ends.
    pub fn stop(&self) {
        self.drain();
        // An error means that the worker has already ended.
        let _ = self.commands.send(Command::Stop);
    }
}

/// The events of one request. Dropping it cancels the request: no event comes any more, its blocks are given back
/// at once, or when the step that it is in ends.
#[derive(Debug)]
pub struct TokenStream {
    id: RequestId,
    events: mpsc::UnboundedReceiver<TokenEvent>,
    commands: Sender<Command>,
    /// The terminal event was handed out.
    ended: bool,
}

impl TokenStream {
    /// The next event; `None` after the terminal one. Cancel-safe.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.pass(event))
    }

    /// The next event if there is one already; `None` otherwise, and after the terminal one.
    pub fn try_next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        match self.events.try_recv() {
            Ok(event) => Some(self.pass(Some(event))),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(self.pass(None)),
        }
    }

    /// A channel that ended without a terminal event means that the worker did: then the terminal event is ours.
    fn pass(&mut self, event: Option<TokenEvent>) -> TokenEvent {
        let event = event.unwrap_or(TokenEvent::Failed(RequestError::ShuttingDown));
        self.ended = matches!(event, TokenEvent::Finished(_) | TokenEvent::Failed(_));
        event
    }

    /// The request's id, unique in this process.
    pub fn request_id(&self) -> RequestId {
        self.id
    }

    /// Ends choice `index` with [`crate::FinishReason::Caller`], e.g. because a stop string appeared in its text.
    /// Tokens drawn before the worker hears of it may still come. Ended or unknown choices are ignored.
    pub fn finish_sequence(&self, index: u32) {
        // An error means that the worker has ended, and the sequence with it.
        let _ = (self.commands).send(Command::FinishSequence(self.id, index));
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.ended {
            // An error means that the worker has ended, and the request with it.
            let _ = self.commands.send(Command::Cancel(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KvGroup, SamplingParams, StopConditions};

    #[test]
    fn a_dead_worker_still_ends_every_request_and_every_count() {
        let limits = Limits {
            max_sequence_len: 10,
            max_waiting: 2,
        };
        let capacity = Capacity {
            block_size: 1,
            max_model_len: 10,
            num_blocks: 10,
            block_bytes: 1,
            groups: vec![KvGroup::default()],
        };
        let shared = Arc::new(Shared::new(limits, capacity));
        let (commands, worker) = std::sync::mpsc::channel();
        let handle = SchedulerHandle { shared, commands };
        let request = NewRequest {
            prompt: vec![1],
            n: 1,
            sampling: Arc::new(SamplingParams::greedy()),
            stop: StopConditions {
                stop_token_ids: Arc::new([]),
                max_tokens: 1,
                min_tokens: 0,
            },
            cache_salt: 0,
            priority: 0,
            handover: None,
            prompt_logprobs: None,
            constraint: None,
            speculation: crate::Speculation::Auto,
        };
        let mut unheard = handle.submit(request.clone()).unwrap();
        assert_eq!(unheard.try_next(), None);
        assert_eq!(handle.stats().waiting, 1);
        drop(worker);
        let failed = TokenEvent::Failed(RequestError::ShuttingDown);
        assert_eq!(unheard.try_next(), Some(failed));
        assert_eq!(unheard.try_next(), None);
        for _ in 0..3 {
            let refused = handle.submit(request.clone()).unwrap_err();
            assert_eq!(refused, SubmitError::ShuttingDown);
        }
        assert_eq!(handle.stats().waiting, 0);
        assert_eq!(handle.shared.open.load(SeqCst), 0);
    }
}
