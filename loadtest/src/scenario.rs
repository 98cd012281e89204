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
    /// Requests at the same time, each client sending its next one when it has the answer to its last. This, or
    /// `arrivals_per_s`.
    #[serde(default)]
    pub concurrency: usize,
    /// Requests arrive by themselves, so many a second in the mean, however many are being answered: a Poisson process.
    #[serde(default)]
    pub arrivals_per_s: Option<f64>,
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
    /// One is drawn per request. Or `prompt_tokens`.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// The prompt is so many random token ids, at least and at most: lengths that every server sees alike.
    #[serde(default)]
    pub prompt_tokens: Option<[u64; 2]>,
    /// `max_tokens` of each request is drawn, at least and at most.
    #[serde(default)]
    pub max_tokens: Option<[u64; 2]>,
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

/// Ids of ordinary tokens in GPT-OSS's vocabulary: all before the special ones.
const ORDINARY_TOKENS: u64 = 199_998;

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
        if self.requests == 0 || self.time_limit_s == 0 {
            return Err("requests and time_limit_s must be at least 1".to_owned());
        }
        match self.arrivals_per_s {
            None if self.concurrency == 0 => {
                return Err("either concurrency or arrivals_per_s is needed".to_owned());
            }
            Some(_) if self.concurrency > 0 => {
                return Err("concurrency and arrivals_per_s exclude each other".to_owned());
            }
            Some(rate) if !(rate.is_finite() && rate > 0.0) => {
                return Err("arrivals_per_s must be more than 0".to_owned());
            }
            _ => {}
        }
        if self.mix.iter().map(|kind| kind.weight).sum::<u64>() == 0 {
            return Err("mix needs a kind with a weight".to_owned());
        }
        for kind in &self.mix {
            if kind.prompts.is_empty() == kind.prompt_tokens.is_none() {
                return Err("a kind needs either prompts or prompt_tokens".to_owned());
            }
            if kind.prompt_tokens.is_some()
                && (kind.endpoint == Endpoint::Chat || kind.filler_words.is_some())
            {
                return Err("prompt_tokens go to completions, without filler_words".to_owned());
            }
            if kind.cancel_percent > 0 && kind.cancel_after_ms.is_none() {
                return Err("cancel_percent needs cancel_after_ms".to_owned());
            }
            let ranges = [
                kind.filler_words,
                kind.cancel_after_ms,
                kind.prompt_tokens,
                kind.max_tokens,
            ];
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

    /// When each measured request arrives, in seconds from the first moment on; `None` if clients take turns instead.
    pub fn arrivals(&self) -> Option<Vec<f64>> {
        let rate = self.arrivals_per_s?;
        // Not the stream of `build`: another rate must not change the requests.
        let mut random = Random(!self.seed);
        let mut at = 0.0;
        let times = (0..self.requests).map(|_| {
            at += -(1.0 - random.unit()).ln() / rate;
            at
        });
        Some(times.collect())
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
        let prompt = match self.prompt_tokens {
            Some(range) => {
                let count = random.within(range);
                json!(
                    (0..count)
                        .map(|_| random.below(ORDINARY_TOKENS))
                        .collect::<Vec<_>>()
                )
            }
            None => {
                text.push_str(&self.prompts[random.below(self.prompts.len() as u64) as usize]);
                json!(text)
            }
        };

        let mut body = self.body.clone();
        if let Some(range) = self.max_tokens {
            body.insert("max_tokens".into(), json!(random.within(range)));
        }
        body.insert("model".into(), json!(model));
        body.insert("stream".into(), json!(self.stream));
        if self.stream {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        let path = match self.endpoint {
            Endpoint::Chat => {
                body.insert(
                    "messages".into(),
                    json!([{"role": "user", "content": prompt}]),
                );
                "/v1/chat/completions"
            }
            Endpoint::Completions => {
                body.insert("prompt".into(), prompt);
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

    /// In `0.0..1.0`, evenly.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
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

    fn ragged() -> Scenario {
        toml::from_str(
            r#"
            name = "ragged"
            requests = 2000
            arrivals_per_s = 4.0
            time_limit_s = 1
            thresholds = { max_error_percent = 0.0 }
            [[mix]]
            endpoint = "completions"
            prompt_tokens = [20, 600]
            max_tokens = [16, 200]
            body = { ignore_eos = true }
            "#,
        )
        .unwrap()
    }

    #[test]
    fn arrivals_have_the_rate_asked_for_and_do_not_change_the_requests() {
        let mut scenario = ragged();
        scenario.check().unwrap();
        let times = scenario.arrivals().unwrap();
        assert!(times.is_sorted() && times.len() == 2000);
        assert!((450.0..550.0).contains(&times[1999]), "{}", times[1999]);
        let bodies = |scenario: &Scenario| -> Vec<String> {
            scenario.build("m").into_iter().map(|r| r.body).collect()
        };
        let before = bodies(&scenario);
        scenario.arrivals_per_s = Some(8.0);
        assert_eq!(before, bodies(&scenario));
        let faster = scenario.arrivals().unwrap();
        assert!((faster[1999] * 2.0 - times[1999]).abs() < 1e-6);
    }

    #[test]
    fn token_prompts_and_answers_have_lengths_within_their_ranges() {
        for request in ragged().build("m") {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let prompt = body["prompt"].as_array().unwrap();
            assert!((20..=600).contains(&prompt.len()));
            assert!(
                prompt
                    .iter()
                    .all(|id| id.as_u64().unwrap() < ORDINARY_TOKENS)
            );
            assert!((16..=200).contains(&body["max_tokens"].as_u64().unwrap()));
            assert_eq!(body["ignore_eos"], true);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let changes: [fn(&mut Scenario); 7] = [
            |scenario| scenario.concurrency = 1,
            |scenario| scenario.arrivals_per_s = None,
            |scenario| scenario.arrivals_per_s = Some(0.0),
            |scenario| scenario.mix[0].prompts.push("a".to_owned()),
            |scenario| scenario.mix[0].prompt_tokens = None,
            |scenario| scenario.mix[0].endpoint = Endpoint::Chat,
            |scenario| scenario.mix[0].max_tokens = Some([2, 1]),
        ];
        for change in changes {
            let mut scenario = ragged();
            change(&mut scenario);
            assert!(scenario.check().is_err());
        }
        let mut scenario = scenarios().remove(0);
        scenario.mix[0].filler_words = Some([2, 1]);
        assert!(scenario.check().is_err());
        scenario.mix.clear();
        assert!(scenario.check().is_err());
    }
}
