//! What somebody sees who waits for a model to be downloaded or loaded: a bar on a terminal, a few lines in a log.
//!
//! Knows bytes, not whose.
//! Invariant: nothing is shown for what is over before one would have read it.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// What is done faster needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time between two lines of a log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The bar, or the time of the last line.
pub struct Progress {
    /// "loading", "downloading".
    action: &'static str,
    started_at: Instant,
    logged_at: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins now; `action` is what one waits for.
    pub fn new(action: &'static str) -> Self {
        let now = Instant::now();
        Self {
            action,
            started_at: now,
            logged_at: now,
            bar: None,
        }
    }

    /// Shows how far it is.
    pub fn show(&mut self, bytes: u64, total_bytes: u64) {
        if self.started_at.elapsed() < PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            // The time left follows from the time since the beginning, not since the bar.
            let since = self.started_at.elapsed();
            let action = self.action;
            let new = || bar(total_bytes).with_message(action).with_elapsed(since);
            let bar = self.bar.get_or_insert_with(new);
            bar.set_position(bytes);
            if bytes >= total_bytes {
                bar.finish_and_clear();
            }
        } else if self.logged_at.elapsed() >= LOG_EVERY {
            self.logged_at = Instant::now();
            info!(bytes, total_bytes, "{} the model", self.action);
        }
    }
}

impl Drop for Progress {
    /// What failed leaves no bar behind the error.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";

fn bar(total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE);
    // The template is a constant that a test parses.
    ProgressBar::new(total_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn the_bar_goes_from_start_to_end() {
        let bar = bar(1000);
        bar.set_position(400);
        assert_eq!((bar.length(), bar.position()), (Some(1000), 400));
        let mut progress = Progress::new("loading");
        progress.show(1, 2);
        assert!(progress.bar.is_none(), "too early for a bar");
    }
}
