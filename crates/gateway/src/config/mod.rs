//! Configuration: what was given ([`RawConfig`]) becomes what is used ([`Config`]), once, before anything starts.
//!
//! Knows nothing of the model: `auto` stays `None` here and is decided where the model is known.
//! Invariant: a `Config` is within every bound of the table in `keys.rs`.

mod error;
mod keys;
mod raw;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gossamer_api::auth::{AuthConfig, Clock, JwtAlgorithm, JwtConfig, Limits, Scopes};
use gossamer_api::{KeptBounds, StoreConfig};
use gossamer_engine::{DeviceChoice, KvDtype, WeightFormat};
use gossamer_scheduler::Speculation;

use crate::hub::HubModel;

pub use error::ConfigError;
pub use keys::{KEYS, Key};
pub use raw::{Origin, RawConfig, Setting};
pub use value::{Kind, Value, format_size};

/// The name of the model that is part of the binary.
pub const EMBEDDED_MODEL: &str = "tiny";

const HOUR: Duration = Duration::from_secs(3600);

/// Where the process runs; given by `GOSSAMER_ENV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    Development,
    /// Loads nothing but the embedded model.
    Testing,
    Production,
}

impl Environment {
    const NAMES: [(&str, Environment); 3] = [
        ("development", Environment::Development),
        ("testing", Environment::Testing),
        ("production", Environment::Production),
    ];

    /// Reads the variable's text; nothing means development.
    ///
    /// # Errors
    /// Not one of the three names.
    pub fn parse(text: Option<&str>) -> Result<Self, ConfigError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Environment::Development);
        };
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, environment)| *environment)
            .ok_or_else(|| ConfigError::Value {
                origin: Origin::Env("GOSSAMER_ENV".to_owned()),
                key: "GOSSAMER_ENV".to_owned(),
                given: format!("\"{text}\""),
                expected: "development, testing or production".to_owned(),
            })
    }

    /// The name as in `GOSSAMER_ENV`.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES
            .iter()
            .find(|(_, environment)| *environment == self);
        found.map_or("", |(name, _)| name)
    }
}

/// Everything, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    pub environment: Environment,
    pub server: Server,
    pub model: Model,
    pub engine: Engine,
    pub scheduler: Scheduler,
    pub api: Api,
    /// `[responses]`; `None`: none is kept.
    pub responses: Option<StoreConfig>,
    pub auth: Auth,
    pub log: Log,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    pub host: String,
    pub port: u16,
    /// `None`: from the machine.
    pub workers: Option<usize>,
    pub max_body_bytes: usize,
    /// Of all bodies together.
    pub max_body_memory_bytes: usize,
    /// Of each worker.
    pub max_connections: usize,
    /// How long a head may take to arrive.
    pub request_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a client may go without reading.
    pub write_timeout: Duration,
    pub keep_alive: Duration,
    pub shutdown_timeout: Duration,
    /// `*`, or origins without a trailing slash.
    pub cors_origins: Vec<String>,
}

/// `[model]`
#[derive(Clone, Debug)]
pub struct Model {
    pub source: ModelPath,
    pub name: String,
    pub aliases: Vec<String>,
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelPath {
    /// In the binary.
    Embedded,
    Folder(PathBuf),
    /// At a hub, or in the cache of what came from there.
    Hub(HubModel),
}

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// Ours.
    Local,
    /// mistral.rs.
    Mistralrs,
}

/// `[engine]`; `None` is `auto`.
#[derive(Clone, Debug)]
pub struct Engine {
    pub kind: EngineKind,
    pub device: DeviceChoice,
    pub threads: Option<usize>,
    pub kernels: Option<String>,
    pub weights: WeightFormat,
    pub repack_cache: Option<PathBuf>,
    pub block_size: usize,
    pub kv_cache_bytes: Option<u64>,
    pub kv_cache_percent: u8,
    pub kv_cache_dtype: KvDtype,
    pub window_groups: bool,
    pub max_model_len: Option<usize>,
}

/// `[scheduler]`
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub max_num_batched_tokens: usize,
    pub max_num_seqs: usize,
    pub max_waiting: usize,
    pub queue_timeout: Option<Duration>,
    pub enable_prefix_caching: bool,
    pub speculation: Speculation,
}

/// `[api]`
#[derive(Clone, Debug)]
pub struct Api {
    pub reasoning_content: bool,
    pub constrain_headers: bool,
    /// `None`: what fits behind the prompt.
    pub default_max_tokens: Option<usize>,
    pub max_n: u32,
    /// Of turns with a tool call.
    pub kept: KeptBounds,
    pub heartbeat: Option<Duration>,
    pub retry_after: Duration,
    /// The date that the model is told, `YYYY-MM-DD`; `None`: today.
    pub date: Option<String>,
}

/// `[auth]` and `[limits]`
#[derive(Clone, Debug)]
pub struct Auth {
    pub config: AuthConfig,
    /// Nobody has to be asked for a credential, wherever the server listens.
    pub insecure: bool,
}

impl Auth {
    /// Whether anybody is asked for a credential.
    pub fn is_on(&self) -> bool {
        self.config.key_file.is_some() || self.config.jwt.is_some()
    }
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    pub json: bool,
    pub level: tracing::Level,
}

impl Log {
    /// For a verb that somebody watches.
    pub const TO_A_PERSON: Self = Self {
        json: false,
        level: tracing::Level::INFO,
    };
}

impl Config {
    /// Resolves what was given.
    ///
    /// # Errors
    /// Values that are each within their bounds but do not go together.
    pub fn resolve(raw: &RawConfig, environment: Environment) -> Result<Self, ConfigError> {
        let get = Get(raw);
        let config = Config {
            environment,
            server: Server {
                host: get.text("server.host"),
                port: get.number("server.port") as u16,
                workers: get.optional("server.workers"),
                max_body_bytes: get.number("server.max_body_bytes"),
                max_body_memory_bytes: get.number("server.max_body_memory_bytes"),
                max_connections: get.number("server.max_connections"),
                request_timeout: get.duration("server.request_timeout_ms"),
                body_timeout: get.duration("server.body_timeout_ms"),
                write_timeout: get.duration("server.write_timeout_ms"),
                keep_alive: get.duration("server.keep_alive_ms"),
                shutdown_timeout: get.duration("server.shutdown_timeout_ms"),
                cors_origins: get.list("server.cors_origins"),
            },
            model: model(&get),
            engine: Engine {
                kind: match get.text("engine.kind").as_str() {
                    "mistralrs" => EngineKind::Mistralrs,
                    _ => EngineKind::Local,
                },
                device: match get.text("engine.device").as_str() {
                    "cpu" => DeviceChoice::Cpu,
                    "metal" => DeviceChoice::Metal,
                    "cuda" => DeviceChoice::Cuda,
                    _ => DeviceChoice::Auto,
                },
                threads: get.optional("engine.threads"),
                kernels: Some(get.text("engine.kernels")).filter(|isa| isa != "auto"),
                weights: match get.text("engine.weights").as_str() {
                    "bf16" => WeightFormat::Bf16,
                    _ => WeightFormat::Int8,
                },
                repack_cache: get.given("engine.repack_cache").map(PathBuf::from),
                block_size: get.number("engine.block_size"),
                kv_cache_bytes: get.optional("engine.kv_cache_bytes").map(|n| n as u64),
                // The table bounds it by 100.
                kv_cache_percent: get.number("engine.kv_cache_percent") as u8,
                kv_cache_dtype: match get.text("engine.kv_cache_dtype").as_str() {
                    "int8" => KvDtype::Int8,
                    _ => KvDtype::Bf16,
                },
                window_groups: get.truth("engine.window_groups"),
                max_model_len: get.optional("engine.max_model_len"),
            },
            scheduler: Scheduler {
                max_num_batched_tokens: get.number("scheduler.max_num_batched_tokens"),
                max_num_seqs: get.number("scheduler.max_num_seqs"),
                max_waiting: get.number("scheduler.max_waiting"),
                queue_timeout: get.optional_duration("scheduler.queue_timeout_ms"),
                enable_prefix_caching: get.truth("scheduler.enable_prefix_caching"),
                speculation: match get.text("scheduler.speculation").as_str() {
                    "off" => Speculation::Off,
                    _ => Speculation::Auto,
                },
            },
            api: Api {
                reasoning_content: get.truth("api.reasoning_content"),
                constrain_headers: get.truth("api.constrain_headers"),
                default_max_tokens: get.optional("api.default_max_tokens"),
                max_n: get.number("api.max_n") as u32,
                kept: KeptBounds {
                    turns: get.number("api.kept_turns"),
                    bytes: get.number("api.kept_turns_bytes"),
                    time_to_live: get.duration("api.kept_turns_ttl_ms"),
                },
                heartbeat: get.optional_duration("api.heartbeat_ms"),
                retry_after: get.duration("api.retry_after_ms"),
                date: Some(get.text("api.date")).filter(|date| date != "auto"),
            },
            responses: get
                .optional("responses.max_count")
                .map(|count| StoreConfig {
                    path: get.given("responses.store").map(PathBuf::from),
                    max_count: count as u64,
                    max_bytes: get.number("responses.max_bytes") as u64,
                    max_age: HOUR * get.number("responses.max_age_hours") as u32,
                }),
            auth: auth(&get)?,
            log: Log {
                json: get.text("log.format") == "json",
                level: get
                    .text("log.level")
                    .parse()
                    .unwrap_or(tracing::Level::INFO),
            },
        };
        config.check(raw)?;
        Ok(config)
    }

    fn check(&self, raw: &RawConfig) -> Result<(), ConfigError> {
        if self.environment == Environment::Testing && self.model.source != ModelPath::Embedded {
            let setting = raw.get("model.path");
            return Err(ConfigError::Conflict(format!(
                "GOSSAMER_ENV is testing, which never loads anything but the embedded model, but {}: model.path is \"{}\"",
                setting.origin, setting.value
            )));
        }
        let refuse = |key: &str, expected: &str| {
            let Setting { value, origin } = raw.get(key);
            Err(ConfigError::Value {
                origin: origin.clone(),
                key: key.to_owned(),
                given: value.to_toml(),
                expected: expected.to_owned(),
            })
        };
        if self.server.max_body_memory_bytes < self.server.max_body_bytes {
            return refuse(
                "server.max_body_memory_bytes",
                "at least server.max_body_bytes, or no such body can be read",
            );
        }
        if !self.server.cors_origins.iter().all(|text| is_origin(text)) {
            return refuse(
                "server.cors_origins",
                "origins as a browser sends them (scheme://host or scheme://host:port, without a path), or \"*\"",
            );
        }
        let is_folder = matches!(self.model.source, ModelPath::Folder(_));
        if self.engine.kind == EngineKind::Mistralrs {
            refuse_what_only_local_has(raw)?;
            if !is_folder {
                return refuse(
                    "model.path",
                    "a folder or a .gguf file where engine.kind is \"mistralrs\", which neither has a model inside nor \
                     downloads one",
                );
            }
        }
        if !self.engine.block_size.is_power_of_two() {
            return refuse("engine.block_size", "8, 16 or 32");
        }
        if self.api.date.as_deref().is_some_and(|date| !is_date(date)) {
            return refuse("api.date", "a date as YYYY-MM-DD, or \"auto\"");
        }
        Ok(())
    }
}

/// Refuses settings that only our own engine has: whoever gave them believes in something that is not so.
fn refuse_what_only_local_has(raw: &RawConfig) -> Result<(), ConfigError> {
    const OTHERS: &[&str] = &[
        "scheduler.max_num_batched_tokens",
        "scheduler.enable_prefix_caching",
        "api.constrain_headers",
        "api.date",
        "api.kept_turns",
        "api.kept_turns_bytes",
        "api.kept_turns_ttl_ms",
    ];
    const SHARED: &[&str] = &["kind", "max_model_len"];
    let concerns = |key: &&Key| match key.section {
        "engine" => !SHARED.contains(&key.name),
        _ => OTHERS.contains(&key.path().as_str()),
    };
    for key in KEYS.iter().filter(concerns) {
        let Setting { value, origin } = raw.get(&key.path());
        if *value != key.default_value() {
            return Err(ConfigError::Conflict(format!(
                "{origin}: {} has no meaning where engine.kind is \"mistralrs\"",
                key.path()
            )));
        }
    }
    Ok(())
}

fn model(get: &Get<'_>) -> Model {
    let path = get.text("model.path");
    let source = match HubModel::parse(&path) {
        _ if path == EMBEDDED_MODEL => ModelPath::Embedded,
        // A folder may look like a repository's name.
        Some(model) if !Path::new(&path).is_dir() && !path.ends_with(".gguf") => {
            ModelPath::Hub(model)
        }
        _ => ModelPath::Folder(PathBuf::from(&path)),
    };
    let name = match (&get.0.get("model.name").value, &source) {
        (Value::Text(name), _) => name.clone(),
        (_, ModelPath::Embedded) => format!("gossamer-{EMBEDDED_MODEL}"),
        (_, ModelPath::Folder(folder)) => folder_name(folder).unwrap_or(path),
        (_, ModelPath::Hub(model)) => model.name().to_owned(),
    };
    let aliases = get.list("model.aliases");
    Model {
        source,
        name,
        aliases,
    }
}

/// Whether a browser could send this as `Origin`, or it stands for all of them.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return text == "*";
    };
    let ordinary = |c: char| c.is_ascii_graphic() && !"/?#@*,".contains(c);
    !scheme.is_empty() && !host.is_empty() && text.replace("://", "").chars().all(ordinary)
}

fn auth(get: &Get<'_>) -> Result<Auth, ConfigError> {
    let file = |path| get.given(path).map(PathBuf::from);
    let refuse = |key: &str, expected: String| {
        let Setting { value, origin } = get.0.get(key);
        Err(ConfigError::Value {
            origin: origin.clone(),
            key: key.to_owned(),
            given: value.to_toml(),
            expected,
        })
    };
    let names = get.list("auth.jwt_algorithms");
    let algorithms: Option<Vec<JwtAlgorithm>> =
        names.iter().map(|name| JwtAlgorithm::parse(name)).collect();
    let Some(algorithms) = algorithms.filter(|algorithms| !algorithms.is_empty()) else {
        let known: Vec<&str> = JwtAlgorithm::names().collect();
        return refuse(
            "auth.jwt_algorithms",
            format!("a list of some of {}", known.join(", ")),
        );
    };
    let scopes = get.list("auth.anonymous_scopes");
    let Ok(anonymous_scopes) = Scopes::parse(scopes.iter().map(String::as_str)) else {
        return refuse(
            "auth.anonymous_scopes",
            format!("a list of some of {}", Scopes::ALL),
        );
    };
    let jwt = JwtConfig {
        secret_file: file("auth.jwt_secret_file"),
        public_key_file: file("auth.jwt_public_key_file"),
        jwks_file: file("auth.jwt_jwks_file"),
        algorithms,
        audience: get.list("auth.jwt_audience"),
        issuer: get.list("auth.jwt_issuer"),
        leeway_seconds: get.number("auth.jwt_leeway_seconds") as u64,
    };
    let has_jwt = [&jwt.secret_file, &jwt.public_key_file, &jwt.jwks_file]
        .into_iter()
        .any(Option::is_some);
    let limit = |key| get.optional(key).map(|limit| limit as u64);
    let auth = Auth {
        config: AuthConfig {
            key_file: file("auth.key_file"),
            jwt: has_jwt.then_some(jwt),
            anonymous_scopes,
            limits: Limits {
                requests_per_minute: limit("limits.requests_per_minute"),
                tokens_per_minute: limit("limits.tokens_per_minute"),
                concurrent_requests: limit("limits.concurrent_requests"),
            },
            clock: Clock::monotonic(),
        },
        insecure: get.truth("auth.insecure"),
    };
    // Settings that would have no effect: whoever gave them believes in something that is not so.
    for (key, has_effect) in [
        ("auth.anonymous_scopes", auth.is_on()),
        ("auth.jwt_audience", has_jwt),
        ("auth.jwt_issuer", has_jwt),
    ] {
        if !has_effect && !get.list(key).is_empty() {
            let origin = &get.0.get(key).origin;
            let needed = if key == "auth.anonymous_scopes" {
                "auth.key_file or one of the auth.jwt files"
            } else {
                "one of the auth.jwt files"
            };
            return Err(ConfigError::Conflict(format!(
                "{origin}: {key} has no meaning without {needed}"
            )));
        }
    }
    Ok(auth)
}

/// Whether a text has the form of a date: the model reads it, nothing computes with it.
fn is_date(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(shape).eq("0000-00-00".chars())
}

/// The last part of the path, also where it is written as `.` or ends in a slash.
fn folder_name(folder: &Path) -> Option<String> {
    let absolute = std::path::absolute(folder).ok()?;
    Some(absolute.file_name()?.to_string_lossy().into_owned())
}

/// Reads settings as plain types. The kinds of the table make every read succeed.
struct Get<'a>(&'a RawConfig);

impl Get<'_> {
    fn text(&self, path: &str) -> String {
        self.0.get(path).value.to_string()
    }

    /// A text that is not the kind's special word.
    fn given(&self, path: &str) -> Option<String> {
        match &self.0.get(path).value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        match &self.0.get(path).value {
            Value::List(items) => items.clone(),
            _ => Vec::new(),
        }
    }

    fn truth(&self, path: &str) -> bool {
        self.0.get(path).value == Value::Bool(true)
    }

    fn optional(&self, path: &str) -> Option<usize> {
        match self.0.get(path).value {
            Value::Int(number) | Value::Bytes(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    fn number(&self, path: &str) -> usize {
        self.optional(path)
            .expect("a test resolves the defaults, and kinds without a word are always numbers")
    }

    fn duration(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path) as u64)
    }

    fn optional_duration(&self, path: &str) -> Option<Duration> {
        self.optional(path)
            .map(|ms| Duration::from_millis(ms as u64))
    }
}

#[cfg(test)]
mod tests;
