//! Browsers of other origins: preflights, and headers on every answer, errors included.

use gossamer_testkit::client::Response;
use gossamer_testkit::{Script, TestServer, TestSetup};

use crate::common::{CHAT, server};

fn open_to(origins: &[&str]) -> TestServer {
    let mut setup = TestSetup::new(Script::echo());
    setup.api.cors_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
    setup.start()
}

fn ask(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    server.client().request(method, path, headers, b"")
}

fn preflight(server: &TestServer, origin: &str, asked: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", asked),
    ];
    ask(server, "OPTIONS", CHAT, &headers)
}

#[test]
fn a_preflight_is_answered_with_what_a_client_needs() {
    let server = open_to(&["https://a.example", "http://localhost:3000/"]);
    for origin in ["https://a.example", "http://localhost:3000"] {
        let response = preflight(&server, origin, "content-type,x-stainless-os, \"bad\"");
        assert_eq!((response.status, response.body.len()), (204, 0));
        let header = |name| {
            response
                .header(name)
                .unwrap_or_else(|| panic!("{name}: {response:?}"))
        };
        assert_eq!(header("access-control-allow-origin"), origin);
        assert!(header("access-control-allow-methods").contains("POST"));
        assert_eq!(
            header("access-control-allow-headers"),
            "authorization, content-type, x-api-key, x-request-id, x-stainless-os"
        );
        assert_eq!(header("access-control-max-age"), "600");
        assert!(header("vary").contains("origin"));
        assert_eq!(response.header("access-control-allow-credentials"), None);
    }
}

#[test]
fn answers_and_errors_can_be_read_by_the_page() {
    let server = open_to(&["https://a.example"]);
    for (method, path, status) in [
        ("GET", "/v1/models", 200),
        ("GET", "/nowhere", 404),
        ("GET", CHAT, 405),
    ] {
        let response = ask(&server, method, path, &[("origin", "https://a.example")]);
        assert_eq!(response.status, status);
        assert_eq!(
            response.header("access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(response.header("vary"), Some("origin"));
        let exposed = response
            .header("access-control-expose-headers")
            .unwrap_or("");
        for name in [
            "x-request-id",
            "retry-after",
            "retry-after-ms",
            "x-should-retry",
            "x-ratelimit-remaining-tokens",
        ] {
            assert!(exposed.contains(name), "{name} in {exposed:?}");
        }
    }
}

#[test]
fn other_origins_get_no_header() {
    let closed = server(Script::echo());
    let listed = open_to(&["https://a.example"]);
    for server in [&closed, &listed] {
        for origin in [
            "https://b.example",
            "https://a.example.evil",
            "http://a.example:81",
            "null",
        ] {
            let response = preflight(server, origin, "authorization");
            assert_eq!(
                (response.status, response.header("allow")),
                (204, Some("POST, OPTIONS"))
            );
            assert_eq!(
                response.header("access-control-allow-origin"),
                None,
                "{origin}"
            );
            let response = ask(server, "GET", "/health", &[("origin", origin)]);
            assert_eq!(response.status, 200);
            assert_eq!(
                response.header("access-control-allow-origin"),
                None,
                "{origin}"
            );
        }
    }
}

#[test]
fn any_origin_can_be_allowed() {
    let server = open_to(&["*"]);
    let response = preflight(&server, "https://any.example", "authorization");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    let response = ask(&server, "GET", "/health", &[("origin", "null")]);
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    // Same-origin requests and other programs send no origin.
    let response = ask(&server, "GET", "/health", &[]);
    assert_eq!(response.header("access-control-allow-origin"), None);
}
