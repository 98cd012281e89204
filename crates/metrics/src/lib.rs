//! Every metric of Gossamer, as typed handles.
//!
//! A leaf: imports no other crate of the workspace. `catalog` holds every name, help text, label set and bucket
//! list on one screen; callers hold handles ([`SchedulerMetrics`], [`ApiMetrics`], [`EngineMetrics`]) and never
//! see a name. Label values are `&'static str` or fixed at start, so that no client can create a time series.
//! Invariant: each metric is registered exactly once, in a registry owned by one [`Metrics`].

mod api;
mod catalog;
mod engine;
mod rate;
mod scheduler;

pub use api::{ApiMetrics, OpenConnection};
pub use catalog::{LATENCY_BUCKETS, TTFT_BUCKETS};
pub use engine::EngineMetrics;
pub use scheduler::{BlockCounts, SchedulerMetrics};

use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

/// The registry and a handle per subsystem. Cheap to clone; clones share the same time series.
#[derive(Clone)]
pub struct Metrics {
    /// For the scheduler's worker.
    pub scheduler: SchedulerMetrics,
    /// For the HTTP layer.
    pub api: ApiMetrics,
    /// For whoever loads the model.
    pub engine: EngineMetrics,
    registry: Registry,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
}

impl Metrics {
    /// Registers every metric in a registry of its own.
    pub fn new() -> Self {
        let registry = Registry::new();
        let catalog = catalog::Catalog::new(&registry);
        Self {
            scheduler: SchedulerMetrics::new(&catalog),
            api: ApiMetrics::new(&catalog),
            engine: EngineMetrics::new(&catalog),
            resident_bytes: catalog.process_resident_bytes.clone(),
            virtual_bytes: catalog.process_virtual_bytes.clone(),
            registry,
        }
    }

    /// The exposition in Prometheus' text format, version 0.0.4. Values that are read rather than counted
    /// (process memory, tokens per second) are refreshed here, at scrape time.
    pub fn render(&self) -> String {
        self.refresh();
        let mut text = Vec::new();
        // Encoding into memory fails only on a metric family without samples, which `gather` leaves out.
        if TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .is_err()
        {
            text.clear();
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// `Content-Type` of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;

    fn refresh(&self) {
        if let Some(memory) = memory_stats::memory_stats() {
            self.resident_bytes.set(to_i64(memory.physical_mem));
            self.virtual_bytes.set(to_i64(memory.virtual_mem));
        }
        self.scheduler.refresh();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn to_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_exposition_names_every_unlabelled_metric_and_only_ours() {
        let text = Metrics::new().render();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("gossamer_") || line.starts_with("process_"),
                "{line}"
            );
        }
        for name in [
            "gossamer_scheduler_requests_waiting 0",
            "gossamer_scheduler_sequences_running 0",
            "gossamer_scheduler_preemptions_total 0",
            "gossamer_tokens_per_second{direction=\"in\"} 0",
            "gossamer_tokens_per_second{direction=\"out\"} 0",
        ] {
            assert!(
                text.lines().any(|line| line == name),
                "missing {name} in\n{text}"
            );
        }
    }

    #[test]
    fn process_memory_is_read_at_scrape_time() {
        let text = Metrics::new().render();
        let resident = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .and_then(|value| value.parse::<f64>().ok());
        assert!(
            resident.is_some_and(|bytes| bytes > 100_000.0),
            "{resident:?}"
        );
    }

    #[test]
    fn two_instances_do_not_share_counters() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.scheduler.preempted();
        assert!(
            a.render()
                .contains("gossamer_scheduler_preemptions_total 1")
        );
        assert!(
            b.render()
                .contains("gossamer_scheduler_preemptions_total 0")
        );
    }
}
