//! Responses in the background: they go on without their client, can be looked at, read again and cancelled.

use gossamer_scheduler::ExecuteError;
use gossamer_testkit::client::SseEvent;
use gossamer_testkit::{Script, TestServer, response_events};
use serde_json::{Value, json};

use super::{RESPONSES, create, get, path, request, said, stream, without_ids};
use crate::auth::Guarded;
use crate::common::{HELLO, server, with};

fn background(text: &str) -> Value {
    with(&request(text), json!({"background": true}))
}

/// Asks until the response has ended.
fn ended(server: &TestServer, response: &Value) -> Value {
    for _ in 0..2000 {
        let now = get(server, response);
        if !["queued", "in_progress"]
            .map(Value::from)
            .contains(&now["status"])
        {
            return now;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it does not end");
}

fn cancel(server: &TestServer, response: &Value) -> Value {
    server
        .client()
        .request("POST", &format!("{}/cancel", path(response)), &[], b"")
        .ok()
}

/// Events from a connection that reads the stream again.
fn read_again(server: &TestServer, response: &Value, after: Option<usize>) -> Vec<Value> {
    let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
    let path = format!("{}?stream=true{after}", path(response));
    let answer = server.client().get(&path);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    (answer
        .text()
        .split("\n\n")
        .filter(|block| !block.is_empty()))
    .map(|block| {
        let (name, data) = block.split_once('\n').expect("a name and data");
        let data: Value =
            serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(
            name,
            format!("event: {}", data["type"].as_str().expect("a type"))
        );
        data
    })
    .collect()
}

#[test]
fn it_is_queued_then_in_progress_then_what_it_would_have_been() {
    let server = server(Script::always(HELLO));
    server.control.hold();
    let response = create(&server, &background("Hi"));
    assert_eq!(response["status"], "queued");
    assert_eq!(response["background"], true);
    assert_eq!(get(&server, &response), response);
    server.control.allow(5);
    server.control.wait_until_blocked();
    for _ in 0..2000 {
        if get(&server, &response)["status"] == "in_progress" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(get(&server, &response)["status"], "in_progress");
    let error = server
        .client()
        .post(
            RESPONSES,
            &with(
                &request("x"),
                json!({"previous_response_id": response["id"]}),
            ),
        )
        .error(400);
    assert!(error.message.contains("'in_progress'"), "{}", error.message);
    server.control.release();
    let done = ended(&server, &response);
    let mut expected = create(&server, &request("Hi"));
    expected["background"] = json!(true);
    assert_eq!(without_ids(done.clone()), without_ids(expected));
    assert_eq!(done["id"], response["id"]);
    server.wait_until_idle();
}

#[test]
fn cancelling_ends_it_with_what_there_was() {
    let server = server(Script::always(&format!(
        "<|channel|>final<|message|>{}",
        "word ".repeat(1000)
    )));
    let body = with(&background("Hi"), json!({"stream": true}));
    server.control.hold();
    let mut reader = server.client().stream(RESPONSES, &body);
    let Some(SseEvent::Data(created)) = reader.next() else {
        panic!("no first event")
    };
    assert_eq!(created["response"]["status"], "queued");
    let response = created["response"].clone();
    server.control.allow(20);
    server.control.wait_until_blocked();
    let canceller = {
        let (client, path) = (server.client(), format!("{}/cancel", path(&response)));
        std::thread::spawn(move || client.request("POST", &path, &[], b"").ok())
    };
    let cancelled = canceller.join().expect("an answer");
    server.control.release();
    assert_eq!(cancelled["status"], "cancelled");
    assert!(
        said(&cancelled)[0].1.starts_with("word word"),
        "{cancelled}"
    );
    assert_eq!(cancelled["output"][0]["status"], "incomplete");
    // Again is the same.
    assert_eq!(cancel(&server, &response), cancelled);
    assert_eq!(get(&server, &response), cancelled);
    let mut events = vec![created];
    events.extend(reader.transcript().chunks);
    assert_eq!(response_events::check(&events), cancelled);
    server.wait_until_idle();
    let error = server
        .client()
        .post(
            RESPONSES,
            &with(
                &request("x"),
                json!({"previous_response_id": response["id"]}),
            ),
        )
        .error(400);
    assert!(error.message.contains("'cancelled'"), "{}", error.message);
}

#[test]
fn one_that_waits_in_the_queue_can_be_cancelled() {
    let server = server(Script::always(HELLO));
    server.control.hold();
    let response = create(&server, &background("Hi"));
    let cancelled = cancel(&server, &response);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["output"], json!([]));
    server.control.release();
    server.wait_until_idle();
}

#[test]
fn only_background_responses_are_cancelled() {
    let server = server(Script::always(HELLO));
    let response = create(&server, &request("Hi"));
    let answer = server
        .client()
        .request("POST", &format!("{}/cancel", path(&response)), &[], b"");
    assert_eq!(answer.error(400).param.as_deref(), Some("response"));
}

#[test]
fn a_stream_can_be_left_and_read_again_from_anywhere() {
    let server = server(Script::always(HELLO));
    let body = with(&background("Hi"), json!({"stream": true}));
    server.control.hold();
    let mut reader = server.client().stream(RESPONSES, &body);
    let Some(SseEvent::Data(created)) = reader.next() else {
        panic!("no first event")
    };
    let response = created["response"].clone();
    drop(reader);
    // While it is generated: what there is, and then what comes.
    let follower = {
        let (addr, path) = (server.addr, format!("{}?stream=true", path(&response)));
        std::thread::spawn(move || {
            gossamer_testkit::client::Client::new(addr)
                .get(&path)
                .text()
                .to_owned()
        })
    };
    server.control.release();
    let live = follower.join().expect("a stream");
    let done = ended(&server, &response);
    // From the store.
    let events = read_again(&server, &response, None);
    assert_eq!(response_events::check(&events), done);
    assert_eq!(live.matches("event: ").count(), events.len());
    for after in [0, 3, events.len() - 2] {
        assert_eq!(
            read_again(&server, &response, Some(after)),
            events[after + 1..]
        );
    }
    assert_eq!(
        read_again(&server, &response, Some(events.len() - 1)),
        Vec::<Value>::new()
    );
    // What others do not have.
    for other in [
        create(&server, &request("Hi")),
        ended(&server, &create(&server, &background("Hi"))),
    ] {
        let error = server
            .client()
            .get(&format!("{}?stream=true", path(&other)))
            .error(400);
        assert_eq!(error.param.as_deref(), Some("stream"));
    }
}

#[test]
fn it_can_be_continued_and_deleted_like_any_other() {
    let server = server(Script::echo());
    let (_, first) = stream(&server, &background("One"));
    let next = with(
        &request("Two"),
        json!({"previous_response_id": first["id"]}),
    );
    assert_eq!(said(&create(&server, &next))[0].1, "Two");
    server.control.hold();
    let response = create(&server, &background("Three"));
    let deleted = server
        .client()
        .request("DELETE", &path(&response), &[], b"")
        .ok();
    assert_eq!(deleted["deleted"], true);
    server.client().get(&path(&response)).error(404);
    server.control.release();
    server.wait_until_idle();
    server.client().get(&path(&response)).error(404);
}

#[test]
fn a_failure_is_what_one_finds() {
    let server = server(Script::echo());
    server.control.hold();
    let response = create(&server, &background("one two three four"));
    server.control.allow(3);
    server.control.wait_until_blocked();
    server
        .control
        .fail_next(ExecuteError::Step("secret".into()));
    server.control.release();
    let failed = ended(&server, &response);
    assert_eq!(failed["status"], "failed");
    assert!(!failed.to_string().contains("secret"));
    server.wait_until_idle();
}

#[test]
fn a_place_under_the_limits_is_held_until_the_end() {
    let guarded = Guarded::start(|setup| setup.auth.limits.concurrent_requests = Some(1));
    let server = &guarded.server;
    let key = guarded.key(&[gossamer_api::auth::Scope::Inference]);
    let post = |body: &Value| guarded.ask("POST", RESPONSES, &key, body.to_string().as_bytes());
    server.control.hold();
    let response = post(&background("Hi")).ok();
    let error = post(&request("Hi")).error(429);
    assert_eq!(error.code.as_deref(), Some("rate_limit_exceeded"));
    // Looking at it is free.
    guarded.ask("GET", &path(&response), &key, b"").ok();
    guarded
        .ask("POST", &format!("{}/cancel", path(&response)), &key, b"")
        .ok();
    server.control.release();
    server.wait_until_idle();
    assert_eq!(post(&request("Hi")).status, 200);
}
