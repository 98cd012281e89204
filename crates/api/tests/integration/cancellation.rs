//! A client that goes away cancels its request: queued, in prefill, in decode, streaming or not.
//!
//! Requests here would run for 40 seconds if nobody stopped them; [`TestServer::wait_until_idle`] waits for half of that.

use std::time::Duration;

use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

use crate::common::{CHAT, COMPLETIONS, chat, completion, read_until, with};

fn slow(change: impl FnOnce(&mut TestSetup)) -> TestServer {
    let mut setup = TestSetup::new(Script::echo());
    setup.control.slow_down(Duration::from_millis(10));
    change(&mut setup);
    setup.start()
}

fn endless(body: Value) -> Value {
    with(&body, json!({"ignore_eos": true, "max_tokens": 4000}))
}

fn cancelled(server: &TestServer) -> f64 {
    server.metric("gossamer_api_requests_cancelled_total")
}

#[test]
fn in_decode_streaming() {
    let server = slow(|_| {});
    for (path, body) in [(CHAT, chat("Hi")), (COMPLETIONS, completion("Hi"))] {
        let mut reader = server
            .client()
            .stream(path, &with(&endless(body), json!({"stream": true})));
        read_until(&mut reader, " more");
        drop(reader);
        server.wait_until_idle();
    }
    assert_eq!(cancelled(&server), 2.0);
    assert!(server.control.steps() < 1000);
}

#[test]
fn in_decode_waiting_for_a_whole_answer() {
    let server = slow(|_| {});
    for (path, body) in [(CHAT, chat("Hi")), (COMPLETIONS, completion("Hi"))] {
        let stream = server.client().post_without_reading(path, &endless(body));
        let before = server.control.samples().len();
        while server.control.samples().len() < before + 3 {
            std::thread::yield_now();
        }
        drop(stream);
        server.wait_until_idle();
    }
    assert_eq!(cancelled(&server), 2.0);
    let status = "gossamer_api_requests_total{route=\"/v1/chat/completions\",status=\"499\"}";
    assert_eq!(server.metric(status), 1.0);
}

#[test]
fn in_prefill() {
    for stream in [false, true] {
        // 3000 tokens in steps of 16: two seconds before the first token.
        let server = slow(|setup| setup.scheduler.max_num_batched_tokens = 16);
        let body = with(&chat(&"word ".repeat(3000)), json!({"stream": stream}));
        let connection = server.client().post_without_reading(CHAT, &body);
        server.wait_until("it runs", |stats| stats.running == 1);
        drop(connection);
        server.wait_until_idle();
        assert!(
            server.control.samples().is_empty(),
            "no token was ever drawn"
        );
        assert_eq!(cancelled(&server), 1.0);
    }
}

#[test]
fn in_the_queue() {
    for stream in [false, true] {
        let server = slow(|setup| setup.scheduler.max_num_seqs = 1);
        let client = server.client();
        let mut running = client.stream(
            CHAT,
            &with(&endless(chat("first")), json!({"stream": true})),
        );
        read_until(&mut running, "more");
        let queued = client.post_without_reading(
            CHAT,
            &with(&endless(chat("second")), json!({"stream": stream})),
        );
        server.wait_until("one waits", |stats| stats.waiting == 1);
        drop(queued);
        server.wait_until("none waits", |stats| {
            stats.waiting == 0 && stats.running == 1
        });
        read_until(&mut running, "more");
        drop(running);
        server.wait_until_idle();
        assert_eq!(cancelled(&server), 2.0);
    }
}

#[test]
fn all_choices_and_all_prompts_go_together() {
    let server = slow(|_| {});
    let body = with(
        &endless(completion(json!(["a", "b", "c"]))),
        json!({"n": 2}),
    );
    let stream = server.client().post_without_reading(COMPLETIONS, &body);
    server.wait_until("all run", |stats| stats.running == 6);
    drop(stream);
    server.wait_until_idle();
    assert_eq!(cancelled(&server), 1.0, "one request");
}

#[test]
fn a_client_that_closes_only_its_sending_half_counts_as_gone() {
    let server = slow(|_| {});
    let reader = server
        .client()
        .stream(CHAT, &with(&endless(chat("Hi")), json!({"stream": true})));
    reader.close_sending_half();
    server.wait_until_idle();
    assert!(server.control.steps() < 1000);
}

#[test]
fn a_crowd_that_leaves_takes_everything_with_it() {
    let server = slow(|_| {});
    let client = server.client();
    let mut streaming: Vec<_> = (0..8)
        .map(|i| {
            client.stream(
                CHAT,
                &with(&endless(chat(&format!("s{i}"))), json!({"stream": true})),
            )
        })
        .collect();
    let waiting: Vec<_> = (0..16)
        .map(|i| client.post_without_reading(CHAT, &endless(chat(&format!("w{i}")))))
        .collect();
    for reader in &mut streaming {
        read_until(reader, "more");
    }
    server.wait_until("all arrived", |stats| stats.running + stats.waiting == 24);
    drop((streaming, waiting));
    server.wait_until_idle();
    assert_eq!(cancelled(&server), 24.0);
    assert_eq!(server.metric("gossamer_api_requests_in_flight"), 0.0);
    // And the server goes on.
    server.control.slow_down(Duration::ZERO);
    client.post(CHAT, &chat("Hi")).ok();
}
