//! From measurements to numbers, a table, JSON and a verdict.
//!
//! Knows nothing of the server. Percentiles are nearest-rank.
//! Invariant: a scenario without a failure line kept every threshold and left nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::client::{Measured, Outcome};
use crate::run::{Held, Run};
use crate::scenario::Scenario;

/// One scenario's results. Times are milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub requests: usize,
    pub concurrency: usize,
    pub completed: usize,
    pub went_away: usize,
    pub failed: usize,
    pub wall_s: f64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Generated tokens per second of wall time, all requests together.
    pub tokens_per_s: f64,
    pub ttft_ms: Option<Percentiles>,
    pub itl_ms: Option<Percentiles>,
    /// Time per output token of each request after its first: what an inter-token latency is where chunks carry
    /// several tokens or none.
    pub tpot_ms: Option<Percentiles>,
    /// What the server held after the run; absent if it does not say.
    pub held: Option<Held>,
    /// Error texts and how often each came.
    pub errors: BTreeMap<String, usize>,
    /// What makes the run fail; empty is good.
    pub failures: Vec<String>,
}

/// Nearest-rank percentiles.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Percentiles {
    fn of(mut durations: Vec<Duration>) -> Option<Self> {
        durations.sort_unstable();
        let rank = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100).max(1);
            Some(durations.get(rank - 1)?.as_secs_f64() * 1000.0)
        };
        Some(Self {
            p50: rank(50)?,
            p95: rank(95)?,
            p99: rank(99)?,
        })
    }
}

impl Report {
    /// Counts, and compares with the thresholds.
    pub fn new(scenario: &Scenario, run: &Run, held: Option<Held>) -> Self {
        let mut errors = BTreeMap::new();
        let (mut completed, mut went_away) = (0, 0);
        for measured in &run.measured {
            match &measured.outcome {
                Outcome::Completed => completed += 1,
                Outcome::WentAway => went_away += 1,
                Outcome::Failed(text) => *errors.entry(text.clone()).or_insert(0) += 1,
            }
        }
        let sum = |of: fn(&Measured) -> u64| run.measured.iter().map(of).sum();
        let completion_tokens: u64 = sum(|m| m.completion_tokens);
        let wall_s = run.wall.as_secs_f64();
        let mut report = Self {
            scenario: scenario.name.clone(),
            requests: run.measured.len(),
            concurrency: scenario.concurrency,
            completed,
            went_away,
            failed: errors.values().sum(),
            wall_s,
            prompt_tokens: sum(|m| m.prompt_tokens),
            completion_tokens,
            tokens_per_s: completion_tokens as f64 / wall_s,
            ttft_ms: Percentiles::of(run.measured.iter().filter_map(|m| m.first_token).collect()),
            itl_ms: Percentiles::of(run.measured.iter().flat_map(|m| m.gaps.clone()).collect()),
            tpot_ms: Percentiles::of(run.measured.iter().filter_map(time_per_token).collect()),
            held,
            errors,
            failures: Vec::new(),
        };
        report.failures = report.judge(scenario);
        report
    }

    fn judge(&self, scenario: &Scenario) -> Vec<String> {
        let limits = &scenario.thresholds;
        let mut failures = Vec::new();
        let mut at_most = |what: &str, value: Option<f64>, limit: Option<f64>| {
            if let Some(limit) = limit
                && value.is_none_or(|value| value > limit)
            {
                let value = value.map_or("not measured".to_owned(), |value| format!("{value:.2}"));
                failures.push(format!("{what} is {value}, limit {limit}"));
            }
        };
        let error_percent = 100.0 * self.failed as f64 / self.requests.max(1) as f64;
        at_most(
            "errors, percent",
            Some(error_percent),
            Some(limits.max_error_percent),
        );
        at_most(
            "time to first token p95, ms",
            self.ttft_ms.as_ref().map(|p| p.p95),
            limits.max_ttft_p95_ms,
        );
        at_most(
            "inter-token latency p95, ms",
            self.itl_ms.as_ref().map(|p| p.p95),
            limits.max_itl_p95_ms,
        );
        if let Some(limit) = limits.min_tokens_per_s
            && self.tokens_per_s < limit
        {
            failures.push(format!(
                "tokens per second is {:.1}, at least {limit} needed",
                self.tokens_per_s
            ));
        }
        if self.requests != scenario.requests {
            failures.push(format!(
                "{} of {} requests measured",
                self.requests, scenario.requests
            ));
        }
        if let Some(held) = &self.held
            && *held != Held::default()
        {
            failures.push(format!("the server still holds {held:?}"));
        }
        failures
    }
}

/// From the first token to the last, shared by the tokens after the first.
fn time_per_token(measured: &Measured) -> Option<Duration> {
    let others = u32::try_from(measured.completion_tokens.checked_sub(1)?).ok()?;
    measured.first_token?;
    measured.gaps.iter().sum::<Duration>().checked_div(others)
}

/// A line per scenario, for people.
pub fn table(reports: &[Report]) -> String {
    let head = [
        "scenario",
        "streams",
        "done",
        "away",
        "failed",
        "wall s",
        "tok/s",
        "ttft p50/p95/p99 ms",
        "itl p50/p95 ms",
        "held",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for report in reports {
        let ttft = report.ttft_ms.as_ref();
        let itl = report.itl_ms.as_ref();
        let held = match &report.held {
            None => "unknown",
            Some(held) if *held == Held::default() => "nothing",
            Some(_) => "SOMETHING",
        };
        rows.push(vec![
            report.scenario.clone(),
            match report.concurrency {
                0 => "arriving".to_owned(),
                streams => streams.to_string(),
            },
            report.completed.to_string(),
            report.went_away.to_string(),
            report.failed.to_string(),
            format!("{:.2}", report.wall_s),
            format!("{:.1}", report.tokens_per_s),
            ttft.map_or("-".to_owned(), |p| {
                format!("{:.1}/{:.1}/{:.1}", p.p50, p.p95, p.p99)
            }),
            itl.map_or("-".to_owned(), |p| format!("{:.2}/{:.2}", p.p50, p.p95)),
            held.to_owned(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(thresholds: &str) -> Scenario {
        let text = format!(
            "name = 'x'\nrequests = 3\nconcurrency = 2\ntime_limit_s = 1\n[thresholds]\n{thresholds}\n[[mix]]\nendpoint = 'chat'\nprompts = ['a']"
        );
        toml::from_str(&text).unwrap()
    }

    fn run() -> Run {
        let measured = |outcome, ttft| Measured {
            outcome,
            first_token: Some(Duration::from_millis(ttft)),
            gaps: vec![Duration::from_millis(5); 9],
            prompt_tokens: 4,
            completion_tokens: 10,
            duration: Duration::from_millis(100),
        };
        Run {
            measured: vec![
                measured(Outcome::Completed, 10),
                measured(Outcome::Failed("boom".to_owned()), 30),
                measured(Outcome::WentAway, 20),
            ],
            wall: Duration::from_secs(2),
        }
    }

    #[test]
    fn numbers() {
        let report = Report::new(
            &scenario("max_error_percent = 50.0"),
            &run(),
            Some(Held::default()),
        );
        assert_eq!(
            (report.completed, report.went_away, report.failed),
            (1, 1, 1)
        );
        assert_eq!(report.tokens_per_s, 15.0);
        let ttft = report.ttft_ms.as_ref().unwrap();
        assert_eq!((ttft.p50, ttft.p95), (20.0, 30.0));
        assert_eq!(report.tpot_ms.as_ref().unwrap().p95, 5.0);
        assert_eq!(report.failures, Vec::<String>::new());
        assert!(table(&[report]).contains("15.0"));
    }

    #[test]
    fn every_threshold_and_a_leak_can_fail_the_run() {
        let limits = "max_error_percent = 0.0\nmax_ttft_p95_ms = 29.0\nmax_itl_p95_ms = 4.0\nmin_tokens_per_s = 16.0";
        let leak = Held {
            blocks_used: 1.0,
            ..Held::default()
        };
        let report = Report::new(&scenario(limits), &run(), Some(leak));
        assert_eq!(report.failures.len(), 5, "{:?}", report.failures);
    }

    #[test]
    fn a_threshold_on_something_unmeasured_fails() {
        let mut run = run();
        run.measured.iter_mut().for_each(|m| m.first_token = None);
        let report = Report::new(
            &scenario("max_error_percent = 50.0\nmax_ttft_p95_ms = 1.0"),
            &run,
            None,
        );
        assert_eq!(
            report.failures,
            ["time to first token p95, ms is not measured, limit 1"]
        );
    }
}
