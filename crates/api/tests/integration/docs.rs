//! `/openapi.json` and `/docs`: what a browser gets. What it makes of it is a matter for `tests/browser`.

use gossamer_testkit::Script;

use crate::common::server;

#[test]
fn the_document_is_served() {
    let server = server(Script::echo());
    let response = server.client().get("/openapi.json");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let document = serde_json::to_value(gossamer_api::openapi()).expect("JSON");
    assert_eq!(response.ok(), document);
}

#[test]
fn the_page_is_served_with_and_without_its_slash() {
    let server = server(Script::echo());
    let client = server.client();
    let redirect = client.get("/docs");
    assert_eq!(redirect.status, 308);
    assert_eq!(redirect.header("location"), Some("docs/"));
    for name in [
        "",
        "index.html",
        "index.css",
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
        "swagger-initializer.js",
        "favicon-16x16.png",
        "favicon-32x32.png",
    ] {
        let response = client.get(&format!("/docs/{name}"));
        assert_eq!(response.status, 200, "{name}");
        assert!(!response.body.is_empty(), "{name}");
        let policy = response
            .header("content-security-policy")
            .expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        for loose in ["unsafe", "http:", "https:", "*"] {
            assert!(!policy.contains(loose), "{policy}");
        }
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let head = client.request("HEAD", &format!("/docs/{name}"), &[], b"");
        assert_eq!(head.status, 200, "{name}");
    }
    let initializer = client.get("/docs/swagger-initializer.js");
    let script = initializer.text();
    assert!(script.contains("../openapi.json"), "{script}");
    assert!(script.contains("\"validatorUrl\": \"none\""), "{script}");
}

#[test]
fn nothing_else_is_under_docs() {
    let server = server(Script::echo());
    let client = server.client();
    for path in [
        "/docs/nope",
        "/docs/oauth2-redirect.html",
        "/docs/../Cargo.toml",
        "/docs/%2e%2e%2fCargo.toml",
        "/docs/a/b",
        "/docsx",
    ] {
        let error = client.get(path).error(404);
        assert_eq!(error.code.as_deref(), Some("unknown_url"), "{path}");
    }
    for path in ["/docs", "/docs/", "/openapi.json"] {
        let response = client.request("POST", path, &[], b"");
        assert_eq!(
            response.error(405).code.as_deref(),
            Some("method_not_allowed")
        );
        assert_eq!(response.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
}
