//! Where log lines go and what they look like: standard error, text or JSON.
//!
//! Knows no messages. The request id is a field of the span that `api` opens, so every line within it carries it.
//! Invariant: standard output is left to the banner and the printing verbs.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;

/// Starts logging; call once.
pub fn init(log: &Log) {
    let level = LevelFilter::from_level(log.level);
    // Libraries below us speak at warn unless everything is wanted.
    let others = if level == LevelFilter::TRACE {
        level
    } else {
        level.min(LevelFilter::WARN)
    };
    // It calls every malformed request an error of its own; the api logs each as what it is, with an id.
    let dispatcher = if level >= LevelFilter::DEBUG {
        others
    } else {
        LevelFilter::OFF
    };
    let filter = Targets::new()
        .with_target("gossamer", level)
        .with_target("actix_http::h1::dispatcher", dispatcher)
        .with_default(others);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that somebody has set a subscriber before; then theirs stays.
    let _ = if log.json {
        registry.with(lines.json().with_span_list(false)).try_init()
    } else {
        registry.with(lines.with_ansi(false)).try_init()
    };
}
