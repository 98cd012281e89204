//! What a row costs, learned from how long steps took.
//!
//! A step takes a fixed time (weights are read, threads are woken) and some time for each row. A draft is a row more, and,
//! if it comes true, spares its sequence a later step's row and its share of that step's fixed time:
//!
//! ```text
//! time of a step of n rows    f + r n
//! a draft costs               r
//! and spares, if true         r + f / n        so it pays if it is true more often than  r n / (f + r n)
//! ```
//! That is the share of the time that grows with the rows. It goes to 1 as the batch grows: a busy server drafts nothing,
//! however sure it is, and nobody has to say how busy that is on which machine.
//! Knows numbers only; the clock is the worker's.

use std::time::Duration;

/// Steps of more rows than this say nothing here: a chunk of prefill uses what it reads more often than a decode.
const MAX_ROWS: usize = 64;

/// How much the newest step counts.
const WEIGHT: f64 = 1.0 / 32.0;

/// The share before anything is known, and what it goes back to while all steps have the same number of rows.
const FIRST_SHARE: f64 = 0.5;

/// Variance of the rows that weighs as much as that first share.
const DOUBT: f64 = 0.1;

/// A step that took this many times the mean was not slow for its rows: the machine was elsewhere.
const OUTLIER: f64 = 3.0;

/// A straight line through rows and times of late.
#[derive(Debug, Default)]
pub(crate) struct StepCost {
    /// Mean rows and seconds; 0 before the first step.
    rows: f64,
    seconds: f64,
    /// Variance of the rows, and covariance of rows and seconds.
    variance: f64,
    covariance: f64,
}

impl StepCost {
    /// A step of so many rows took so long.
    pub(crate) fn observe(&mut self, num_rows: usize, took: Duration) {
        let (rows, seconds) = (num_rows as f64, took.as_secs_f64());
        if num_rows == 0 || num_rows > MAX_ROWS || seconds <= 0.0 {
            return;
        }
        if self.rows == 0.0 {
            (self.rows, self.seconds) = (rows, seconds);
            return;
        }
        let more_rows = rows - self.rows;
        let longer = seconds.min(OUTLIER * self.seconds) - self.seconds;
        self.rows += WEIGHT * more_rows;
        self.seconds += WEIGHT * longer;
        let keep = |mean: f64, product: f64| (1.0 - WEIGHT) * (mean + WEIGHT * product);
        self.variance = keep(self.variance, more_rows * more_rows);
        self.covariance = keep(self.covariance, more_rows * longer);
    }

    /// Which part of the time of a step of so many rows grows with them, 0 to 1.
    pub(crate) fn share_of_rows(&self, num_rows: usize) -> f32 {
        if self.rows == 0.0 {
            return FIRST_SHARE as f32;
        }
        let first_slope = FIRST_SHARE * self.seconds / self.rows;
        let slope = (self.covariance + DOUBT * first_slope) / (self.variance + DOUBT);
        let rows = num_rows as f64;
        let growing = slope * rows;
        let whole = self.seconds + slope * (rows - self.rows);
        match growing > 0.0 {
            false => 0.0,
            // Beside what grows there is something that does not, even where the line says otherwise.
            true => (growing / whole.max(growing)) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: impl IntoIterator<Item = (usize, u64)>) -> StepCost {
        let mut cost = StepCost::default();
        for (rows, micros) in steps {
            cost.observe(rows, Duration::from_micros(micros));
        }
        cost
    }

    #[test]
    fn nothing_known_is_even() {
        assert_eq!(after([]).share_of_rows(1), 0.5);
        let same = after(vec![(1, 1000); 100]);
        assert!((same.share_of_rows(1) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_share_is_that_of_the_line() {
        let steps = (0..400).map(|i| (1 + i % 5, 700 + 100 * (1 + i % 5) as u64));
        let cost = after(steps);
        for rows in [1, 4, 16] {
            let exact = 100.0 * rows as f32 / (700.0 + 100.0 * rows as f32);
            let found = cost.share_of_rows(rows);
            assert!(
                (found - exact).abs() < 0.05,
                "{rows} rows: {found}, {exact}"
            );
        }
        assert!(cost.share_of_rows(1000) > 0.95);
    }

    #[test]
    fn times_that_do_not_grow_or_shrink_give_a_share_all_the_same() {
        let flat = after((0..400).map(|i| (1 + i % 5, 1000)));
        assert!(flat.share_of_rows(1) < 0.05);
        let shrinking = after((0..400).map(|i| (1 + i % 5, 1000 - 100 * (i % 5) as u64)));
        assert_eq!(shrinking.share_of_rows(4), 0.0);
        let steep = after((0..400).map(|i| (1 + i % 5, 1 + 1000 * (i % 5) as u64)));
        assert_eq!(steep.share_of_rows(1), 1.0);
    }

    #[test]
    fn a_pause_of_the_machine_and_a_long_chunk_are_not_the_rows() {
        let steady = (0..400).map(|i| (1 + i % 5, 700 + 100 * (1 + i % 5) as u64));
        let mut cost = after(steady.clone());
        let before = cost.share_of_rows(4);
        cost.observe(512, Duration::from_millis(500));
        assert_eq!(cost.share_of_rows(4), before);
        cost.observe(1, Duration::from_secs(2));
        for (rows, micros) in steady.take(64) {
            cost.observe(rows, Duration::from_micros(micros));
        }
        assert!((cost.share_of_rows(4) - before).abs() < 0.1);
    }
}
