//! What is said once, when everything is up: what was loaded, on what, how much fits, and where to talk to it.
//!
//! Knows how to say it. Invariant: the server's address is in it, with the port that was really taken.

use std::net::SocketAddr;

use gossamer_engine::EngineInfo;
use gossamer_scheduler::Capacity;

use crate::config::{Config, format_size};

/// Lengths of sequences that give a feeling for the cache, beside the longest possible.
const LENGTHS: [usize; 2] = [1024, 8192];

/// The banner.
pub fn banner(
    config: &Config,
    info: &EngineInfo,
    capacity: &Capacity,
    max_sequence_len: usize,
    address: SocketAddr,
) -> String {
    let blocks = capacity
        .groups
        .iter()
        .map(|group| group.num_blocks)
        .min()
        .unwrap_or(0);
    let chosen = if config.engine.kv_cache_bytes.is_none() {
        " (auto)"
    } else {
        ""
    };
    let aliases = match config.model.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(", also called {}", aliases.join(", ")),
    };
    let lines = [
        ("model", format!("{}{aliases}", config.model.name)),
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
        (
            "compute",
            format!(
                "{}, {} kernels, {} weights, {} threads",
                info.backend,
                info.kernels,
                info.weights.name(),
                info.num_threads
            ),
        ),
        (
            "KV cache",
            format!(
                "{}{chosen}: {blocks} blocks of {} tokens",
                mib(info.kv_cache_bytes),
                capacity.block_size
            ),
        ),
        (
            "",
            format!(
                "holds {}",
                holds(capacity.block_size, blocks, max_sequence_len)
            ),
        ),
        (
            "limits",
            format!(
                "{} sequences at a time, {} waiting, {} tokens per step",
                config.scheduler.max_num_seqs,
                config.scheduler.max_waiting,
                config.scheduler.max_num_batched_tokens
            ),
        ),
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
    for (name, text) in lines {
        out.push_str(&format!("  {name:<9} {text}\n"));
    }
    out
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

/// "32 sequences of 1024 tokens, 4 sequences of 8192 tokens": how many whole sequences of a length the blocks hold.
fn holds(block_size: usize, blocks: usize, longest: usize) -> String {
    let lengths = LENGTHS
        .into_iter()
        .filter(|length| *length < longest)
        .chain([longest]);
    let parts: Vec<String> = lengths
        .map(|length| {
            let count = blocks / length.div_ceil(block_size).max(1);
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
    use super::*;

    #[test]
    fn how_much_a_cache_holds() {
        assert_eq!(
            holds(16, 1024, 131_072),
            "16 sequences of 1024 tokens, 2 sequences of 8192 tokens, 0 sequences of 131072 tokens"
        );
        assert_eq!(holds(16, 10, 160), "1 sequence of 160 tokens");
        assert_eq!(
            holds(16, 128, 2000),
            "2 sequences of 1024 tokens, 1 sequence of 2000 tokens"
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
