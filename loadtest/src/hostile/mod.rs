//! A storm of hostile requests, and whether the server is the same after it.
//!
//! ```text
//! warm-up storm ──▶ settle, measure ──▶ storm ──▶ settle, measure ──▶ verdict
//! ```
//! The warm-up makes the server touch what it keeps for good: threads, buffers, caches of the tokenizer. What memory grows
//! by after that is kept for nobody.
//! Invariant: a verdict without failures means that every answer was right, the server works, and it holds nothing.

mod attack;
mod bodies;
mod exchange;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::Target;
use crate::run::{Held, metric};
use attack::attack;

/// How long the server may take to close what it has, and to return memory. Idle threads of its blocking pool, which hold
/// some, live for 10 s (tokio's default).
const SETTLE: Duration = Duration::from_secs(25);
/// Connections that are open and silent through the whole storm.
const IDLE: usize = 64;
/// Findings that are shown of each sort.
const SHOWN: usize = 5;

/// A storm to make.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Attacks of the measured storm.
    pub requests: u64,
    /// Attacks of the warm-up.
    pub warm_up: u64,
    /// At the same time.
    pub concurrency: usize,
    /// Decides every byte that is sent.
    pub seed: u64,
    /// Most bytes of growth, not counting KV blocks touched for the first time; `None` does not look at memory.
    pub max_growth: Option<f64>,
}

/// What came of a storm.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// Attacks by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Whole answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Seconds of the measured storm.
    pub wall_s: f64,
    /// Resident bytes before and after the measured storm.
    pub resident_bytes: [f64; 2],
    /// Bytes of KV blocks that the measured storm touched first; they are reserved and count as the pool's.
    pub touched_bytes: f64,
    /// What makes it fail; empty is good.
    pub failures: Vec<String>,
}

/// A moment of the server.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    resident: f64,
    /// Bytes of the KV pool that no sequence has ever used.
    untouched: f64,
}

/// Makes a storm.
pub async fn run(storm: &Storm, target: &Target, model: &str) -> Verdict {
    let mut verdict = Verdict::default();
    blow(
        storm.warm_up,
        storm.seed.wrapping_add(1 << 32), // Other attacks than the measured ones.
        storm,
        target,
        model,
        &mut verdict,
    )
    .await;
    let before = settled(target, None, &mut verdict).await;
    verdict.kinds.clear();
    verdict.statuses.clear();

    let start = Instant::now();
    blow(
        storm.requests,
        storm.seed,
        storm,
        target,
        model,
        &mut verdict,
    )
    .await;
    verdict.wall_s = start.elapsed().as_secs_f64();

    still_works(target, model, &mut verdict).await;
    let limit = storm.max_growth.map(|growth| (before.clone(), growth));
    let after = settled(target, limit.as_ref(), &mut verdict).await;
    verdict.resident_bytes = [before.resident, after.resident];
    verdict.touched_bytes = (before.untouched - after.untouched).max(0.0);
    if let Some(limit) = storm.max_growth {
        let growth = growth(&before, &after);
        if growth > limit {
            verdict.failures.push(format!(
                "memory grew by {:.1} MiB, limit {:.1}",
                mib(growth),
                mib(limit)
            ));
        }
    }
    verdict
}

/// `count` attacks, some at a time, with silent connections beside them.
async fn blow(
    count: u64,
    seed: u64,
    storm: &Storm,
    target: &Target,
    model: &str,
    verdict: &mut Verdict,
) {
    let mut idle = Vec::new();
    for _ in 0..IDLE.min(count as usize / 8) {
        idle.extend(TcpStream::connect(target.authority()).await);
    }
    let next = Arc::new(AtomicU64::new(0));
    let mut attackers = JoinSet::new();
    for _ in 0..storm.concurrency {
        let (next, target, model) = (next.clone(), target.clone(), model.to_owned());
        attackers.spawn(async move {
            let mut results = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return results;
                }
                let attack = attack(seed, number, &model);
                let observed = exchange::carry_out(&attack, target.authority()).await;
                results.push((number, attack.kind, observed));
            }
        });
    }
    let mut findings: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (number, kind, observed) in attackers.join_all().await.into_iter().flatten() {
        *verdict.kinds.entry(kind).or_default() += 1;
        for status in observed.statuses {
            *verdict.statuses.entry(status).or_default() += 1;
        }
        for finding in observed.findings {
            findings
                .entry(format!("{kind}: {finding}"))
                .or_default()
                .push(number);
        }
    }
    for (finding, numbers) in findings {
        let shown = &numbers[..numbers.len().min(SHOWN)];
        let count = numbers.len();
        verdict.failures.push(format!(
            "{finding} ({count} times, attacks {shown:?} of seed {seed})"
        ));
    }
}

/// Asks what must be answered whatever came before.
async fn still_works(target: &Target, model: &str, verdict: &mut Verdict) {
    for path in ["/health", "/ready", "/v1/models"] {
        if let Err(error) = target.get(path).await {
            verdict.failures.push(format!("{path}: {error}"));
        }
    }
    let chat = serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 64,
        "temperature": 0,
    });
    // What abandoned requests left in the queue may still be on its way out.
    let deadline = Instant::now() + SETTLE;
    loop {
        match target.post("/v1/chat/completions", chat.to_string()).await {
            Ok(answer) if answer.contains("\"finish_reason\"") => return,
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Ok(answer) => return verdict.failures.push(format!("a chat: {answer:.200}")),
            Err(error) => return verdict.failures.push(format!("a chat: {error}")),
        }
    }
}

/// Waits until the server holds nothing, and until its memory is within `limit`: a moment, and what may come on top.
async fn settled(
    target: &Target,
    limit: Option<&(Snapshot, f64)>,
    verdict: &mut Verdict,
) -> Snapshot {
    let deadline = Instant::now() + SETTLE;
    loop {
        let text = match target.get("/metrics").await {
            Ok(text) => text,
            Err(error) => {
                verdict.failures.push(format!("/metrics: {error}"));
                return Snapshot::default();
            }
        };
        let now = Snapshot::read(&text);
        let held = Held::parse(&text).unwrap_or_default();
        // The one that asks is one.
        let of = |name| metric(&text, name).unwrap_or(1.0);
        let in_flight = of("gossamer_api_requests_in_flight");
        let connections = of("gossamer_api_connections_open");
        let quiet = held == Held::default() && in_flight <= 1.0 && connections <= 1.0;
        let small = limit.is_none_or(|(before, most)| growth(before, &now) <= *most);
        let over = Instant::now() > deadline;
        if over && !quiet {
            verdict.failures.push(format!(
                "the server still holds {held:?}, {in_flight} requests in flight, {connections} connections"
            ));
        }
        if over || (quiet && small) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What memory grew by, without the KV blocks that were used for the first time.
fn growth(before: &Snapshot, after: &Snapshot) -> f64 {
    let touched = (before.untouched - after.untouched).max(0.0);
    after.resident - before.resident - touched
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

impl Snapshot {
    fn read(text: &str) -> Self {
        let value = |name| metric(text, name).unwrap_or(0.0);
        let capacity = value("gossamer_kv_blocks_capacity").max(1.0);
        let block_bytes = value("gossamer_kv_pool_bytes") / capacity;
        Self {
            resident: value("process_resident_memory_bytes"),
            untouched: value("gossamer_kv_blocks{state=\"free\"}") * block_bytes,
        }
    }
}

impl Verdict {
    /// For people.
    pub fn summary(&self) -> String {
        let attacks: u64 = self.kinds.values().sum();
        let statuses: Vec<String> = (self.statuses.iter())
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        let [before, after] = self.resident_bytes.map(mib);
        format!(
            "{attacks} attacks of {} kinds in {:.1} s; answers {}; resident {before:.1} MiB before, {after:.1} after, \
             of which {:.1} are KV blocks touched first",
            self.kinds.len(),
            self.wall_s,
            statuses.join(", "),
            mib(self.touched_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use gossamer_testkit::{Script, TestSetup};

    use super::*;

    /// The whole storm in small, over the real HTTP layer and scheduler and a scripted model. Memory is not measured: the
    /// attackers are in the same process.
    #[test]
    fn a_storm_leaves_the_server_as_it_was() {
        let server = TestSetup::new(Script::echo()).start();
        let storm = Storm {
            requests: 1500,
            warm_up: 0,
            concurrency: 16,
            seed: 1,
            max_growth: None,
        };
        let target = Target::parse(&format!("http://{}", server.addr)).expect("an address");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let verdict = runtime.block_on(run(&storm, &target, "test-model"));
        assert_eq!(
            verdict.failures,
            Vec::<String>::new(),
            "{}",
            verdict.summary()
        );
        assert_eq!(verdict.kinds.values().sum::<u64>(), 1500);
        server.wait_until_idle();
    }

    #[test]
    fn growth_is_what_the_pool_does_not_explain() {
        let at = |resident, untouched| Snapshot {
            resident,
            untouched,
        };
        assert_eq!(growth(&at(100.0, 50.0), &at(160.0, 10.0)), 20.0);
        // Blocks that are free again were touched before.
        assert_eq!(growth(&at(100.0, 10.0), &at(160.0, 50.0)), 60.0);
    }
}
