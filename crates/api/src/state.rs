//! What the handlers share: the engine, the configuration, the metrics.
//!
//! Built once by whoever wires the server together and cloned into every worker.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gossamer_harmony::Tokenizer;
use gossamer_metrics::Metrics;

use crate::auth::Auth;
use crate::grammars::Grammars;
use crate::kept::{Keeper, KeptBounds, KeptTurns};
use crate::routes::BodyMemory;
use crate::routes::responses::Responses;
use crate::store::ResponseStore;
use crate::text_engine::Engine;
use crate::wire::models::ServerInfo;

/// Settings of the HTTP layer. The gateway fills in every field; there are no defaults here.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Id of the served model.
    pub model: String,
    /// Other names by which clients may ask for it; `claude-*` is every name that begins with `claude-`.
    pub model_aliases: Vec<String>,
    /// Largest request body, bytes.
    pub body_limit: usize,
    /// Most bytes that all bodies may take that are held at the same time.
    pub body_memory: usize,
    /// Longest time for a body to arrive.
    pub body_timeout: Duration,
    /// Largest `n`: choices per prompt. The scheduler's own bound holds in any case.
    pub max_choices: u32,
    /// Most tokens of a chat answer whose request does not say; `None` leaves the rest of the context.
    pub default_max_tokens: Option<usize>,
    /// How much is kept of turns that led to tool calls.
    pub kept: KeptBounds,
    /// Send the reasoning as `reasoning_content` too, not only as `reasoning`.
    pub reasoning_content: bool,
    /// Hold the headers of messages to their form, unless a request says otherwise.
    pub constrain_headers: bool,
    /// A comment is sent into a stream that has been silent for this long; `None` sends none.
    pub heartbeat: Option<Duration>,
    /// `Retry-After` of an answer that the server is too busy.
    pub retry_after: Duration,
    /// `system_fingerprint` of answers: changes when the same seed may give another text.
    pub system_fingerprint: Option<String>,
    /// The date that the model is told.
    pub date: PromptDate,
    /// Origins whose pages may use the API from a browser, as in `https://example.org`; `*` is any.
    pub cors_origins: Vec<String>,
}

impl ApiConfig {
    /// Whether a client may ask for this model.
    pub fn serves(&self, model: &str) -> bool {
        let is_meant = |alias: &String| match alias.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => alias == model,
        };
        self.model == model || self.model_aliases.iter().any(is_meant)
    }
}

/// The date that the model is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptDate {
    /// Today, UTC.
    Today,
    /// Always this one, `YYYY-MM-DD`: answers stay reproducible.
    Fixed(String),
}

impl PromptDate {
    /// `YYYY-MM-DD`.
    pub fn today(&self) -> String {
        match self {
            Self::Today => civil_date(unix_seconds() / 86_400),
            Self::Fixed(date) => date.clone(),
        }
    }
}

/// What every handler has. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    pub(crate) engine: Engine,
    pub(crate) metrics: Metrics,
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) info: Arc<ServerInfo>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) bodies: BodyMemory,
    pub(crate) grammars: Arc<Grammars>,
    pub(crate) responses: Arc<Responses>,
    kept: Arc<KeptTurns>,
    /// Turns the salts that clients choose into the scheduler's. Its keys are random, so nobody can look for two salts
    /// that are the same to it.
    salts: RandomState,
    pub(crate) started: Instant,
    /// Seconds since 1970 at the start; `created` of the models.
    pub(crate) created: i64,
}

impl AppState {
    /// Puts the parts together; call once, at start.
    pub fn new(
        engine: impl Into<Engine>,
        metrics: Metrics,
        config: ApiConfig,
        info: ServerInfo,
        auth: Auth,
        store: ResponseStore,
    ) -> Self {
        let engine = engine.into();
        if let Engine::Tokens(_) = engine {
            // Built on first use, which takes a while: now, and not under the first request.
            let _ = Tokenizer::get();
            gossamer_harmony::prepare_grammars();
        }
        Self {
            engine,
            metrics,
            kept: Arc::new(KeptTurns::new(config.kept)),
            config: Arc::new(config),
            info: Arc::new(info),
            auth: Arc::new(auth),
            bodies: BodyMemory::default(),
            grammars: Arc::new(Grammars::start()),
            responses: Arc::new(Responses::new(store)),
            salts: RandomState::new(),
            started: Instant::now(),
            created: unix_seconds(),
        }
    }

    /// Returns when no response is worked on in the background and all that have ended are kept.
    pub async fn settled(&self) {
        self.responses.settled().await;
    }

    /// Where the turns of this principal's requests are kept.
    pub(crate) fn keeper(&self, principal: Arc<str>) -> Keeper {
        Keeper::new(Arc::clone(&self.kept), principal)
    }

    /// The scheduler's salt for a client's; 0 stands for none.
    pub(crate) fn cache_salt(&self, salt: Option<&str>) -> u64 {
        salt.map_or(0, |salt| self.salts.hash_one(salt).max(1))
    }
}

/// Seconds since 1970; 0 on a clock before that.
pub fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// The Gregorian date `days` after 1970-01-01.
///
/// Counts years from March, so that the leap day is a year's last, in eras of 400 years = 146097 days
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
pub fn civil_date(days: i64) -> String {
    const DAYS_PER_ERA: i64 = 146_097;
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(DAYS_PER_ERA);
    let day_of_era = since_march_0000.rem_euclid(DAYS_PER_ERA);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates() {
        for (days, date) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_454, "2026-01-01"),
            (20_453, "2025-12-31"),
            (47_541, "2100-03-01"),
            (47_540, "2100-02-28"),
        ] {
            assert_eq!(civil_date(days), date, "day {days}");
        }
    }

    #[test]
    fn consecutive_days_have_consecutive_dates() {
        let mut seen = std::collections::BTreeSet::new();
        for days in 0..100_000 {
            let date = civil_date(days);
            assert!(seen.last().is_none_or(|last: &String| *last < date));
            seen.insert(date);
        }
    }
}
