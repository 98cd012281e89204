//! Sends a scenario's requests, so many at a time or as they arrive, and gathers what happened.
//!
//! Knows when, not what: building requests is `scenario`'s, timing one is `client`'s.
//! Invariant: one measurement per request of the scenario, also when the time limit cuts it short.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::client::{ClientError, Measured, Target};
use crate::scenario::Scenario;

/// How long the server may take to give back what the run used.
const SETTLE: Duration = Duration::from_secs(10);

/// All measurements of a scenario.
pub struct Run {
    /// One per request, warm-up excluded.
    pub measured: Vec<Measured>,
    /// From the first measured request to the end of the last.
    pub wall: Duration,
}

/// Runs a scenario.
pub async fn run(scenario: &Scenario, target: &Target, model: &str) -> Run {
    let deadline = Instant::now() + Duration::from_secs(scenario.time_limit_s);
    let mut requests: VecDeque<_> = scenario.build(model).into();
    for request in requests.drain(..scenario.warm_up) {
        target.measure(&request, deadline).await;
    }

    let start = Instant::now();
    if let Some(times) = scenario.arrivals() {
        let mut clients = JoinSet::new();
        for (request, at) in requests.into_iter().zip(times) {
            let target = target.clone();
            let arrival = start + Duration::from_secs_f64(at);
            clients.spawn(async move {
                tokio::time::sleep_until(arrival.min(deadline).into()).await;
                target.measure(&request, deadline).await
            });
        }
        return Run {
            measured: clients.join_all().await,
            wall: start.elapsed(),
        };
    }
    let queue = Arc::new(Mutex::new(requests));
    let mut clients = JoinSet::new();
    for _ in 0..scenario.concurrency.min(scenario.requests) {
        let (queue, target) = (queue.clone(), target.clone());
        clients.spawn(async move {
            let mut measured = Vec::new();
            loop {
                let next = queue
                    .lock()
                    .map(|mut queue| queue.pop_front())
                    .ok()
                    .flatten();
                let Some(request) = next else { return measured };
                measured.push(target.measure(&request, deadline).await);
            }
        });
    }
    let measured = clients.join_all().await.into_iter().flatten().collect();
    Run {
        measured,
        wall: start.elapsed(),
    }
}

/// What the server still holds when nobody asks it for anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Held {
    /// Sequences in prefill or decode.
    pub running: f64,
    /// Sequences that wait.
    pub waiting: f64,
    /// KV blocks in use by sequences.
    pub blocks_used: f64,
    /// KV blocks that are neither used, cached nor free.
    pub blocks_lost: f64,
}

impl Held {
    /// Reads the server's metrics. `None` if they are not Gossamer's.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| metric(text, name);
        let used = value("gossamer_kv_blocks{state=\"used\"}")?;
        let cached = value("gossamer_kv_blocks{state=\"cached\"}")?;
        let free = value("gossamer_kv_blocks{state=\"free\"}")?;
        Some(Self {
            running: value("gossamer_scheduler_sequences_running")?,
            waiting: value("gossamer_scheduler_requests_waiting")?,
            blocks_used: used,
            blocks_lost: value("gossamer_kv_blocks_capacity")? - used - cached - free,
        })
    }
}

/// A metric's value, labels written as in the exposition.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until the server holds nothing; what it still holds after ten seconds otherwise.
/// `None` if the server has no such metrics.
///
/// # Errors
/// The metrics cannot be read.
pub async fn settle(target: &Target) -> Result<Option<Held>, ClientError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let held = Held::parse(&target.get("/metrics").await?);
        if held.as_ref().is_none_or(|held| *held == Held::default()) || Instant::now() > deadline {
            return Ok(held);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_things_are_read_from_the_exposition() {
        let text = "\
# TYPE gossamer_kv_blocks gauge
gossamer_kv_blocks{state=\"cached\"} 3
gossamer_kv_blocks{state=\"free\"} 4
gossamer_kv_blocks{state=\"used\"} 2
gossamer_kv_blocks_capacity 10
gossamer_scheduler_requests_waiting 5
gossamer_scheduler_sequences_running 6
";
        let held = Held::parse(text).unwrap();
        let expected = Held {
            running: 6.0,
            waiting: 5.0,
            blocks_used: 2.0,
            blocks_lost: 1.0,
        };
        assert_eq!(held, expected);
        assert_eq!(Held::parse("other_metric 1\n"), None);
    }
}
