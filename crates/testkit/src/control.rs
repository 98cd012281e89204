//! A test's hand on the scripted executor: stop it, let it go, make it fail, see what it was asked.
//!
//! Invariant: nothing here waits for a fixed time; tests wait for events.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossamer_scheduler::{ExecuteError, SampleSpec};

/// How long a test waits for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shared by the test and the executor. Cheap to clone.
#[derive(Clone, Default)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Steps that may still run; `None` is no limit.
    permits: Option<u64>,
    /// The executor waits for a permit.
    blocked: bool,
    delay: Duration,
    failures: VecDeque<ExecuteError>,
    steps: u64,
    samples: Vec<SampleSpec>,
}

impl Control {
    /// Stops the executor before its next step.
    pub fn hold(&self) {
        self.change(|state| state.permits = Some(0));
    }

    /// Lets this many more steps run.
    pub fn allow(&self, steps: u64) {
        self.change(|state| {
            state.permits = Some(state.permits.unwrap_or(0) + steps);
            // It has not woken up yet, but it is not held any more.
            state.blocked = false;
        });
    }

    /// Lets the executor run freely.
    pub fn release(&self) {
        self.change(|state| state.permits = None);
    }

    /// Makes every step take at least this long.
    pub fn slow_down(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Makes the next step fail; several calls, several steps.
    pub fn fail_next(&self, error: ExecuteError) {
        self.change(|state| state.failures.push_back(error));
    }

    /// Steps that ran so far, failed ones included.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Every token that was to be drawn so far, in order.
    pub fn samples(&self) -> Vec<SampleSpec> {
        self.lock().samples.clone()
    }

    /// Waits until the executor stands before a step that it may not run.
    ///
    /// # Panics
    /// It did not come there.
    pub fn wait_until_blocked(&self) {
        let mut state = self.lock();
        let deadline = Instant::now() + PATIENCE;
        while !state.blocked {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the executor was not asked for a step");
            state = (self.shared.changed.wait_timeout(state, left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Called by the executor at the beginning of each step.
    pub(crate) fn enter_step<'a>(
        &self,
        samples: impl Iterator<Item = &'a SampleSpec>,
    ) -> Result<(), ExecuteError> {
        let mut state = self.lock();
        while state.permits == Some(0) {
            state.blocked = true;
            self.shared.changed.notify_all();
            state = (self.shared.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        state.blocked = false;
        if let Some(permits) = &mut state.permits {
            *permits -= 1;
        }
        state.steps += 1;
        state.samples.extend(samples.cloned());
        let failure = state.failures.pop_front();
        let delay = state.delay;
        drop(state);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        failure.map_or(Ok(()), Err)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a test has failed already; its server must still be able to stop.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
