//! Anthropic's Messages API: what goes wrong, in its form, and what a stream does meanwhile.

use gossamer_scheduler::ExecuteError;
use gossamer_testkit::client::SseEvent;
use gossamer_testkit::{Script, TestSetup};
use serde_json::json;

use crate::anthropic::{COUNT, MESSAGES, ask};
use crate::common::{CHAT, HELLO, server, with};

#[test]
fn errors_have_anthropics_form_on_its_routes_only() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.api.body_limit = 1000;
    let server = setup.start();
    let client = server.client();
    let json = [("content-type", "application/json")];
    let kind = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], status| {
        client
            .request(method, path, headers, body)
            .error(status)
            .kind
    };
    assert_eq!(
        kind("POST", MESSAGES, &json, b"{", 400),
        "invalid_request_error"
    );
    assert_eq!(
        kind("POST", MESSAGES, &json, b"[]", 400),
        "invalid_request_error"
    );
    assert_eq!(
        kind("POST", MESSAGES, &[], b"{}", 415),
        "invalid_request_error"
    );
    assert_eq!(
        kind("POST", MESSAGES, &json, &[b' '; 1001], 413),
        "request_too_large"
    );
    assert_eq!(
        kind("GET", MESSAGES, &[], b"", 405),
        "invalid_request_error"
    );
    assert_eq!(kind("GET", COUNT, &[], b"", 405), "invalid_request_error");
    assert_eq!(
        kind("POST", "/v1/messages/batches", &json, b"{}", 404),
        "not_found_error"
    );
    // With a path that the router decodes, and as the client's id.
    let answer = client.request("GET", "/v1/%6dessages", &[("x-request-id", "mine")], b"");
    assert_eq!(answer.error(405).kind, "invalid_request_error");
    assert_eq!(answer.header("request-id"), Some("mine"));
    assert!(answer.header("allow").is_some());
    let other = client.request("GET", CHAT, &[], b"");
    assert_eq!(other.header("request-id"), None);
    assert!(other.error(405).code.is_some());
    assert_eq!(
        server.metric("gossamer_api_errors_total{code=\"method_not_allowed\"}"),
        4.0
    );
}

#[test]
fn a_prompt_that_is_too_long_says_by_how_much() {
    let server = server(Script::always(HELLO));
    let long = server
        .client()
        .post(MESSAGES, &ask(&"word ".repeat(5000)))
        .error(400)
        .message;
    assert!(
        long.starts_with("prompt is too long: ") && long.ends_with(" tokens > 4096 maximum"),
        "{long}"
    );
    let both = server
        .client()
        .post(MESSAGES, &with(&ask("Hi"), json!({"max_tokens": 4090})))
        .error(400)
        .message;
    assert!(
        both.contains(" + 4090 > 4096, decrease input length"),
        "{both}"
    );
}

#[test]
fn a_full_queue_is_529_with_a_time_to_come_back() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.scheduler.max_waiting = 1;
    setup.scheduler.max_num_seqs = 1;
    let server = setup.start();
    server.control.hold();
    let held: Vec<_> = (0..8)
        .map(|i| {
            server
                .client()
                .post_without_reading(MESSAGES, &ask(&format!("Hi {i}")))
        })
        .collect();
    server.wait_until("the queue is full", |stats| {
        stats.waiting + stats.running >= 1
    });
    let answer = (0..100)
        .map(|_| {
            server
                .client()
                .post_without_reading(CHAT, &crate::common::chat("x"))
        })
        .map(|_| {
            server.client().open(
                "POST",
                MESSAGES,
                &[("content-type", "application/json")],
                ask("y").to_string().as_bytes(),
            )
        })
        .find_map(|stream| {
            stream
                .set_read_timeout(Some(std::time::Duration::from_millis(200)))
                .expect("a timeout can be set");
            let mut byte = [0; 1];
            matches!(stream.peek(&mut byte), Ok(1)).then(|| {
                stream
                    .set_read_timeout(Some(std::time::Duration::from_secs(20)))
                    .expect("a timeout can be set");
                gossamer_testkit::client::Response::read(
                    &mut std::io::BufReader::new(stream),
                    "POST",
                )
            })
        })
        .expect("one is refused");
    assert_eq!(answer.error(529).kind, "overloaded_error");
    assert_eq!(answer.header("retry-after"), Some("2"));
    drop(held);
}

#[test]
fn a_stream_that_fails_ends_with_an_error_event() {
    let server = server(Script::always(HELLO));
    server.control.hold();
    let body = with(&ask("Hi"), json!({"stream": true}));
    let reader = server.client().stream(MESSAGES, &body);
    let id = (reader.headers.iter().find(|(name, _)| name == "request-id"))
        .expect("an id")
        .1
        .clone();
    server.control.allow(3);
    server
        .control
        .fail_next(ExecuteError::Step("broken".into()));
    server.control.release();
    let events: Vec<SseEvent> = reader.collect();
    let SseEvent::Data(last) = events.last().expect("events") else {
        panic!("{events:?}");
    };
    let error = gossamer_testkit::client::anthropic_error_fields(last, &id);
    assert_eq!(error.kind, "api_error");
    assert!(!error.message.contains("broken"));
    let ends = events
        .iter()
        .filter(|event| matches!(event, SseEvent::Data(value) if value["type"] == "message_stop"));
    assert_eq!(ends.count(), 0);
}

#[test]
fn silence_is_filled_with_pings() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.api.heartbeat = Some(std::time::Duration::from_millis(20));
    let server = setup.start();
    server.control.hold();
    let body = with(&ask("Hi"), json!({"stream": true}));
    let mut reader = server.client().stream(MESSAGES, &body);
    let mut kinds = Vec::new();
    for event in &mut reader {
        let SseEvent::Data(value) = event else {
            panic!("{event:?}")
        };
        kinds.push(value["type"].clone());
        if value["type"] == "ping" {
            server.control.release();
        }
        if value["type"] == "message_stop" {
            break;
        }
    }
    assert_eq!(
        kinds[0], "message_start",
        "it does not wait for the first token"
    );
    assert_eq!(kinds[1], "ping");
}

#[test]
fn a_client_that_goes_away_cancels() {
    let server = server(Script::always(HELLO));
    server.control.hold();
    let reader = server
        .client()
        .stream(MESSAGES, &with(&ask("Hi"), json!({"stream": true})));
    drop(reader);
    server.control.release();
    server.wait_until_idle();
}

#[test]
fn an_alias_may_stand_for_many_names() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.api.model_aliases.push("claude-*".into());
    let server = setup.start();
    let client = server.client();
    let message = client
        .post(
            MESSAGES,
            &with(&ask("Hi"), json!({"model": "claude-opus-4-1"})),
        )
        .ok();
    assert_eq!(
        message["model"], "test-model",
        "the answer says who answered"
    );
    let other = with(&ask("Hi"), json!({"model": "gpt-5"}));
    assert_eq!(
        client.post(MESSAGES, &other).error(404).kind,
        "not_found_error"
    );
    let listed = client.get("/v1/models").ok();
    let listed = listed["data"].as_array().expect("a list");
    assert!(listed.iter().all(|model| model["id"] != "claude-*"));
    assert_eq!(client.get("/v1/models/claude-x").ok()["id"], "claude-x");
}
