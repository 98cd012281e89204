//! Every configuration key on one screen: its place in the file, its flag, its default, its meaning.
//!
//! The file reader, the environment reader, the command line, `gossamer config` and
//! `config/gossamer.toml` are all made from this table, so none of them can lag behind another.
//! Invariant: flags are unique, and every default is a value of its kind.

use super::value::{Kind, Value};

/// One configuration key.
#[derive(Debug)]
pub struct Key {
    /// Table in the file.
    pub section: &'static str,
    /// Name in that table.
    pub name: &'static str,
    /// Long flag without the dashes; the environment variable is made from it.
    pub flag: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// Default, in the form that a flag takes.
    pub default: &'static str,
    /// One or more sentences; the first is the flag's short help.
    pub help: &'static str,
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `GOSSAMER_` and the flag in capitals.
    pub fn env(&self) -> String {
        format!("GOSSAMER_{}", self.flag.replace('-', "_").to_uppercase())
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        self.kind
            .parse(self.default)
            .expect("a test parses every default")
    }
}

const AUTO: Option<&str> = Some("auto");
const OFF: Option<&str> = Some("off");

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int {
        min,
        max,
        word: None,
    }
}

const fn int_or(min: u64, max: u64, word: Option<&'static str>) -> Kind {
    Kind::Int { min, max, word }
}

const HOUR_MS: u64 = 3_600_000;

/// All keys, in the order of the file. Keys of one section stand together.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    Key { section: "server", name: "host", flag: "host", kind: Kind::Text { word: None }, default: "127.0.0.1",
        help: "Address to listen on. Anything but a loopback address opens the server to others, and needs credentials: see [auth]." },
    Key { section: "server", name: "port", flag: "port", kind: int(0, 65535), default: "8000",
        help: "TCP port. 0 takes a free one; the banner names it." },
    Key { section: "server", name: "workers", flag: "workers", kind: int_or(1, 256, AUTO), default: "auto",
        help: "Threads that serve HTTP. auto: one for every two cores, at most 4; they only move bytes, and the engine wants all cores." },
    Key { section: "server", name: "max_body_bytes", flag: "max-body-bytes", kind: Kind::Size { min: 1 << 10, max: 1 << 30, word: None }, default: "8MiB",
        help: "Largest request body; a larger one is answered with 413." },
    Key { section: "server", name: "max_body_memory_bytes", flag: "max-body-memory-bytes", kind: Kind::Size { min: 1 << 10, max: 1 << 40, word: None }, default: "256MiB",
        help: "Most memory for request bodies that are held at the same time, over all connections; a request beyond it is answered with 503." },
    Key { section: "server", name: "max_connections", flag: "max-connections", kind: int(1, 1 << 20), default: "1024",
        help: "Most open connections of each HTTP thread; further ones wait." },
    Key { section: "server", name: "request_timeout_ms", flag: "request-timeout-ms", kind: int(100, HOUR_MS), default: "10000",
        help: "How long a request's head may take to arrive, in milliseconds. Every head of a connection, and a new connection's silence." },
    Key { section: "server", name: "body_timeout_ms", flag: "body-timeout-ms", kind: int(100, HOUR_MS), default: "30000",
        help: "How long a request's body may take to arrive, in milliseconds." },
    Key { section: "server", name: "write_timeout_ms", flag: "write-timeout-ms", kind: int(100, HOUR_MS), default: "60000",
        help: "How long a client may go without reading what is sent to it, in milliseconds; then its request is cancelled." },
    Key { section: "server", name: "keep_alive_ms", flag: "keep-alive-ms", kind: int(1000, HOUR_MS), default: "75000",
        help: "How long an idle connection is kept, in milliseconds." },
    Key { section: "server", name: "shutdown_timeout_ms", flag: "shutdown-timeout-ms", kind: int(0, HOUR_MS), default: "30000",
        help: "After SIGTERM or SIGINT: how long running requests may still take, in milliseconds." },
    Key { section: "server", name: "cors_origins", flag: "cors-origins", kind: Kind::List, default: "",
        help: "Origins whose web pages may use the API from a browser, as in https://example.org; * allows every page. None: no page of another origin." },

    Key { section: "model", name: "path", flag: "model", kind: Kind::Text { word: None }, default: "tiny",
        help: "The model: tiny, which is part of the binary, a folder in the published gpt-oss layout, or a repository of the Hugging Face hub as openai/gpt-oss-20b, which is downloaded unless it is in the cache (HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured)." },
    Key { section: "model", name: "name", flag: "model-name", kind: Kind::Text { word: AUTO }, default: "auto",
        help: "Name that clients use. auto: gossamer-tiny for tiny, else the name of the folder or of the repository." },
    Key { section: "model", name: "aliases", flag: "model-aliases", kind: Kind::List, default: "",
        help: "More names for the same model, so that clients with a fixed name work unchanged; claude-* stands for every name that begins with claude-." },

    Key { section: "engine", name: "kind", flag: "engine", kind: Kind::Choice(&["local", "mistralrs"]), default: "local",
        help: "What runs the model. local: our own engine and scheduler, for GPT-OSS. mistralrs: mistral.rs, for other models (Llama, Qwen3, Gemma, ...) from a folder or a .gguf file; it is only in builds with the feature mistralrs, and of this section only max_model_len concerns it." },
    Key { section: "engine", name: "device", flag: "device", kind: Kind::Choice(&["auto", "cpu", "metal", "cuda"]), default: "auto",
        help: "What computes. metal and cuda are in binaries that were built with the feature of that name. auto: the GPU that the binary was built for if this machine has one, else the CPU (a binary for cuda needs NVIDIA's driver to start at all)." },
    Key { section: "engine", name: "threads", flag: "threads", kind: int_or(1, 1024, AUTO), default: "auto",
        help: "Threads that compute, on the CPU. auto: the cores that this process may use." },
    Key { section: "engine", name: "kernels", flag: "kernels", kind: Kind::Choice(&["auto", "scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-bf16", "neon", "neon-dotprod"]), default: "auto",
        help: "Instruction set of the CPU kernels. auto: the best that this machine has." },
    Key { section: "engine", name: "weights", flag: "weights", kind: Kind::Choice(&["int8", "bf16"]), default: "int8",
        help: "What is multiplied by; experts are MXFP4 in any case. int8: dense weights in eight bits (on the CPU repacked, activations too; AFQ8 on metal, Q8_0 on cuda). bf16: all as published; slower, and the reference." },
    Key { section: "engine", name: "repack_cache", flag: "repack-cache", kind: Kind::Text { word: Some("off") }, default: "off",
        help: "Folder in which int8 weights are kept as the CPU's kernels read them, so that the next start has them without repacking: one file as large as the weights for each model and instruction set, replaced when either changes; the embedded model is too small for it. off: they are repacked at every start." },
    Key { section: "engine", name: "block_size", flag: "block-size", kind: int(8, 32), default: "16",
        help: "Tokens per KV block: 8, 16 or 32." },
    Key { section: "engine", name: "kv_cache_bytes", flag: "kv-cache-bytes", kind: Kind::Size { min: 1 << 10, max: 1 << 44, word: AUTO }, default: "auto",
        help: "Memory for the KV cache. auto, on the CPU: a quarter of the memory that is free beside the weights, at most 4GiB and at most what the weights take (but 256MiB of that are always allowed), touched only as it is used. auto, on a GPU: kv_cache_percent of its memory." },
    Key { section: "engine", name: "kv_cache_percent", flag: "kv-cache-percent", kind: int(1, 100), default: "80",
        help: "With kv_cache_bytes = \"auto\" on a GPU: how much of its memory that is free beside the weights the KV cache takes, in percent; the rest is for activations. At most 4GiB on metal, where larger pools have been reported to stall; kv_cache_bytes goes beyond that." },
    Key { section: "engine", name: "kv_cache_dtype", flag: "kv-cache-dtype", kind: Kind::Choice(&["bf16", "int8"]), default: "bf16",
        help: "What keys and values are in the KV cache. int8: eight bits, with a scale for each head of each token: half the memory; on the CPU only. bf16 is closer to the model as published." },
    Key { section: "engine", name: "window_groups", flag: "window-groups", kind: Kind::Bool, default: "true",
        help: "Layers with a sliding window give back the KV blocks behind it, which is half of the cache of a long sequence. false: every layer keeps every block, to compare." },
    Key { section: "engine", name: "max_model_len", flag: "max-model-len", kind: int_or(1, 1 << 24, AUTO), default: "auto",
        help: "Most tokens of one sequence, prompt and output together. auto: the model's own limit, as far as the KV cache holds it." },

    Key { section: "scheduler", name: "max_num_batched_tokens", flag: "max-num-batched-tokens", kind: int(1, 1 << 20), default: "512",
        help: "Token budget of one step: decodes first, chunks of prefill with the rest. Smaller means smoother streams, larger means faster prompts." },
    Key { section: "scheduler", name: "max_num_seqs", flag: "max-num-seqs", kind: int(1, 65536), default: "64",
        help: "Most sequences that run at the same time." },
    Key { section: "scheduler", name: "max_waiting", flag: "max-waiting", kind: int(1, 1 << 20), default: "256",
        help: "Most requests in the queue; one more is answered with 429." },
    Key { section: "scheduler", name: "queue_timeout_ms", flag: "queue-timeout-ms", kind: int_or(1, HOUR_MS, OFF), default: "off",
        help: "A request that waited this long without starting fails with 503, in milliseconds." },
    Key { section: "scheduler", name: "enable_prefix_caching", flag: "enable-prefix-caching", kind: Kind::Bool, default: "true",
        help: "Reuse the KV blocks of equal prompt beginnings." },
    Key { section: "scheduler", name: "speculation", flag: "speculation", kind: Kind::Choice(&["auto", "off"]), default: "auto",
        help: "Draft tokens that repeat what stands before them and verify them in one step, on the CPU; answers stay the same. auto: while the drafts come true more often than their rows cost, by the steps' own times. off: never; a request may say so too." },

    Key { section: "api", name: "reasoning_content", flag: "reasoning-content", kind: Kind::Bool, default: "true",
        help: "Send the reasoning a second time as reasoning_content, for clients that know that name." },
    Key { section: "api", name: "constrain_headers", flag: "constrain-headers", kind: Kind::Bool, default: "true",
        help: "Hold the headers of the model's messages to their form: channels and declared functions only. false leaves them to the model, and what goes wrong to the parser; a request may choose with constrain_headers." },
    Key { section: "api", name: "default_max_tokens", flag: "default-max-tokens", kind: int_or(1, 1 << 24, AUTO), default: "auto",
        help: "Output limit of chat requests that set none. auto: what fits behind the prompt." },
    Key { section: "api", name: "max_n", flag: "max-n", kind: int(1, 128), default: "16",
        help: "Largest n of a request, and most prompts of a completions batch." },
    Key { section: "api", name: "kept_turns", flag: "kept-turns", kind: int(0, 1 << 24), default: "10000",
        help: "Most turns with a tool call that are kept until its result comes, so that reasoning which a client does not send back is not lost. 0 keeps none." },
    Key { section: "api", name: "kept_turns_bytes", flag: "kept-turns-bytes", kind: int(0, 1 << 40), default: "67108864",
        help: "Most bytes that kept turns may take, all keys together." },
    Key { section: "api", name: "kept_turns_ttl_ms", flag: "kept-turns-ttl-ms", kind: int(1, 24 * HOUR_MS), default: "3600000",
        help: "How long a turn is kept that nobody asks for, in milliseconds." },
    Key { section: "api", name: "heartbeat_ms", flag: "heartbeat-ms", kind: int_or(100, HOUR_MS, OFF), default: "15000",
        help: "A stream without news sends a comment after this time, so that proxies keep it open, in milliseconds." },
    Key { section: "api", name: "retry_after_ms", flag: "retry-after-ms", kind: int(1, HOUR_MS), default: "1000",
        help: "What Retry-After says when the server is too busy, in milliseconds; it is sent in whole seconds." },
    Key { section: "api", name: "date", flag: "date", kind: Kind::Text { word: AUTO }, default: "auto",
        help: "The date that the model is told, YYYY-MM-DD. auto: today, UTC." },

    Key { section: "responses", name: "store", flag: "response-store", kind: Kind::Text { word: Some("memory") }, default: "memory",
        help: "File in which responses are kept, for GET /v1/responses/{id} and previous_response_id. It is made if it is not there, and belongs to one server at a time. memory: they are gone when the server stops." },
    Key { section: "responses", name: "max_count", flag: "max-responses", kind: int_or(1, 1 << 40, OFF), default: "100000",
        help: "Most responses that are kept; the least recently used go first, of whichever key has the most. off: none is kept." },
    Key { section: "responses", name: "max_bytes", flag: "max-response-bytes", kind: Kind::Size { min: 1 << 20, max: 1 << 44, word: None }, default: "256MiB",
        help: "Most bytes of JSON of all responses that are kept. The file is somewhat larger." },
    Key { section: "responses", name: "max_age_hours", flag: "max-response-age-hours", kind: int(1, 24 * 36500), default: "720",
        help: "How long a response is kept that is not continued, in hours." },

    Key { section: "auth", name: "key_file", flag: "key-file", kind: Kind::Text { word: OFF }, default: "off",
        help: "File of API keys, written by `gossamer keys` and read again whenever it changes. With this or any of the jwt files, every route but /health asks for a credential." },
    Key { section: "auth", name: "jwt_secret_file", flag: "jwt-secret-file", kind: Kind::Text { word: OFF }, default: "off",
        help: "File with the secret of JSON Web Tokens signed with HS256; at least 32 bytes, a newline at the end does not count." },
    Key { section: "auth", name: "jwt_public_key_file", flag: "jwt-public-key-file", kind: Kind::Text { word: OFF }, default: "off",
        help: "File with one public key for JSON Web Tokens, in PEM: RSA (RS256), EC P-256 (ES256) or Ed25519 (EdDSA)." },
    Key { section: "auth", name: "jwt_jwks_file", flag: "jwt-jwks-file", kind: Kind::Text { word: OFF }, default: "off",
        help: "File with public keys for JSON Web Tokens, as a JSON Web Key Set; read again whenever it changes." },
    Key { section: "auth", name: "jwt_algorithms", flag: "jwt-algorithms", kind: Kind::List, default: "HS256,RS256,ES256,EdDSA",
        help: "Algorithms that tokens may use. Each key is good for the one algorithm of its kind in any case." },
    Key { section: "auth", name: "jwt_audience", flag: "jwt-audience", kind: Kind::List, default: "",
        help: "A token must name one of these in its aud. Empty: a token that names any is refused." },
    Key { section: "auth", name: "jwt_issuer", flag: "jwt-issuer", kind: Kind::List, default: "",
        help: "A token must be from one of these, by its iss. Empty: iss is not looked at." },
    Key { section: "auth", name: "jwt_leeway_seconds", flag: "jwt-leeway-seconds", kind: int(0, 600), default: "30",
        help: "How far the clock of whoever makes tokens may differ, for exp and nbf." },
    Key { section: "auth", name: "anonymous_scopes", flag: "anonymous-scopes", kind: Kind::List, default: "",
        help: "What may be done without a credential where others need one: inference, models, status, metrics, docs. With metrics, Prometheus needs no key." },
    Key { section: "auth", name: "insecure", flag: "insecure", kind: Kind::Bool, default: "false",
        help: "Listen on any address without asking for credentials: whoever reaches the port may use the model." },

    Key { section: "limits", name: "requests_per_minute", flag: "requests-per-minute", kind: int_or(1, 1_000_000_000, OFF), default: "off",
        help: "Most requests per minute of each key or token, unless the key has a limit of its own. One more is answered with 429." },
    Key { section: "limits", name: "tokens_per_minute", flag: "tokens-per-minute", kind: int_or(1, 1_000_000_000_000, OFF), default: "off",
        help: "Most tokens per minute of each key or token, prompt and output together." },
    Key { section: "limits", name: "concurrent_requests", flag: "concurrent-requests", kind: int_or(1, 1 << 20, OFF), default: "off",
        help: "Most requests of each key or token that run or wait at the same time." },

    Key { section: "log", name: "format", flag: "log-format", kind: Kind::Choice(&["text", "json"]), default: "text",
        help: "Form of the log lines on standard error." },
    Key { section: "log", name: "level", flag: "log-level", kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]), default: "info",
        help: "Least severe level that is logged." },
];

/// Environment variables of ours that are no keys.
pub const OTHER_ENV: &[&str] = &["GOSSAMER_ENV", "GOSSAMER_CONFIG", "GOSSAMER_SLOW_TESTS"];

/// The candidate that looks most like `given`, if one looks like it at all.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(given, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut flags = HashSet::new();
        let mut paths = HashSet::new();
        let mut sections: Vec<&str> = Vec::new();
        for key in KEYS {
            assert!(
                key.kind.parse(key.default).is_ok(),
                "default of {}",
                key.path()
            );
            assert!(flags.insert(key.flag), "flag {} twice", key.flag);
            assert!(paths.insert(key.path()), "key {} twice", key.path());
            assert!(key.help.ends_with('.'), "help of {}", key.path());
            if sections.last() != Some(&key.section) {
                assert!(
                    !sections.contains(&key.section),
                    "section {} split",
                    key.section
                );
                sections.push(key.section);
            }
        }
    }

    #[test]
    fn nearest_names_typing_errors_and_nothing_else() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("max_num_seq", names()), Some("max_num_seqs"));
        assert_eq!(nearest("prot", names()), Some("port"));
        assert_eq!(nearest("zzz", names()), None);
    }
}
