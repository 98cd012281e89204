//! The HTTP layer's metrics: requests, errors, latencies as a client sees them, harmony repairs.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::catalog::Catalog;

/// Handle for the HTTP layer. Cheap to clone. Label values come from closed sets: never from a client.
#[derive(Clone)]
pub struct ApiMetrics {
    requests: IntCounterVec,
    in_flight: IntGauge,
    connections: IntGauge,
    duration: HistogramVec,
    ttft: Histogram,
    inter_token: Histogram,
    errors: IntCounterVec,
    finished: IntCounterVec,
    cancelled: IntCounter,
    repairs: IntCounterVec,
    grammar_lookups: IntCounterVec,
    grammar_compile: Histogram,
    responses_stored: IntGauge,
    responses_stored_bytes: IntGauge,
    responses_evicted: IntCounterVec,
}

impl ApiMetrics {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        Self {
            requests: catalog.http_requests.clone(),
            in_flight: catalog.http_in_flight.clone(),
            connections: catalog.http_connections.clone(),
            duration: catalog.request_duration.clone(),
            ttft: catalog.ttft.clone(),
            inter_token: catalog.inter_token_latency.clone(),
            errors: catalog.errors.clone(),
            finished: catalog.finished.clone(),
            cancelled: catalog.cancelled.clone(),
            repairs: catalog.harmony_repairs.clone(),
            grammar_lookups: catalog.grammar_lookups.clone(),
            grammar_compile: catalog.grammar_compile.clone(),
            responses_stored: catalog.responses_stored.clone(),
            responses_stored_bytes: catalog.responses_stored_bytes.clone(),
            responses_evicted: catalog.responses_evicted.clone(),
        }
    }

    /// A connection was accepted; it counts as open until the returned value is dropped.
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// A request arrived; pair with [`ApiMetrics::request_ended`].
    pub fn request_started(&self) {
        self.in_flight.inc();
    }

    /// The last byte of an answer was sent, or its client went away. `route` is the route's pattern, never the path as received.
    pub fn request_ended(&self, route: &'static str, status: u16, took: Duration) {
        self.in_flight.dec();
        self.requests
            .with_label_values(&[route, &status.to_string()])
            .inc();
        self.duration
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
    }

    /// From the request's arrival to its first token.
    pub fn first_token(&self, since_arrival: Duration) {
        self.ttft.observe(since_arrival.as_secs_f64());
    }

    /// Between two tokens of one sequence.
    pub fn inter_token(&self, gap: Duration) {
        self.inter_token.observe(gap.as_secs_f64());
    }

    /// An error answer went out; `code` is from the error table.
    pub fn error(&self, code: &'static str) {
        self.errors.with_label_values(&[code]).inc();
    }

    /// A choice was completed; `reason` is OpenAI's `finish_reason`.
    pub fn choice_finished(&self, reason: &'static str) {
        self.finished.with_label_values(&[reason]).inc();
    }

    /// A client went away before its answer was complete.
    pub fn cancelled(&self) {
        self.cancelled.inc();
    }

    /// A request asked for a grammar, which was in the cache, or took so long to compile.
    pub fn grammar(&self, compiled: Option<Duration>) {
        let result = if compiled.is_some() { "miss" } else { "hit" };
        self.grammar_lookups.with_label_values(&[result]).inc();
        if let Some(took) = compiled {
            self.grammar_compile.observe(took.as_secs_f64());
        }
    }

    /// The harmony parser repaired `count` deviations of this kind.
    pub fn harmony_repairs(&self, kind: &'static str, count: u64) {
        self.repairs.with_label_values(&[kind]).inc_by(count);
    }

    /// What the store of responses holds.
    pub fn responses_stored(&self, count: i64, bytes: i64) {
        self.responses_stored.set(count);
        self.responses_stored_bytes.set(bytes);
    }

    /// A response was removed to keep a bound; `reason` is `count`, `bytes` or `age`.
    pub fn response_evicted(&self, reason: &'static str) {
        self.responses_evicted.with_label_values(&[reason]).inc();
    }
}

/// An open connection; stops counting when dropped.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
