//! What somebody sees who waits for a model to load: a bar on a terminal, a few lines in a log.
//!
//! Invariant: nothing is shown for a model that is loaded before one would have read it.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use gossamer_engine::LoadProgress;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// What is loaded faster needs no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time between two lines of a log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The bar, or the time of the last line.
pub struct Progress {
    started_at: Instant,
    logged_at: Instant,
    bar: Option<ProgressBar>,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            started_at: now,
            logged_at: now,
            bar: None,
        }
    }
}

impl Progress {
    /// Shows how far loading is.
    pub fn show(&mut self, at: LoadProgress) {
        if self.started_at.elapsed() < PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(at.total_bytes));
            bar.set_position(at.bytes);
            if at.bytes >= at.total_bytes {
                bar.finish_and_clear();
            }
        } else if self.logged_at.elapsed() >= LOG_EVERY {
            self.logged_at = Instant::now();
            info!(
                bytes = at.bytes,
                total_bytes = at.total_bytes,
                "loading the model"
            );
        }
    }
}

impl Drop for Progress {
    /// A load that failed leaves no bar behind the error.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "loading {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";

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
        let mut progress = Progress::default();
        progress.show(LoadProgress {
            bytes: 1,
            total_bytes: 2,
        });
        assert!(progress.bar.is_none(), "too early for a bar");
    }
}
