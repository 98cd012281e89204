//! A team of threads that runs one job at a time, with microseconds of latency.
//!
//! A step is hundreds of short jobs in a row; workers therefore spin for a moment between jobs before they sleep.
//! Knows nothing of what the jobs compute. Invariant: [`Team::broadcast`] returns only after every thread has
//! finished the job, which is what lets jobs borrow from the caller's stack.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

/// Polls before a thread lets others have its core between polls; some microseconds, more than most pauses between jobs.
const SPINS: usize = 200;

/// Polls between which others may run, before a thread goes to sleep; together some tens of microseconds.
const YIELDS: usize = 50;

/// A job as the workers see it: borrowed by the caller of `broadcast`, lifetime erased.
type Job = &'static (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts jobs; a worker runs each number once.
    epoch: AtomicU64,
    /// The current job, with the thread that waits for its end.
    job: Mutex<Option<(Job, Thread)>>,
    /// Workers that have not finished the current job.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// The calling thread and `size - 1` workers.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts `size - 1` workers; 0 means one thread per core available to the process.
    ///
    /// # Errors
    /// The system's reason when a thread cannot be started.
    pub fn new(size: usize) -> std::io::Result<Self> {
        let size = match size {
            0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
            size => size,
        };
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut team = Self {
            shared,
            workers: Vec::new(),
        };
        for index in 1..size {
            let shared = Arc::clone(&team.shared);
            let worker = thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || work(&shared, index))?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Threads that take part in a job, the caller's included.
    pub fn size(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(i)` for every `i < size`, each on its own thread, 0 on the caller's; returns when all are done.
    /// Takes `&mut self` because there is one job at a time.
    ///
    /// # Panics
    /// If the job panicked on any thread.
    pub fn broadcast(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        // SAFETY: only the lifetime changes. The reference is used by workers between the store to `epoch` and their
        // decrement of `running`, and this function does not leave, by return or by unwinding, before `running` is 0.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        *self
            .shared
            .job
            .lock()
            .expect("no code panics while holding this lock") = Some((erased, thread::current()));
        self.shared
            .running
            .store(self.workers.len(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        wait_until(|| self.shared.running.load(Ordering::Acquire) == 0);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(
            !self.shared.panicked.swap(false, Ordering::Relaxed),
            "a worker thread panicked"
        );
    }

    /// Runs `work(thread, item)` for every item, on whichever thread is free next. Items should be few and large: each
    /// costs a lock.
    ///
    /// # Panics
    /// If `work` panicked.
    pub fn for_each<T: Send, I: Iterator<Item = T> + Send>(
        &mut self,
        items: impl IntoIterator<Item = T, IntoIter = I>,
        work: impl Fn(usize, T) + Sync,
    ) {
        let items = items.into_iter();
        if self.workers.is_empty() || items.size_hint().1.is_some_and(|most| most <= 1) {
            return items.for_each(|item| work(0, item));
        }
        let items = Mutex::new(items);
        self.broadcast(&|thread| {
            loop {
                // Not a `while let`: the guard must be gone before the work begins.
                let next = items.lock().map(|mut items| items.next());
                match next {
                    Ok(Some(item)) => work(thread, item),
                    // A poisoned lock means that another thread panicked: stop, it will be reported.
                    Ok(None) | Err(_) => break,
                }
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of jobs, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut done = 0;
    loop {
        wait_until(|| shared.epoch.load(Ordering::Acquire) != done);
        done += 1;
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let current = shared.job.lock().ok().and_then(|job| job.clone());
        let Some((job, caller)) = current else { return };
        if catch_unwind(AssertUnwindSafe(|| job(index))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        if shared.running.fetch_sub(1, Ordering::Release) == 1 {
            caller.unpark();
        }
    }
}

/// Polls `ready` for a moment, then sleeps between polls; whoever makes it true unparks this thread.
fn wait_until(ready: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
    // A kernel that does not preempt on wake-up lets whoever has tokens to send wait for the next timer tick.
    for _ in 0..YIELDS {
        if ready() {
            return;
        }
        thread::yield_now();
    }
    while !ready() {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for size in [1, 2, 5] {
            let mut team = Team::new(size).unwrap();
            assert_eq!(team.size(), size);
            for round in 0..300 {
                let mut cells = vec![0; round];
                team.for_each(cells.iter_mut().enumerate(), |_, (index, cell)| {
                    *cell += index + 1
                });
                assert!(
                    cells
                        .iter()
                        .enumerate()
                        .all(|(index, cell)| *cell == index + 1)
                );
            }
        }
    }

    #[test]
    fn broadcast_reaches_every_thread() {
        let mut team = Team::new(3).unwrap();
        let calls: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..200 {
            team.broadcast(&|index| {
                calls[index].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(
            calls
                .iter()
                .all(|calls| calls.load(Ordering::Relaxed) == 200)
        );
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let calls = AtomicUsize::new(0);
            team.broadcast(&|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), 2);
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_team_survives() {
        let mut team = Team::new(2).unwrap();
        for culprit in 0..2 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.broadcast(&|index| assert_ne!(index, culprit, "deliberate"));
            }));
            outcome.unwrap_err();
            team.for_each([1, 2, 3], |_, _| ());
        }
    }
}
