//! `/v1/models`, `/health`, `/ready`, `/metrics`, `/info`.

use gossamer_testkit::Script;
use serde_json::json;

use crate::common::{CHAT, HELLO, chat, server, with};

#[test]
fn models_are_listed_by_all_their_names() {
    let server = server(Script::echo());
    let list = server.client().get("/v1/models").ok();
    let created = list["data"][0]["created"].clone();
    let model = json!({"id": "test-model", "object": "model", "created": created, "owned_by": "gossamer", "max_model_len": 4096});
    let alias = with(&model, json!({"id": "test-alias", "parent": "test-model"}));
    assert_eq!(list, json!({"object": "list", "data": [model, alias]}));
    assert_eq!(server.client().get("/v1/models/test-model").ok(), model);
    assert_eq!(server.client().get("/v1/models/test%2Dalias").ok(), alias);
    for id in ["nope", "openai/gpt-oss-20b"] {
        let error = server.client().get(&format!("/v1/models/{id}")).error(404);
        assert_eq!(
            (error.code.as_deref(), error.param.as_deref()),
            (Some("model_not_found"), Some("model"))
        );
    }
}

#[test]
fn ready_only_after_a_token() {
    let server = server(Script::always(HELLO));
    assert_eq!(server.client().get("/health").ok(), json!({"status": "ok"}));
    let response = server.client().get("/ready");
    assert_eq!(response.error(503).code.as_deref(), Some("not_ready"));
    assert!(response.header("retry-after").is_some());
    server.client().post(CHAT, &chat("Hi")).ok();
    assert_eq!(
        server.client().get("/ready").ok(),
        json!({"status": "ready"})
    );
    server.scheduler.drain();
    server.client().get("/ready").error(503);
    server.client().get("/health").ok();
}

#[test]
fn a_server_that_drains_refuses_new_work() {
    let server = server(Script::always(HELLO));
    server.scheduler.drain();
    let response = server.client().post(CHAT, &chat("Hi"));
    assert_eq!(response.error(503).code.as_deref(), Some("shutting_down"));
    assert!(response.header("retry-after").is_some());
}

#[test]
fn info_says_what_runs() {
    let server = server(Script::echo());
    let info = server.client().get("/info").ok();
    assert_eq!(info["model"], "test-model");
    assert_eq!(info["backend"], "script");
    assert_eq!(info["max_sequence_len"], 4096);
    assert_eq!(info["kv_cache_tokens"], 16 * 1024);
    assert_eq!(
        (&info["ready"], &info["running"], &info["waiting"]),
        (&json!(false), &json!(0), &json!(0))
    );
}

#[test]
fn metrics_count_requests_errors_and_tokens() {
    let server = server(Script::always(HELLO));
    let client = server.client();
    client.post(CHAT, &chat("Hi")).ok();
    client
        .stream(CHAT, &with(&chat("Hi"), json!({"stream": true})))
        .transcript();
    client
        .post(CHAT, &with(&chat("Hi"), json!({"temperature": 9})))
        .error(400);
    client.get("/v1/models/nope").error(404);
    client.get("/etc/passwd").error(404);
    server.wait_until_idle();

    let response = client.get("/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4")
    );
    let text = response.text();
    for line in [
        "gossamer_api_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 2",
        "gossamer_api_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 1",
        "gossamer_api_requests_total{route=\"/v1/models/{model}\",status=\"404\"} 1",
        "gossamer_api_requests_total{route=\"other\",status=\"404\"} 1",
        "gossamer_api_errors_total{code=\"decimal_above_max_value\"} 1",
        "gossamer_api_errors_total{code=\"unknown_url\"} 1",
        "gossamer_api_choices_finished_total{reason=\"stop\"} 2",
        "gossamer_api_time_to_first_token_seconds_count 2",
        "gossamer_api_requests_cancelled_total 0",
        "gossamer_api_requests_in_flight 1",
        "gossamer_scheduler_sequences_running 0",
        "gossamer_scheduler_requests_waiting 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "missing {line} in\n{text}"
        );
    }
    assert!(!text.contains("passwd"), "no label comes from a client");
    let gaps = server.metric("gossamer_api_inter_token_latency_seconds_count");
    let tokens = gossamer_testkit::tokens(HELLO).len() as f64;
    assert_eq!(gaps, 2.0 * (tokens - 1.0));
}
