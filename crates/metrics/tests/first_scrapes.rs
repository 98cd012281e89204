//! A process of its own, because only the first questions about memory can go wrong.

use std::sync::Barrier;

use gossamer_metrics::Metrics;

#[test]
fn threads_that_scrape_first_at_the_same_time_all_see_memory() {
    const THREADS: usize = 8;
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let metrics = Metrics::new();
                barrier.wait();
                let text = metrics.render();
                let resident = text
                    .lines()
                    .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
                    .and_then(|value| value.parse::<f64>().ok());
                assert!(
                    resident.is_some_and(|bytes| bytes > 100_000.0),
                    "{resident:?}"
                );
            });
        }
    });
}
