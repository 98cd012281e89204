//! What is said once, when everything is up: what was loaded, on what, how much fits, and where to talk to it.
//!
//! Knows how to say it. Invariant: the server's address is in it, with the port that was really taken.

use std::net::SocketAddr;

#[cfg(feature = "mistralrs")]
use gossamer_api::ServerInfo;
use gossamer_engine::EngineInfo;
#[cfg(feature = "mistralrs")]
use gossamer_mistralrs::MistralEngine;
use gossamer_scheduler::Capacity;

use crate::config::{Config, format_size};

/// Lengths of sequences that give a feeling for the cache, beside the longest possible.
const LENGTHS: [usize; 2] = [1024, 8192];

/// Lines of the banner: a name, perhaps empty, and what is said of it.
pub type Facts = Vec<(&'static str, String)>;

/// What our own engine has loaded, and how much fits.
pub fn local(
    config: &Config,
    info: &EngineInfo,
    capacity: &Capacity,
    max_sequence_len: usize,
) -> Facts {
    let chosen = match (&info.kv_cache_reason, config.engine.kv_cache_bytes) {
        (Some(reason), _) => format!(" (auto: {reason})"),
        (None, None) => " (auto)".to_owned(),
        (None, Some(_)) => String::new(),
    };
    let repacked = info.repack_cache.as_ref();
    let repacked = repacked.map(|outcome| ("", format!("repacked weights: {outcome}")));
    let model = vec![
        ("model", named(config)),
        (
            "",
            format!(
                "{}, {} layers, {} parameters, {} of weights",
                info.architecture,
                info.num_layers,
                rounded(info.num_parameters),
                mib(info.weight_bytes)
            ),
        ),
        ("compute", compute(info)),
    ];
    let room = [
        (
            "KV cache",
            format!(
                "{}{chosen}: {} blocks of {} tokens{}",
                mib(info.kv_cache_bytes),
                capacity.num_blocks,
                capacity.block_size,
                windows(capacity)
            ),
        ),
        ("", format!("holds {}", holds(capacity, max_sequence_len))),
        (
            "limits",
            format!(
                "{} sequences at a time, {} waiting, {} tokens per step",
                config.scheduler.max_num_seqs,
                config.scheduler.max_waiting,
                config.scheduler.max_num_batched_tokens
            ),
        ),
    ];
    model.into_iter().chain(repacked).chain(room).collect()
}

/// What mistral.rs has loaded.
#[cfg(feature = "mistralrs")]
pub fn mistralrs(config: &Config, info: &ServerInfo, engine: &MistralEngine) -> Facts {
    use gossamer_api::text_engine::TextEngine;

    let asked = config.scheduler.max_num_seqs;
    let at_a_time = match engine.max_num_seqs() {
        1 if asked > 1 => {
            "1 sequence at a time (on the CPU mistral.rs computes batches wrong)".to_owned()
        }
        1 => "1 sequence at a time".to_owned(),
        more => format!("{more} sequences at a time"),
    };
    vec![
        ("model", named(config)),
        (
            "",
            format!(
                "{}, {} of weights",
                info.architecture,
                mib(info.weight_bytes)
            ),
        ),
        ("compute", format!("mistral.rs on {}", info.backend)),
        (
            "limits",
            format!(
                "{at_a_time}, {} waiting, {} tokens each",
                config.scheduler.max_waiting,
                engine.max_sequence_len()
            ),
        ),
    ]
}

/// The model's names.
fn named(config: &Config) -> String {
    let aliases = match config.model.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(", also called {}", aliases.join(", ")),
    };
    format!("{}{aliases}", config.model.name)
}

/// The banner, with what there is to say about the engine.
pub fn banner(config: &Config, facts: &Facts, address: SocketAddr) -> String {
    let lines = [
        ("access", access(config, address).to_owned()),
        ("address", format!("http://{address}")),
        (
            "",
            "/v1/chat/completions  /v1/responses  /v1/completions  /v1/models  /health  /ready  /metrics  /info"
                .to_owned(),
        ),
    ];
    let environment = config.environment.name();
    let mut out = format!("Gossamer {} ({environment})\n", env!("CARGO_PKG_VERSION"));
    for (name, text) in facts.iter().chain(&lines) {
        out.push_str(&format!("  {name:<9} {text}\n"));
    }
    out
}

/// "cpu, avx2 kernels, int8 weights, 4 threads", or "cuda (NVIDIA H200), mistral.rs 0.8.1 kernels, int8 weights".
fn compute(info: &EngineInfo) -> String {
    let device = info.device.as_ref();
    let device = device.map_or(String::new(), |name| format!(" ({name})"));
    let threads = match info.num_threads {
        0 => String::new(),
        threads => format!(", {threads} threads"),
    };
    format!(
        "{}{device}, {} kernels, {} weights{threads}",
        info.backend,
        info.kernels,
        info.weights.name()
    )
}

/// Who may use the server.
fn access(config: &Config, address: SocketAddr) -> &'static str {
    if config.auth.is_on() {
        "for whoever has a key or a token"
    } else if address.ip().to_canonical().is_loopback() {
        "for everybody on this machine"
    } else {
        "for everybody who reaches the address (insecure)"
    }
}

/// ", those behind a window of 128 given back".
fn windows(capacity: &Capacity) -> String {
    let windows = capacity.groups.iter().filter_map(|group| group.window);
    windows
        .map(|window| format!(", those behind a window of {window} given back"))
        .collect()
}

/// "32 sequences of 1024 tokens, 4 sequences of 8192 tokens": how many whole sequences of a length the blocks hold while
/// they decode.
fn holds(capacity: &Capacity, longest: usize) -> String {
    let lengths = LENGTHS
        .into_iter()
        .filter(|length| *length < longest)
        .chain([longest]);
    let parts: Vec<String> = lengths
        .map(|length| {
            let count = capacity.num_blocks / capacity.blocks_held(length, 1).max(1);
            let plural = if count == 1 { "sequence" } else { "sequences" };
            format!("{count} {plural} of {length} tokens")
        })
        .collect();
    parts.join(", ")
}

/// Three digits and a unit: "20.9 G".
fn rounded(number: u64) -> String {
    for (unit, size) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        let value = number as f64 / size;
        if value >= 1.0 {
            return format!("{value:.1} {unit}");
        }
    }
    number.to_string()
}

/// Whole MiB, in the largest unit that says it exactly.
fn mib(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format_size(bytes),
        mib => format_size(mib << 20),
    }
}

#[cfg(test)]
mod tests {
    use gossamer_scheduler::KvGroup;

    use super::*;

    #[test]
    fn how_much_a_cache_holds() {
        let capacity = |num_blocks, windows: &[Option<usize>]| Capacity {
            block_size: 16,
            max_model_len: 131_072,
            num_blocks,
            block_bytes: 1,
            groups: windows.iter().map(|&window| KvGroup { window }).collect(),
        };
        assert_eq!(
            holds(&capacity(1024, &[None]), 131_072),
            "16 sequences of 1024 tokens, 2 sequences of 8192 tokens, 0 sequences of 131072 tokens"
        );
        assert_eq!(
            holds(&capacity(10, &[None]), 160),
            "1 sequence of 160 tokens"
        );
        assert_eq!(
            holds(&capacity(128, &[None]), 2000),
            "2 sequences of 1024 tokens, 1 sequence of 2000 tokens"
        );
        // Twice as many blocks of half the size, of which a sequence keeps one in 16 tokens and 9 in a window.
        let windows = [None, Some(128)];
        assert_eq!(
            holds(&capacity(2048, &windows), 131_072),
            "28 sequences of 1024 tokens, 3 sequences of 8192 tokens, 0 sequences of 131072 tokens"
        );
        assert_eq!(
            super::windows(&capacity(2048, &windows)),
            ", those behind a window of 128 given back"
        );
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(rounded(20_914_757_184), "20.9 G");
        assert_eq!(rounded(999), "999");
        assert_eq!(mib((256 << 20) + 5), "256MiB");
        assert_eq!(mib(1000), "1000");
    }
}
