//! More than one request on a connection, and clients that go away in the middle of one.

use std::io::{BufReader, ErrorKind};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use gossamer_testkit::client::Response;
use gossamer_testkit::{Control, Script, TestSetup};
use serde_json::json;

use crate::common::{CHAT, chat, server, with};
use crate::raw::{answer, post, rest, sent, with_length};

#[test]
fn a_pipeline_is_answered_in_order_errors_included() {
    let server = server(Script::echo());
    let get = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let many = get.repeat(50);
    let chat = with_length(&chat("Hi").to_string());
    let bad = with_length("{nonsense");
    let stream = sent(&server, format!("{chat}{bad}{many}{chat}"));
    let mut reader = BufReader::new(stream);
    let mut next = || Response::read(&mut reader, "GET");
    next().ok();
    next().error(400);
    for _ in 0..50 {
        next().ok();
    }
    next().ok();
}

/// The dispatcher reads ahead, and lets what it has read change the answer that comes first.
#[test]
fn what_comes_behind_a_request_does_not_change_its_answer() {
    let control = Control::default();
    let mut setup = TestSetup::new(Script::echo());
    setup.control = control.clone();
    let server = setup.start();
    let chat = with_length(&chat("Hello you").to_string());
    for (behind, method) in [
        ("HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n", "HEAD"),
        ("HEAD /health HTTP/1.1\nhost: x\n\n", "HEAD"),
        (
            "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "GET",
        ),
        ("GET /health HTTP/1.0\r\n\r\n", "GET"),
    ] {
        control.hold();
        let stream = sent(&server, format!("{chat}{behind}"));
        server.wait_until("the request runs", |stats| {
            stats.running + stats.waiting > 0
        });
        control.release();
        let mut reader = BufReader::new(stream);
        let first = Response::read(&mut reader, "POST");
        assert!(first.text().contains("Hello you"), "{behind:?}");
        assert_eq!(first.header("connection"), None, "{behind:?}");
        assert_eq!(Response::read(&mut reader, method).status, 200);
    }
}

/// A client that goes away is noticed although its next request is waiting.
#[test]
fn going_away_with_another_request_behind_cancels() {
    let control = Control::default();
    let mut setup = TestSetup::new(Script::echo());
    setup.control = control.clone();
    control.hold();
    let server = setup.start();
    let chat = with_length(&chat("Hi").to_string());
    let stream = sent(&server, chat.repeat(3));
    server.wait_until("the request runs", |stats| {
        stats.running + stats.waiting > 0
    });
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.metric("gossamer_api_connections_open") > 0.0 {
        assert!(Instant::now() < deadline, "the connection is still open");
        std::thread::sleep(Duration::from_millis(2));
    }
    control.release();
    server.wait_until_idle();
}

/// The second request being nonsense is no reason to drop the first one's answer.
#[test]
fn nonsense_behind_a_request_does_not_cost_its_answer() {
    let control = Control::default();
    let mut setup = TestSetup::new(Script::echo());
    setup.control = control.clone();
    control.hold();
    let server = setup.start();
    let mut stream = sent(
        &server,
        with_length(&chat("Hi").to_string()) + "nonsense\r\n\r\n",
    );
    server.wait_until("the request runs", |stats| {
        stats.running + stats.waiting > 0
    });
    control.release();
    let mut reader = BufReader::new(&mut stream);
    Response::read(&mut reader, "GET").ok();
    let error = Response::read(&mut reader, "GET").error(400);
    assert_eq!(error.code.as_deref(), Some("malformed_request"));
    assert_eq!(rest(reader.get_mut()), b"");
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_its_request_leaves_nothing() {
    let server = server(Script::echo());
    for bytes in [
        String::new(),
        "GET /hea".to_owned(),
        post(CHAT, "content-length: 1000\r\n", "{\"mod"),
        post(CHAT, "transfer-encoding: chunked\r\n", "5\r\n{\"m"),
        with_length(&chat("Hi").to_string()),
    ] {
        drop(sent(&server, bytes));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.metric("gossamer_api_connections_open") > 0.0
        || server.metric("gossamer_api_requests_in_flight") > 0.0
    {
        assert!(Instant::now() < deadline, "{}", server.metrics.render());
        std::thread::sleep(Duration::from_millis(2));
    }
    server.wait_until_idle();
}

#[test]
fn half_a_body_and_no_more_is_told_so() {
    let server = server(Script::echo());
    let mut stream = sent(&server, post(CHAT, "content-length: 1000\r\n", "{\"mod"));
    stream.shutdown(Shutdown::Write).expect("half of it closes");
    let error = answer(&mut stream).error(400);
    assert_eq!(error.code.as_deref(), Some("malformed_request"));
}

#[test]
fn a_reset_is_survived() {
    let server = server(Script::echo());
    let stream = sent(
        &server,
        with_length(&with(&chat("Hi"), json!({"stream": true})).to_string()),
    );
    // Closing with the answer unread in the buffer sends a reset.
    let mut first = [0];
    loop {
        match stream.peek(&mut first) {
            Ok(1) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => panic!("{other:?}"),
        }
    }
    drop(stream);
    server.wait_until_idle();
    server.client().get("/health").ok();
}
