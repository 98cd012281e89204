//! Events per second over the last full seconds, for a gauge that people can read without a query language.
//!
//! A ring of one-second buckets. The clock is passed in, as whole seconds since any fixed start.

use std::sync::Mutex;

/// Seconds that the average looks back over.
pub(crate) const WINDOW_SECONDS: u64 = 10;
const SLOTS: usize = WINDOW_SECONDS as usize + 1;

/// Counts per second, the current second and the `WINDOW_SECONDS` before it.
#[derive(Default)]
pub(crate) struct RateWindow {
    slots: Mutex<[Slot; SLOTS]>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    second: u64,
    count: u64,
}

impl RateWindow {
    /// Counts `count` events in `second`.
    pub fn add(&self, second: u64, count: u64) {
        let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        let slot = &mut slots[(second % SLOTS as u64) as usize];
        if slot.second != second {
            *slot = Slot { second, count: 0 };
        }
        slot.count += count;
    }

    /// Mean events per second over the `WINDOW_SECONDS` full seconds before `now` (fewer just after the start).
    pub fn per_second(&self, now: u64) -> f64 {
        let slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        let window = now.clamp(1, WINDOW_SECONDS);
        let first = now - window.min(now);
        let sum: u64 = slots
            .iter()
            .filter(|slot| slot.second >= first && slot.second < now)
            .map(|slot| slot.count)
            .sum();
        sum as f64 / window as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_mean_of_the_last_full_seconds() {
        let rate = RateWindow::default();
        for second in 0..30 {
            rate.add(second, 5);
        }
        assert_eq!(rate.per_second(30), 5.0);
        assert_eq!(rate.per_second(35), 2.5);
        assert_eq!(rate.per_second(1000), 0.0);
    }

    #[test]
    fn the_current_second_does_not_count_yet() {
        let rate = RateWindow::default();
        rate.add(0, 7);
        assert_eq!(rate.per_second(0), 0.0);
        assert_eq!(rate.per_second(1), 7.0);
        assert_eq!(rate.per_second(2), 3.5);
    }
}
