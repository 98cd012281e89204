//! Every metric: name, help, unit, labels, buckets. The one place where a metric's name is spelled.
//!
//! Names follow `gossamer_<subsystem>_<what>_<unit>[_total]`; `process_*` follows the Prometheus convention.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

/// Time to first token, seconds: vLLM's buckets, so that both servers can stand on one dashboard
/// (`vllm:time_to_first_token_seconds`, docs.vllm.ai, metrics page of 2025-12-19).
pub const TTFT_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Inter-token latency, seconds: vLLM's buckets (`vllm:inter_token_latency_seconds`).
pub const LATENCY_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// Whole requests and waits, seconds: vLLM's request buckets (`vllm:e2e_request_latency_seconds`).
const REQUEST_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// One step of the engine, seconds.
const STEP_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0,
    8.0,
];

/// Compiling a grammar, seconds.
const COMPILE_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
];

/// Tokens in one step (`vllm:iteration_tokens_total`).
const STEP_TOKEN_BUCKETS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];

/// All metrics, registered.
pub(crate) struct Catalog {
    pub requests_waiting: IntGauge,
    pub sequences_running: IntGauge,
    pub preemptions: IntCounter,
    pub prompt_tokens: IntCounter,
    pub generation_tokens: IntCounter,
    pub tokens_per_second: GaugeVec,
    pub prefix_cache_queries: IntCounter,
    pub prefix_cache_hits: IntCounter,
    pub queue_time: Histogram,
    pub step_duration: Histogram,
    pub step_tokens: Histogram,
    pub step_failures: IntCounter,
    pub spec_drafts: IntCounter,
    pub spec_draft_tokens: IntCounter,
    pub spec_accepted_tokens: IntCounter,
    pub kv_blocks: IntGaugeVec,
    pub kv_blocks_total: IntGauge,
    pub kv_cache_usage: Gauge,
    pub kv_used_bytes: IntGauge,
    pub kv_pool_bytes: IntGauge,

    pub http_requests: IntCounterVec,
    pub http_in_flight: IntGauge,
    pub http_connections: IntGauge,
    pub request_duration: HistogramVec,
    pub ttft: Histogram,
    pub inter_token_latency: Histogram,
    pub errors: IntCounterVec,
    pub finished: IntCounterVec,
    pub cancelled: IntCounter,
    pub harmony_repairs: IntCounterVec,
    pub constrained_draws: IntCounterVec,
    pub grammar_lookups: IntCounterVec,
    pub grammar_compile: Histogram,
    pub responses_stored: IntGauge,
    pub responses_stored_bytes: IntGauge,
    pub responses_evicted: IntCounterVec,

    pub engine_info: IntGaugeVec,
    pub weight_bytes: IntGauge,
    pub build_info: IntGaugeVec,
    pub process_resident_bytes: IntGauge,
    pub process_virtual_bytes: IntGauge,
}

impl Catalog {
    #[rustfmt::skip] // One metric a line: this is a table.
    pub fn new(registry: &Registry) -> Self {
        let r = registry;
        Self {
            requests_waiting: gauge(r, "gossamer_scheduler_requests_waiting", "Sequences accepted and not yet started, or preempted and waiting to go on (queue depth)."),
            sequences_running: gauge(r, "gossamer_scheduler_sequences_running", "Sequences in prefill or decode."),
            preemptions: counter(r, "gossamer_scheduler_preemptions_total", "Sequences put back to be recomputed because the KV cache was full."),
            prompt_tokens: counter(r, "gossamer_scheduler_prompt_tokens_total", "Prompt tokens of started requests, cached ones included."),
            generation_tokens: counter(r, "gossamer_scheduler_generation_tokens_total", "Tokens generated."),
            tokens_per_second: register(r, GaugeVec::new(Opts::new("gossamer_tokens_per_second", "Tokens per second over the last ten full seconds: direction=\"in\" prompt tokens, \"out\" generated tokens."), &["direction"])),
            prefix_cache_queries: counter(r, "gossamer_scheduler_prefix_cache_queried_tokens_total", "Prompt tokens looked up in the prefix cache."),
            prefix_cache_hits: counter(r, "gossamer_scheduler_prefix_cache_hit_tokens_total", "Prompt tokens served from the prefix cache."),
            queue_time: histogram(r, "gossamer_scheduler_queue_time_seconds", "From acceptance to the first step that computes a token of the request.", REQUEST_BUCKETS),
            step_duration: histogram(r, "gossamer_scheduler_step_duration_seconds", "One step of the engine.", STEP_BUCKETS),
            step_tokens: histogram(r, "gossamer_scheduler_step_tokens", "Tokens computed in one step, prefill and decode together.", STEP_TOKEN_BUCKETS),
            step_failures: counter(r, "gossamer_scheduler_step_failures_total", "Steps that the engine failed."),
            spec_drafts: counter(r, "gossamer_scheduler_spec_decode_drafts_total", "Decodes that came with a draft of what follows."),
            spec_draft_tokens: counter(r, "gossamer_scheduler_spec_decode_draft_tokens_total", "Tokens drafted, each a row of a step."),
            spec_accepted_tokens: counter(r, "gossamer_scheduler_spec_decode_accepted_tokens_total", "Of those, tokens that the model drew too: each spared its sequence a step."),
            kv_blocks: register(r, IntGaugeVec::new(Opts::new("gossamer_kv_blocks", "KV blocks by state: used by sequences, cached (free, but reusable by a matching prefix), free."), &["state"])),
            kv_blocks_total: gauge(r, "gossamer_kv_blocks_capacity", "KV blocks in the pool."),
            kv_cache_usage: register(r, Gauge::new("gossamer_kv_cache_usage_ratio", "Share of the KV blocks in use by sequences, 0 to 1.")),
            kv_used_bytes: gauge(r, "gossamer_kv_used_bytes", "KV cache memory in use by sequences."),
            kv_pool_bytes: gauge(r, "gossamer_kv_pool_bytes", "KV cache memory reserved."),

            http_requests: register(r, IntCounterVec::new(Opts::new("gossamer_api_requests_total", "HTTP requests answered."), &["route", "status"])),
            http_in_flight: gauge(r, "gossamer_api_requests_in_flight", "HTTP requests being answered."),
            http_connections: gauge(r, "gossamer_api_connections_open", "Open connections, idle ones included."),
            request_duration: register(r, HistogramVec::new(HistogramOpts::new("gossamer_api_request_duration_seconds", "From the request's arrival to the last byte of its answer.").buckets(REQUEST_BUCKETS.to_vec()), &["route"])),
            ttft: histogram(r, "gossamer_api_time_to_first_token_seconds", "From the request's arrival to its first generated token.", TTFT_BUCKETS),
            inter_token_latency: histogram(r, "gossamer_api_inter_token_latency_seconds", "Between two tokens of one sequence.", LATENCY_BUCKETS),
            errors: register(r, IntCounterVec::new(Opts::new("gossamer_api_errors_total", "Error answers by error code."), &["code"])),
            finished: register(r, IntCounterVec::new(Opts::new("gossamer_api_choices_finished_total", "Choices completed by finish reason."), &["reason"])),
            cancelled: counter(r, "gossamer_api_requests_cancelled_total", "Requests whose client went away before the answer was complete."),
            harmony_repairs: register(r, IntCounterVec::new(Opts::new("gossamer_harmony_repairs_total", "Deviations from the harmony format in the model's output that the parser repaired."), &["kind"])),
            constrained_draws: register(r, IntCounterVec::new(Opts::new("gossamer_constrained_draws_total", "Tokens drawn under a constraint: part=\"header\" of a message, \"text\" without and \"body\" with a grammar; outcome=\"kept\" as the model drew it, \"masked\" drawn from what was allowed, \"dead_end\" nothing was."), &["part", "outcome"])),
            grammar_lookups: register(r, IntCounterVec::new(Opts::new("gossamer_grammar_lookups_total", "Grammars and schemas that requests asked for: result=\"hit\" in the cache, \"miss\" to be compiled."), &["result"])),
            grammar_compile: histogram(r, "gossamer_grammar_compile_seconds", "Compiling one grammar or schema, failures included.", COMPILE_BUCKETS),
            responses_stored: gauge(r, "gossamer_responses_stored", "Responses kept for GET and previous_response_id."),
            responses_stored_bytes: gauge(r, "gossamer_responses_stored_bytes", "Bytes of the responses that are kept."),
            responses_evicted: register(r, IntCounterVec::new(Opts::new("gossamer_responses_evicted_total", "Responses removed to keep a bound of the store: reason=\"count\", \"bytes\", \"age\"."), &["reason"])),

            engine_info: register(r, IntGaugeVec::new(Opts::new("gossamer_engine_info", "1; the labels say what is loaded and what computes."), &["model", "backend", "kernels"])),
            weight_bytes: gauge(r, "gossamer_engine_weight_bytes", "Bytes of the model's weights."),
            build_info: register(r, IntGaugeVec::new(Opts::new("gossamer_build_info", "1; the label says which version runs."), &["version"])),
            process_resident_bytes: gauge(r, "process_resident_memory_bytes", "Resident memory of the process, memory-mapped weights included."),
            process_virtual_bytes: gauge(r, "process_virtual_memory_bytes", "Virtual memory of the process."),
        }
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("the catalog's names and labels are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("the catalog names each metric once");
    metric
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(
        registry,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())),
    )
}
