//! Raw bytes: what clients send that no library sends, and what they must get.
//!
//! Every answer is read by the testkit, which fails on one without a request id or, if it is an error, without OpenAI's
//! error object. Time-outs are configured in milliseconds; nothing sleeps.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use gossamer_testkit::client::Response;
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::json;

use crate::common::{CHAT, HELLO, chat, server, with};

const SHORT: Duration = Duration::from_millis(60);

/// A connection that sent these bytes.
pub fn sent(server: &TestServer, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = server.client().connect();
    stream
        .write_all(bytes.as_ref())
        .expect("the bytes are sent");
    stream
}

pub fn answer(stream: &mut TcpStream) -> Response {
    Response::read(&mut BufReader::new(stream), "GET")
}

/// The rest of what comes until the server closes.
#[track_caller]
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .expect("an orderly end, not a reset");
    rest
}

pub fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
    )
}

pub fn with_length(body: &str) -> String {
    post(CHAT, &format!("content-length: {}\r\n", body.len()), body)
}

#[test]
fn what_is_not_http_gets_an_error_object_and_an_orderly_end() {
    let server = server(Script::echo());
    let long = "x".repeat(70_000);
    for bytes in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "hello\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /health\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        "GET /health HTTP/2.0\r\nhost: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "G\u{e9}T / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        // A head without Host, or with two.
        "GET /health HTTP/1.1\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\nname : value\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\na: b\r\n folded\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: x\r\na: \0\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        // Where the body ends must not be a matter of opinion.
        post(CHAT, "content-length: -1\r\n", ""),
        post(CHAT, "content-length: +1\r\n", "x"),
        post(CHAT, "content-length: 1x\r\n", "x"),
        post(CHAT, "content-length: 99999999999999999999999\r\n", ""),
        post(CHAT, "content-length: 2\r\ncontent-length: 2\r\n", "{}"),
        post(
            CHAT,
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        post(CHAT, "transfer-encoding: gzip\r\n", ""),
        post(CHAT, "transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        "POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\n\r\n{}".to_owned(),
    ] {
        let mut stream = sent(&server, &bytes);
        let response = answer(&mut stream);
        let error = response.error(400);
        assert_eq!(
            error.code.as_deref(),
            Some("malformed_request"),
            "{bytes:.60?}"
        );
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(rest(&mut stream), b"");
    }
    assert_eq!(
        server.metric("gossamer_api_errors_total{code=\"malformed_request\"}"),
        25.0
    );
}

#[test]
fn heads_that_are_too_large() {
    let server = server(Script::echo());
    let many: String = (0..200).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    for headers in [many, long] {
        let mut stream = server.client().connect();
        let head = format!("GET /health HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        // The server may answer and close before all of it is sent.
        let _ = stream.write_all(head.as_bytes());
        let error = answer(&mut stream).error(431);
        assert_eq!(error.code.as_deref(), Some("request_headers_too_large"));
    }
}

#[test]
fn ninety_headers_of_a_kilobyte_are_fine() {
    let headers: String = (0..90)
        .map(|i| format!("x-{i}: {}\r\n", "y".repeat(1000)))
        .collect();
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    answer(&mut sent(&server(Script::echo()), head)).ok();
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let server = server(Script::echo());
    answer(&mut sent(
        &server,
        "\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    ))
    .ok();
}

#[test]
fn targets_in_every_form() {
    let server = server(Script::echo());
    for (target, status) in [
        ("http://example.org/health", 200),
        ("/health?a=%00&b=%ff", 200),
        ("/%68ealth", 200),
        ("//health", 404),
        ("/../health", 404),
        ("/v1/models/%00", 404),
        ("/v1/models/%ff%fe", 404),
        ("/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("*", 404),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(answer(&mut sent(&server, head)).status, status, "{target}");
    }
    let options = "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n";
    let response = answer(&mut sent(&server, options));
    assert_eq!(
        (response.status, response.header("allow").is_some()),
        (204, true)
    );
    let connect = "CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n";
    assert_eq!(answer(&mut sent(&server, connect)).status, 404);
}

#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    let mut setup = TestSetup::new(Script::echo());
    setup.server.request_timeout = SHORT;
    let server = setup.start();
    let mut stream = sent(&server, "GET /health HTTP/1.1\r\nhost:");
    let error = answer(&mut stream).error(408);
    assert_eq!(error.code.as_deref(), Some("request_timeout"));
    assert_eq!(rest(&mut stream), b"");
}

/// The dispatcher times a connection's first head only.
#[test]
fn so_is_a_later_head() {
    let mut setup = TestSetup::new(Script::echo());
    setup.server.request_timeout = SHORT;
    let server = setup.start();
    let mut stream = sent(&server, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    answer(&mut stream).ok();
    // Idle, longer than a head may take: that is the keep-alive's business.
    std::thread::sleep(SHORT * 2);
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("still open");
    answer(&mut stream).ok();
    // One byte at a time does not help.
    let start = Instant::now();
    let mut reader = stream.try_clone().expect("a socket can be cloned");
    let slow = std::thread::spawn(move || {
        for byte in b"GET /health HTTP/1.1\r\nx-slow: ".iter().cycle() {
            if start.elapsed() > Duration::from_secs(5) || stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    answer(&mut reader).error(408);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    drop(reader);
    slow.join().expect("the slow writer ends");
}

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let mut setup = TestSetup::new(Script::echo());
    setup.server.request_timeout = SHORT;
    let server = setup.start();
    assert_eq!(rest(&mut sent(&server, "")), b"");
}

#[test]
fn an_idle_connection_is_closed_after_the_keep_alive() {
    let mut setup = TestSetup::new(Script::echo());
    setup.server.keep_alive = SHORT;
    let server = setup.start();
    let mut stream = sent(&server, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    answer(&mut stream).ok();
    assert_eq!(rest(&mut stream), b"");
}

#[test]
fn a_body_that_trickles_in_is_answered_with_408() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_timeout = SHORT;
    let server = setup.start();
    for framing in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stream = sent(&server, post(CHAT, framing, "2\r\n{"));
        let response = answer(&mut stream);
        assert_eq!(response.error(408).code.as_deref(), Some("request_timeout"));
        assert_eq!(response.header("connection"), Some("close"));
        drop(stream.shutdown(Shutdown::Write));
        assert_eq!(rest(&mut stream), b"");
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let mut setup = TestSetup::new(Script::always(&"word ".repeat(4000)));
    setup.server.write_timeout = SHORT;
    let server = setup.start();
    // Many answers, whose bytes fill every buffer on the way.
    let body = with(
        &chat("Hi"),
        json!({"stream": true, "logprobs": true, "top_logprobs": 20}),
    )
    .to_string();
    let mut stream = server.client().connect();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout can be set");
    for _ in 0..30 {
        if stream.write_all(with_length(&body).as_bytes()).is_err() {
            break;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    // The metrics are read without a connection.
    while server.metric("gossamer_api_connections_open") > 0.0 {
        assert!(Instant::now() < deadline, "the connection is still open");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.wait_until_idle();
    drop(stream);
}

#[test]
fn malformed_chunks() {
    let server = server(Script::echo());
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-1\r\n",
        "\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let mut stream = sent(
            &server,
            post(CHAT, "transfer-encoding: chunked\r\n", chunks),
        );
        let error = answer(&mut stream).error(400);
        assert_eq!(
            error.code.as_deref(),
            Some("malformed_request"),
            "{chunks:?}"
        );
        assert_eq!(rest(&mut stream), b"");
    }
}

#[test]
fn a_chunked_body_is_read_whole_and_the_connection_goes_on() {
    let server = server(Script::always(HELLO));
    let body = chat("Hi").to_string();
    let chunks: String = (body.as_bytes().chunks(7))
        .map(|chunk| {
            format!(
                "{:x};ext=1\r\n{}\r\n",
                chunk.len(),
                String::from_utf8_lossy(chunk)
            )
        })
        .collect();
    let request = post(
        CHAT,
        "transfer-encoding: chunked\r\n",
        &format!("{chunks}0\r\nx-trailer: 1\r\n\r\n"),
    );
    let mut stream = sent(&server, request);
    answer(&mut stream).ok();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("still open");
    answer(&mut stream).ok();
}

/// The dispatcher would read an unwanted chunked body to its end, which need not have one.
#[test]
fn an_endless_body_that_nobody_wants_is_not_read_forever() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 1024;
    setup.server.request_timeout = SHORT;
    let server = setup.start();
    for (path, status) in [(CHAT, 413), ("/nowhere", 404)] {
        let mut stream = sent(&server, post(path, "transfer-encoding: chunked\r\n", ""));
        let mut writer = stream.try_clone().expect("a socket can be cloned");
        let endless = std::thread::spawn(move || {
            let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(10) {
                if writer.write_all(chunk.as_bytes()).is_err() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        });
        let response = answer(&mut stream);
        assert_eq!(response.status, status);
        assert_eq!(response.header("connection"), Some("close"));
        assert!(
            endless.join().expect("the writer ends"),
            "{path}: it was read on and on"
        );
    }
}

#[test]
fn a_refused_body_does_not_cost_the_answer() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 1024;
    let server = setup.start();
    let body = " ".repeat(4 << 20);
    for (path, status) in [(CHAT, 413), ("/nowhere", 404), ("/health", 405)] {
        let request = post(path, &format!("content-length: {}\r\n", body.len()), "");
        let mut stream = sent(&server, request);
        // The server has answered by now, or will while this is on its way: it must not be a reset.
        let _ = stream.write_all(body.as_bytes());
        let response = answer(&mut stream);
        assert_eq!(response.status, status);
        assert_eq!(response.header("connection"), Some("close"));
    }
}

#[test]
fn all_bodies_together_are_bounded() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 1000;
    setup.api.body_memory = 1500;
    let server = setup.start();
    let half = post(CHAT, "content-length: 1000\r\n", &" ".repeat(990));
    let first = sent(&server, &half);
    // The first one's bytes are held once a second one of the same size finds no room.
    let deadline = Instant::now() + Duration::from_secs(10);
    let response = loop {
        let mut second = sent(&server, &half);
        second
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout can be set");
        let mut first_byte = [0];
        match second.peek(&mut first_byte) {
            Ok(_) => break answer(&mut second),
            Err(_) => assert!(Instant::now() < deadline, "both were read"),
        }
    };
    assert_eq!(
        response.error(503).code.as_deref(),
        Some("server_overloaded")
    );
    assert!(response.header("retry-after").is_some());
    drop(first);
    // Its share is given back.
    loop {
        let response = server.client().post(CHAT, &chat(&"x".repeat(800)));
        if response.status == 200 {
            break;
        }
        response.error(503);
        assert!(Instant::now() < deadline, "the share was not given back");
    }
}

#[test]
fn continue_is_said_when_the_body_is_wanted() {
    let server = server(Script::echo());
    let body = chat("Hi").to_string();
    let head = post(
        CHAT,
        &format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len()),
        "",
    );
    let mut stream = sent(&server, head);
    let mut line = [0; 25];
    stream.read_exact(&mut line).expect("100 Continue");
    assert_eq!(&line[..], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).expect("sent");
    answer(&mut stream).ok();
    // And the connection goes on.
    stream
        .write_all(with_length(&body).as_bytes())
        .expect("still open");
    answer(&mut stream).ok();
}

#[test]
fn and_not_when_the_head_is_enough_to_refuse() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 1000;
    let server = setup.start();
    let expect = "content-length: 5000\r\nexpect: 100-continue\r\n";
    for (request, status) in [
        (post(CHAT, expect, ""), 413),
        (post("/nowhere", expect, ""), 404),
        (post("/health", expect, ""), 405),
        (
            format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n{expect}\r\n"),
            415,
        ),
    ] {
        // The first bytes of the answer are a final status line, or this is not an answer.
        assert_eq!(
            answer(&mut sent(&server, &request)).status,
            status,
            "{request:.60}"
        );
    }
}

#[test]
fn http_1_0_gets_no_chunks() {
    let server = server(Script::always(HELLO));
    let body = with(&chat("Hi"), json!({"stream": true})).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let text = String::from_utf8(rest(&mut sent(&server, head))).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    assert!(!head.contains("chunked"), "{head}");
    assert!(
        body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"),
        "{body}"
    );

    // Whole answers, with and without keep-alive.
    let mut stream = sent(
        &server,
        "GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    );
    answer(&mut stream).ok();
    stream
        .write_all(b"GET /health HTTP/1.0\r\n\r\n")
        .expect("still open");
    answer(&mut stream).ok();
    assert_eq!(rest(&mut stream), b"");
}

#[test]
fn a_request_for_an_upgrade_is_answered_as_if_it_had_not_asked() {
    let server = server(Script::always(HELLO));
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    let head = format!("GET /health HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n");
    let mut stream = sent(&server, head);
    answer(&mut stream).ok();
    for more in [json!({}), json!({"stream": true})] {
        let body = with(&chat("Hi"), more).to_string();
        let request = post(
            CHAT,
            &format!("{upgrade}content-length: {}\r\n", body.len()),
            &body,
        );
        let mut stream = sent(&server, request);
        let response = answer(&mut stream);
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(response.text().contains("world"), "{}", response.text());
    }
}
