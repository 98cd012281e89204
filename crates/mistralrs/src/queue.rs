//! Who may run: a bound on requests that wait, and places for the choices that run.
//!
//! mistral.rs takes whatever it is sent and starts all that wait as soon as nothing runs, so it is sent no more than may run.
//! First come, first served. Knows no text. Invariants: a request waits until its first choice has a place, and never
//! waits beyond the bound; whatever ends a request gives back what it had.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gossamer_api::text_engine::{RequestError, SubmitError, TextStats};
use gossamer_metrics::SchedulerMetrics;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// See the file's header. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    max_waiting: usize,
    timeout: Option<Duration>,
    places: Arc<Semaphore>,
    /// Requests without a running choice.
    waiting: AtomicUsize,
    /// Choices that mistral.rs has.
    running: AtomicUsize,
    /// Requests from [`Queue::enter`] to their end.
    open: AtomicUsize,
    all_ended: Notify,
    closed: AtomicBool,
    stopped: Notify,
    metrics: SchedulerMetrics,
}

/// A request's part in the counts.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    waits: bool,
    since: Instant,
}

/// A choice's place among those that run.
pub(crate) struct Place {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    /// For so many choices at a time and so many requests behind them.
    pub fn new(
        max_running: usize,
        max_waiting: usize,
        timeout: Option<Duration>,
        metrics: SchedulerMetrics,
    ) -> Self {
        Self(Arc::new(Shared {
            max_waiting,
            timeout,
            places: Arc::new(Semaphore::new(max_running)),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            all_ended: Notify::new(),
            closed: AtomicBool::new(false),
            stopped: Notify::new(),
            metrics,
        }))
    }

    /// Takes a place in the queue, or says why there is none.
    pub fn enter(&self) -> Result<Ticket, SubmitError> {
        let shared = &self.0;
        // Counted before `closed` is read: whoever closes and then sees none open knows that nobody slips in.
        shared.open.fetch_add(1, SeqCst);
        let mut ticket = Ticket {
            shared: Arc::clone(shared),
            waits: false,
            since: Instant::now(),
        };
        if shared.closed.load(SeqCst) {
            return Err(SubmitError::ShuttingDown);
        }
        let limit = shared.max_waiting;
        let one_more = |waiting| (waiting < limit).then_some(waiting + 1);
        (shared.waiting)
            .fetch_update(SeqCst, SeqCst, one_more)
            .map_err(|_| SubmitError::QueueFull { limit })?;
        ticket.waits = true;
        shared.publish();
        Ok(ticket)
    }

    /// How busy it is.
    pub fn stats(&self) -> TextStats {
        self.0.stats()
    }

    /// Whether nothing more is accepted.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(SeqCst)
    }

    /// Accepts nothing more.
    pub fn close(&self) {
        self.0.closed.store(true, SeqCst);
    }

    /// Accepts nothing more, and ends what is there.
    pub fn stop(&self) {
        self.close();
        self.0.stopped.notify_waiters();
    }

    /// Resolves at the next [`Queue::stop`].
    pub async fn stopped(&self) {
        self.0.stopped.notified().await;
    }

    /// Resolves when no request is open. Call [`Queue::close`] first, or it may not stay so.
    pub async fn drained(&self) {
        loop {
            // Registered before the count is read, so that no wake-up falls between.
            let mut ended = std::pin::pin!(self.0.all_ended.notified());
            ended.as_mut().enable();
            if self.0.open.load(SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Shared {
    fn stats(&self) -> TextStats {
        TextStats {
            running: self.running.load(SeqCst),
            waiting: self.waiting.load(SeqCst),
        }
    }

    fn publish(&self) {
        let TextStats { running, waiting } = self.stats();
        self.metrics.set_queue(waiting, running);
    }
}

impl Ticket {
    /// Waits for a place for one more choice. With the first one the request stops waiting.
    ///
    /// # Errors
    /// It waited too long.
    pub async fn place(&mut self, prompt_len: usize) -> Result<Place, RequestError> {
        let permit = Arc::clone(&self.shared.places).acquire_owned();
        let limit = self.shared.timeout.filter(|_| self.waits);
        let permit = match limit {
            None => permit.await,
            Some(limit) => tokio::time::timeout(limit.saturating_sub(self.since.elapsed()), permit)
                .await
                .map_err(|_| RequestError::QueueTimeout {
                    limit_ms: limit.as_millis() as u64,
                })?,
        };
        // Nobody closes the semaphore.
        let permit = permit.map_err(|_| RequestError::ShuttingDown)?;
        self.shared.running.fetch_add(1, SeqCst);
        if self.stop_waiting() {
            (self.shared.metrics).prompt_started(prompt_len, 0, self.since.elapsed());
        }
        self.shared.publish();
        Ok(Place {
            shared: Arc::clone(&self.shared),
            _permit: permit,
        })
    }

    fn stop_waiting(&mut self) -> bool {
        let waited = std::mem::take(&mut self.waits);
        if waited {
            self.shared.waiting.fetch_sub(1, SeqCst);
        }
        waited
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stop_waiting() {
            self.shared.publish();
        }
        if self.shared.open.fetch_sub(1, SeqCst) == 1 {
            self.shared.all_ended.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, SeqCst);
        self.shared.publish();
    }
}

#[cfg(test)]
mod tests {
    use gossamer_metrics::Metrics;

    use super::*;

    fn queue(running: usize, waiting: usize, timeout: Option<Duration>) -> Queue {
        Queue::new(running, waiting, timeout, Metrics::new().scheduler)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn the_bound_is_on_requests_that_wait() {
        block_on(async {
            let queue = queue(1, 2, None);
            let mut first = queue.enter().unwrap();
            let place = first.place(3).await.unwrap();
            let _second = queue.enter().unwrap();
            let mut third = queue.enter().unwrap();
            assert!(matches!(
                queue.enter(),
                Err(SubmitError::QueueFull { limit: 2 })
            ));
            let busy = TextStats {
                running: 1,
                waiting: 2,
            };
            assert_eq!(queue.stats(), busy);
            drop(place);
            let _place = third.place(3).await.unwrap();
            assert_eq!(queue.stats().waiting, 1);
            queue.enter().unwrap();
        });
    }

    #[test]
    fn who_waits_too_long_is_told_and_forgotten() {
        block_on(async {
            let queue = queue(1, 2, Some(Duration::from_millis(20)));
            let mut first = queue.enter().unwrap();
            let _place = first.place(3).await.unwrap();
            let mut second = queue.enter().unwrap();
            assert!(matches!(
                second.place(3).await,
                Err(RequestError::QueueTimeout { limit_ms: 20 })
            ));
            drop(second);
            assert_eq!(queue.stats().waiting, 0);
        });
    }

    #[test]
    fn drained_means_that_every_request_has_ended() {
        block_on(async {
            let queue = queue(1, 2, None);
            let ticket = queue.enter().unwrap();
            queue.close();
            assert!(matches!(queue.enter(), Err(SubmitError::ShuttingDown)));
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, queue.drained()).await.is_err());
            drop(ticket);
            queue.drained().await;
        });
    }
}
