//! HTTP itself: paths, methods, sizes, types, ids, connections that go on after an error.

use std::io::{BufReader, Write};
use std::time::Duration;

use gossamer_testkit::client::Response;
use gossamer_testkit::{Script, TestSetup};
use serde_json::json;

use crate::common::{CHAT, chat, server};

#[test]
fn unknown_paths() {
    let server = server(Script::echo());
    for (method, path) in [
        ("GET", "/"),
        ("POST", "/v1/chat"),
        ("GET", "/v1/chat/completions/"),
        ("DELETE", "/nope?x=1"),
    ] {
        let error = server.client().request(method, path, &[], b"").error(404);
        assert_eq!(
            error.code.as_deref(),
            Some("unknown_url"),
            "{method} {path}"
        );
    }
}

#[test]
fn wrong_methods_say_which_are_right() {
    let server = server(Script::echo());
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("DELETE", "/v1/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/models/x", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("PATCH", "/metrics", "GET, HEAD, OPTIONS"),
    ] {
        let response = server.client().request(method, path, &[], b"");
        assert_eq!(
            response.error(405).code.as_deref(),
            Some("method_not_allowed")
        );
        assert_eq!(response.header("allow"), Some(allow));
    }
}

#[test]
fn options_say_what_is_allowed() {
    let server = server(Script::echo());
    for (path, allow) in [
        (CHAT, "POST, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
    ] {
        let response = server.client().request("OPTIONS", path, &[], b"");
        assert_eq!((response.status, response.body.len()), (204, 0));
        assert_eq!(response.header("allow"), Some(allow));
    }
    server
        .client()
        .request("OPTIONS", "/nowhere", &[], b"")
        .error(404);
}

#[test]
fn head_is_get_without_a_body() {
    let server = server(Script::echo());
    let response = server.client().request("HEAD", "/health", &[], b"");
    assert_eq!((response.status, response.body.len()), (200, 0));
    assert_eq!(response.header("content-type"), Some("application/json"));
}

#[test]
fn only_declared_json_is_read() {
    let server = server(Script::echo());
    let body = chat("Hi").to_string();
    let post = |headers: &[(&str, &str)]| {
        server
            .client()
            .request("POST", CHAT, headers, body.as_bytes())
    };
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/json; charset=utf-16")],
        &[("content-type", "application/jsonx")],
        &[
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ],
        &[
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ],
    ] {
        let error = post(headers).error(415);
        assert_eq!(
            error.code.as_deref(),
            Some("unsupported_content_type"),
            "{headers:?}"
        );
    }
    post(&[("content-type", "Application/JSON; charset=utf-8")]).ok();
}

#[test]
fn a_body_over_the_limit_is_refused_by_its_length_alone() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 1000;
    let server = setup.start();
    let mut stream = server.client().connect();
    // Not one byte of the body is sent.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1001\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let error = Response::read(&mut BufReader::new(stream), "POST").error(413);
    assert_eq!(error.code.as_deref(), Some("request_too_large"));

    let large = server.client().post(CHAT, &chat(&"x".repeat(100_000)));
    large.error(413);
    let fits = server.client().post(CHAT, &chat(&"x".repeat(800)));
    fits.ok();
}

#[test]
fn a_chunked_body_over_the_limit_is_refused_too() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_limit = 100;
    let server = setup.start();
    let mut stream = server.client().connect();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    stream
        .write_all(format!("80\r\n{}\r\n", " ".repeat(128)).as_bytes())
        .expect("sent");
    Response::read(&mut BufReader::new(stream), "POST").error(413);
}

#[test]
fn a_body_that_does_not_arrive_is_not_waited_for_forever() {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.body_timeout = Duration::from_millis(50);
    let server = setup.start();
    let mut stream = server.client().connect();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("sent");
    let error = Response::read(&mut BufReader::new(stream), "POST").error(408);
    assert_eq!(error.code.as_deref(), Some("request_timeout"));
}

#[test]
fn a_sane_request_id_comes_back_and_another_is_replaced() {
    let server = server(Script::echo());
    let id = |given: &str| {
        let response = server
            .client()
            .request("GET", "/health", &[("x-request-id", given)], b"");
        response.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(id("my-trace_42"), "my-trace_42");
    for bad in ["has space", "quote\"", &"x".repeat(200)] {
        let made = id(bad);
        assert!(made.starts_with("req_") && made.len() == 28, "{made}");
    }
    assert_ne!(id(""), id(""));
}

#[test]
fn a_connection_goes_on_after_errors() {
    let server = server(Script::echo());
    let stream = server.client().connect();
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut stream = stream;
    let mut ask = |method: &str, path: &str, body: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .expect("the connection is open");
        Response::read(&mut reader, method)
    };
    ask("POST", CHAT, "{nonsense").error(400);
    ask("GET", "/nowhere", "").error(404);
    ask("GET", CHAT, "").error(405);
    ask(
        "POST",
        CHAT,
        &json!({"model": "no", "messages": []}).to_string(),
    )
    .error(404);
    ask("POST", CHAT, &chat("still here").to_string()).ok();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = server(Script::echo());
    let mut stream = server.client().connect();
    let one = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let two = "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    stream
        .write_all(format!("{one}{two}").as_bytes())
        .expect("sent");
    let mut reader = BufReader::new(stream);
    assert_eq!(Response::read(&mut reader, "GET").ok()["status"], "ok");
    assert_eq!(Response::read(&mut reader, "GET").ok()["object"], "list");
}
