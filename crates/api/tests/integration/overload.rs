//! Too much at once, and an engine that fails.

use std::time::Duration;

use gossamer_scheduler::ExecuteError;
use gossamer_testkit::client::{Response, SseEvent, error_fields};
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::json;

use crate::common::{CHAT, COMPLETIONS, HELLO, chat, completion, server, with};

/// One sequence runs, one request waits.
fn narrow(queue_timeout: Option<Duration>) -> TestServer {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.scheduler.max_num_seqs = 1;
    setup.scheduler.max_waiting = 1;
    setup.scheduler.queue_timeout = queue_timeout;
    setup.start()
}

#[test]
fn a_full_queue_answers_429_and_says_when_to_come_back() {
    let server = narrow(None);
    let client = server.client();
    server.control.hold();
    let running = client.post_without_reading(CHAT, &chat("one"));
    server.control.wait_until_blocked();
    let waiting = client.post_without_reading(CHAT, &chat("two"));
    server.wait_until("one waits", |stats| stats.waiting == 1);

    for stream in [false, true] {
        let response = client.post(CHAT, &with(&chat("three"), json!({"stream": stream})));
        let error = response.error(429);
        assert_eq!(error.kind, "rate_limit_error");
        assert_eq!(error.code.as_deref(), Some("engine_overloaded"));
        assert_eq!(response.header("retry-after"), Some("2"));
    }
    server.control.release();
    for stream in [running, waiting] {
        Response::read(&mut std::io::BufReader::new(stream), "POST").ok();
    }
    server.wait_until_idle();
    client.post(CHAT, &chat("three")).ok();
}

#[test]
fn of_a_batch_that_finds_no_place_nothing_stays() {
    let mut setup = TestSetup::new(Script::echo());
    setup.scheduler.max_num_seqs = 1;
    setup.scheduler.max_waiting = 2;
    let server = setup.start();
    let client = server.client();
    server.control.hold();
    let running = client.post_without_reading(CHAT, &chat("one"));
    server.control.wait_until_blocked();
    let waiting = client.post_without_reading(CHAT, &chat("two"));
    server.wait_until("one waits", |stats| stats.waiting == 1);

    // The first of the two finds a place, the second does not.
    let error = client
        .post(COMPLETIONS, &completion(json!(["a", "b"])))
        .error(429);
    assert_eq!(error.code.as_deref(), Some("engine_overloaded"));
    // More than the queue can ever hold is not worth another try.
    let error = client
        .post(COMPLETIONS, &completion(json!(["a", "b", "c"])))
        .error(400);
    assert_eq!(error.code.as_deref(), Some("array_above_max_length"));

    server.control.release();
    let mut drawn = 0;
    for stream in [running, waiting] {
        let answer = Response::read(&mut std::io::BufReader::new(stream), "POST").ok();
        drawn += answer["usage"]["completion_tokens"]
            .as_u64()
            .expect("a count");
    }
    server.wait_until_idle();
    assert_eq!(
        server.control.samples().len() as u64,
        drawn,
        "nothing of the batch was run"
    );
}

#[test]
fn waiting_too_long_is_an_error_of_the_server() {
    let server = narrow(Some(Duration::from_millis(50)));
    server.control.slow_down(Duration::from_millis(5));
    let long = with(
        &chat("one"),
        json!({"ignore_eos": true, "max_tokens": 3000}),
    );
    let client = server.client();
    let running = client.post_without_reading(CHAT, &long);
    server.wait_until("one runs", |stats| stats.running == 1);
    let response = client.post(CHAT, &chat("two"));
    assert_eq!(response.error(503).code.as_deref(), Some("queue_timeout"));
    assert_eq!(response.header("retry-after"), Some("2"));

    let mut reader = client.stream(CHAT, &with(&chat("two"), json!({"stream": true})));
    match reader.next() {
        Some(SseEvent::Data(event)) => {
            assert_eq!(error_fields(&event).code.as_deref(), Some("queue_timeout"));
        }
        other => panic!("an error event, not {other:?}"),
    }
    assert_eq!(reader.next(), None, "no [DONE]");
    drop(running);
    server.wait_until_idle();
}

#[test]
fn a_failed_step_is_an_error_without_its_details() {
    let server = server(Script::always(HELLO));
    server
        .control
        .fail_next(ExecuteError::Step("secret detail".into()));
    let error = server.client().post(CHAT, &chat("Hi")).error(500);
    assert_eq!(
        (error.kind.as_str(), error.code.as_deref()),
        ("server_error", Some("engine_error"))
    );
    assert!(!error.message.contains("secret"));
    server.client().post(CHAT, &chat("Hi")).ok();
    server.wait_until_idle();
}

#[test]
fn few_blocks_are_enough_for_many_requests() {
    let mut setup = TestSetup::new(Script::echo());
    setup.capacity.num_blocks = 16;
    let server = setup.start();
    let handles: Vec<_> = (0..12)
        .map(|i| {
            let client = server.client();
            std::thread::spawn(move || {
                let text = format!("{i} {}", "word ".repeat(20 + i));
                let answer = client.post(CHAT, &chat(&text)).ok();
                assert_eq!(answer["choices"][0]["message"]["content"], text);
            })
        })
        .collect();
    for handle in handles {
        handle.join().expect("each is answered with its own text");
    }
    server.wait_until_idle();
    let large = server.client().post(CHAT, &chat(&"word ".repeat(300)));
    assert_eq!(
        large.error(400).code.as_deref(),
        Some("context_length_exceeded")
    );
}
