//! What a run does: how many requests, of which kinds, and which results fail it.
//!
//! Knows no HTTP. Invariant: the requests of a scenario depend on its file alone, so two runs send the same ones.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Shown in the report.
    pub name: String,
    /// Requests in all.
    pub requests: usize,
    /// Requests at the same time.
    pub concurrency: usize,
    /// The scenario is stopped, and fails, after this many seconds.
    pub time_limit_s: u64,
    /// Chooses kinds, prompts and cancellations.
    #[serde(default)]
    pub seed: u64,
    /// Requests sent before the measured ones, one after the other.
    #[serde(default)]
    pub warm_up: usize,
    /// The kinds of requests, drawn by weight.
    pub mix: Vec<Kind>,
    /// What fails the run.
    pub thresholds: Thresholds,
}

/// One kind of request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// How often, relative to the others.
    #[serde(default = "one")]
    pub weight: u64,
    /// `chat` or `completions`.
    pub endpoint: Endpoint,
    /// One is drawn per request.
    pub prompts: Vec<String>,
    /// Random words put before the prompt, at least and at most: makes prompts long and different.
    #[serde(default)]
    pub filler_words: Option<[u64; 2]>,
    /// Streamed or not.
    #[serde(default = "yes")]
    pub stream: bool,
    /// Share of these requests, in percent, whose client goes away.
    #[serde(default)]
    pub cancel_percent: u64,
    /// How long a client that goes away waits, in milliseconds, at least and at most.
    #[serde(default)]
    pub cancel_after_ms: Option<[u64; 2]>,
    /// More fields of the request body, as they are.
    #[serde(default)]
    pub body: serde_json::Map<String, Value>,
}

/// The route.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// Limits; a run that exceeds one exits with an error. Absent ones are not checked, except errors and leaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Failed requests, in percent of all. A client that went away on purpose has not failed.
    pub max_error_percent: f64,
    /// 95th percentile of the time to the first token, milliseconds.
    pub max_ttft_p95_ms: Option<f64>,
    /// 95th percentile of the time between two chunks, milliseconds.
    pub max_itl_p95_ms: Option<f64>,
    /// Generated tokens per second, all streams together.
    pub min_tokens_per_s: Option<f64>,
}

/// One request to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// Route.
    pub path: &'static str,
    /// JSON body.
    pub body: String,
    /// Whether the answer is an event stream.
    pub stream: bool,
    /// The client goes away after this many milliseconds.
    pub cancel_after_ms: Option<u64>,
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// Ordinary words, about a token each.
const WORDS: &[&str] = &[
    "river", "table", "green", "morning", "letter", "window", "seven", "garden", "music", "paper",
    "winter", "bridge", "silver", "market", "orange", "cloud", "number", "story", "yellow",
    "stone",
];

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// A sentence naming the file and what is wrong in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let scenario: Scenario =
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        scenario
            .check()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        if self.requests == 0 || self.concurrency == 0 || self.time_limit_s == 0 {
            return Err("requests, concurrency and time_limit_s must be at least 1".to_owned());
        }
        if self.mix.iter().map(|kind| kind.weight).sum::<u64>() == 0 {
            return Err("mix needs a kind with a weight".to_owned());
        }
        for kind in &self.mix {
            if kind.prompts.is_empty() {
                return Err("prompts is empty".to_owned());
            }
            if kind.cancel_percent > 0 && kind.cancel_after_ms.is_none() {
                return Err("cancel_percent needs cancel_after_ms".to_owned());
            }
            let ranges = [kind.filler_words, kind.cancel_after_ms];
            if ranges.into_iter().flatten().any(|[low, high]| low > high) {
                return Err("a range has its larger number first".to_owned());
            }
        }
        Ok(())
    }

    /// The scenario's requests for this model: the warm-up ones first.
    pub fn build(&self, model: &str) -> Vec<Request> {
        let mut random = Random(self.seed);
        (0..self.warm_up + self.requests)
            .map(|number| {
                let mut request = self.draw(&mut random, model);
                if number < self.warm_up {
                    request.cancel_after_ms = None;
                }
                request
            })
            .collect()
    }

    fn draw(&self, random: &mut Random, model: &str) -> Request {
        let total: u64 = self.mix.iter().map(|kind| kind.weight).sum();
        let mut ticket = random.below(total);
        let mut chosen = &self.mix[0];
        for kind in &self.mix {
            chosen = kind;
            if ticket < kind.weight {
                break;
            }
            ticket -= kind.weight;
        }
        chosen.request(random, model)
    }
}

impl Kind {
    fn request(&self, random: &mut Random, model: &str) -> Request {
        let mut text = String::new();
        if let Some(range) = self.filler_words {
            for _ in 0..random.within(range) {
                text.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
                text.push(' ');
            }
        }
        text.push_str(&self.prompts[random.below(self.prompts.len() as u64) as usize]);

        let mut body = self.body.clone();
        body.insert("model".into(), json!(model));
        body.insert("stream".into(), json!(self.stream));
        if self.stream {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        let path = match self.endpoint {
            Endpoint::Chat => {
                body.insert(
                    "messages".into(),
                    json!([{"role": "user", "content": text}]),
                );
                "/v1/chat/completions"
            }
            Endpoint::Completions => {
                body.insert("prompt".into(), json!(text));
                "/v1/completions"
            }
        };
        let goes_away = random.below(100) < self.cancel_percent;
        let wait = self.cancel_after_ms.map(|range| random.within(range));
        Request {
            path,
            body: Value::Object(body).to_string(),
            stream: self.stream,
            cancel_after_ms: wait.filter(|_| goes_away),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to choose prompts.
pub struct Random(u64);

impl Random {
    /// Numbers that depend on the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `0..bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of these; there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// From `low` to `high`, both included.
    pub fn within(&mut self, [low, high]: [u64; 2]) -> u64 {
        low + self.below(high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenarios() -> Vec<Scenario> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files = std::fs::read_dir(folder).unwrap();
        files
            .map(|file| Scenario::read(&file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn the_committed_scenarios_are_valid_and_bounded() {
        let scenarios = scenarios();
        assert!(scenarios.len() >= 5);
        for scenario in scenarios {
            assert!(scenario.time_limit_s <= 600, "{}", scenario.name);
            assert_eq!(
                scenario.build("m").len(),
                scenario.warm_up + scenario.requests
            );
        }
    }

    #[test]
    fn a_scenario_sends_the_same_requests_every_time() {
        for scenario in scenarios() {
            let bodies = || {
                scenario
                    .build("m")
                    .into_iter()
                    .map(|r| r.body)
                    .collect::<Vec<_>>()
            };
            assert_eq!(bodies(), bodies());
        }
    }

    #[test]
    fn kinds_are_drawn_by_weight_and_go_away_by_percent() {
        let scenario: Scenario = toml::from_str(
            r#"
            name = "x"
            requests = 1000
            concurrency = 1
            time_limit_s = 1
            thresholds = { max_error_percent = 0.0 }
            [[mix]]
            weight = 3
            endpoint = "chat"
            prompts = ["a"]
            [[mix]]
            endpoint = "completions"
            prompts = ["b"]
            cancel_percent = 50
            cancel_after_ms = [5, 9]
            "#,
        )
        .unwrap();
        let requests = scenario.build("m");
        let chats = requests
            .iter()
            .filter(|r| r.path == "/v1/chat/completions")
            .count();
        assert!((700..800).contains(&chats), "{chats}");
        let waits: Vec<u64> = requests.iter().filter_map(|r| r.cancel_after_ms).collect();
        assert!((90..160).contains(&waits.len()), "{}", waits.len());
        assert!(waits.iter().all(|wait| (5..=9).contains(wait)));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut scenario = scenarios().remove(0);
        scenario.mix[0].filler_words = Some([2, 1]);
        assert!(scenario.check().is_err());
        scenario.mix.clear();
        assert!(scenario.check().is_err());
    }
}
