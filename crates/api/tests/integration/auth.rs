//! Who is let in: every route, with every kind of credential that is none.
//!
//! "No work" is what the scheduler and the executor say afterwards, and that the answer came before the body was sent.

use std::io::{BufReader, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gossamer_api::auth::{
    JwtAlgorithm, JwtConfig, Limits, NewKey, Scope, Scopes, create_key, revoke_key,
};
use gossamer_testkit::client::Response;
use gossamer_testkit::{Script, TestServer, TestSetup};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{CHAT, COMPLETIONS, HELLO, chat, completion};

const SECRET: &[u8] = b"a secret of the tests, 32 bytes!";

/// A server with a key file and HS256 tokens for the audience `gossamer`.
pub struct Guarded {
    pub server: TestServer,
    folder: TempDir,
}

impl Guarded {
    pub fn start(change: impl FnOnce(&mut TestSetup)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut setup = TestSetup::new(Script::always(HELLO));
        let keys = folder.path().join("keys.json");
        std::fs::write(&keys, r#"{"version": 1, "keys": []}"#).expect("written");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).expect("written");
        setup.auth.key_file = Some(keys);
        setup.auth.jwt = Some(JwtConfig {
            secret_file: Some(secret),
            algorithms: vec![JwtAlgorithm::Hs256],
            audience: vec!["gossamer".into()],
            leeway_seconds: 0,
            ..JwtConfig::without_keys()
        });
        change(&mut setup);
        let server = setup.start();
        Self { server, folder }
    }

    /// Makes a key while the server runs.
    pub fn key(&self, scopes: &[Scope]) -> String {
        self.new_key(scopes, None, Limits::default()).0
    }

    /// A key's text and its id.
    pub fn new_key(
        &self,
        scopes: &[Scope],
        lifetime: Option<Duration>,
        limits: Limits,
    ) -> (String, String) {
        let new = NewKey {
            name: "test".into(),
            scopes: Scopes::of(scopes),
            lifetime,
            limits,
        };
        // One that has a lifetime has just reached its end.
        let created = now() - lifetime.map_or(0, |lifetime| lifetime.as_secs() as i64);
        let path = self.folder.path().join("keys.json");
        let (secret, record) = create_key(&path, new, created).expect("a key");
        (secret.reveal().to_owned(), record.id)
    }

    pub fn ask(&self, method: &str, path: &str, credential: &str, body: &[u8]) -> Response {
        let value = format!("Bearer {credential}");
        let mut headers = vec![("authorization", value.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        self.server.client().request(method, path, &headers, body)
    }

    pub fn chat(&self, credential: &str) -> Response {
        self.ask("POST", CHAT, credential, chat("Hi").to_string().as_bytes())
    }

    fn assert_no_work(&self) {
        let stats = self.server.scheduler.stats();
        assert_eq!((stats.running, stats.waiting), (0, 0));
        assert_eq!(self.server.control.steps(), 0, "a step was executed");
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET);
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

fn claims() -> Value {
    json!({"sub": "alice", "aud": "gossamer", "exp": now() + 600, "scope": "inference models"})
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

/// Method, path and body of every route that the OpenAPI document names, but `/health`. Where the body is `{}`, a request that
/// is let in is answered with 400.
fn every_route() -> Vec<(String, String, String)> {
    let document = serde_json::to_value(gossamer_api::openapi()).expect("the document is JSON");
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{model}", "test-model");
        for method in ["get", "post", "put", "delete"] {
            let body = match (method, path.as_str()) {
                ("post", CHAT) => chat("Hi").to_string(),
                ("post", COMPLETIONS) => completion("Hi").to_string(),
                ("post", _) => "{}".to_owned(),
                _ => String::new(),
            };
            if path != "/health" && item.get(method).is_some() {
                routes.push((method.to_uppercase(), path.clone(), body));
            }
        }
    }
    assert!(routes.len() >= 7, "{routes:?}");
    routes
}

fn assert_unauthorized(response: &Response, what: &str) {
    assert_eq!(response.status, 401, "{what}");
    let challenge = response.header("www-authenticate").expect("a challenge");
    assert!(
        challenge.starts_with("Bearer realm=\"gossamer\""),
        "{challenge}"
    );
    if !response.body.is_empty() {
        let error = response.error(401);
        if response.header("request-id").is_some() {
            // Anthropic's form.
            assert_eq!(error.kind, "authentication_error", "{what}");
            return;
        }
        assert_eq!(error.code.as_deref(), Some("invalid_api_key"), "{what}");
        assert_eq!(error.kind, "invalid_request_error");
    }
}

#[test]
fn nothing_but_health_is_open_and_nothing_is_done() {
    let guarded = Guarded::start(|_| {});
    let client = guarded.server.client();
    let mut paths = every_route();
    for path in [
        "/",
        "/nope",
        "/v1",
        "/docs",
        "/openapi.json",
        "/health/",
        "//health",
        "/health%2f",
        "/v1/models/../../health",
    ] {
        paths.push(("GET".into(), path.into(), String::new()));
    }
    for (_, path, body) in &paths {
        for method in [
            "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW",
        ] {
            let headers = [("content-type", "application/json")];
            let response = client.request(method, path, &headers, body.as_bytes());
            assert_unauthorized(&response, &format!("{method} {path}"));
        }
    }
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.get("/health?x=/metrics").status, 200);
    assert_eq!(client.get("/%68ealth").status, 200);
    guarded.assert_no_work();
    assert!(
        guarded
            .server
            .metric("gossamer_api_errors_total{code=\"invalid_api_key\"}")
            > 100.0
    );
}

#[test]
fn the_answer_comes_before_the_body_and_before_every_other_mistake() {
    let guarded = Guarded::start(|setup| setup.api.body_limit = 1000);
    for head in [
        // Announced and never sent; too large; not JSON; no content type.
        "content-type: application/json\r\ncontent-length: 100\r\n",
        "content-type: application/json\r\ncontent-length: 1000000000\r\n",
        "content-type: application/json\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\n",
    ] {
        let mut stream = guarded.server.client().connect();
        let request = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let response = Response::read(&mut BufReader::new(stream), "POST");
        assert_unauthorized(&response, head);
    }
    guarded.assert_no_work();
}

#[test]
fn credentials_that_are_none() {
    let guarded = Guarded::start(|_| {});
    let key = guarded.key(Scope::ALL);
    let (expired, _) = guarded.new_key(Scope::ALL, Some(Duration::from_secs(1)), Limits::default());
    let (revoked, id) = guarded.new_key(Scope::ALL, None, Limits::default());
    let path = guarded.folder.path().join("keys.json");
    assert_eq!(guarded.ask("GET", "/v1/models", &revoked, b"").status, 200);
    revoke_key(&path, &id, now()).expect("revoked");
    let of_another_server = {
        let folder = tempfile::tempdir().expect("a folder");
        let new = NewKey {
            name: "x".into(),
            scopes: Scopes::ALL,
            lifetime: None,
            limits: Limits::default(),
        };
        let (secret, _) = create_key(&folder.path().join("k"), new, 0).expect("a key");
        secret.reveal().to_owned()
    };
    let one_letter = |key: &str| {
        let last = if key.ends_with('A') { 'B' } else { 'A' };
        format!("{}{last}", &key[..key.len() - 1])
    };
    let none = "eyJhbGciOiJub25lIn0";
    let good = token(&claims());
    let payload = good.split('.').nth(1).expect("a payload").to_owned();
    let other_secret = EncodingKey::from_secret(b"a secret that somebody else chose");
    let header = Header::new(Algorithm::HS256);
    let cases = [
        ("wrong letter", one_letter(&key)),
        ("cut", key[..key.len() - 1].to_owned()),
        ("id only", key[..19].to_owned()),
        ("upper case", key.to_uppercase()),
        ("expired key", expired),
        ("revoked key", revoked),
        ("another server's key", of_another_server),
        ("OpenAI's", "sk-proj-abcdefghijklmnopqrstuvwxyz".to_owned()),
        ("word", "unused".to_owned()),
        ("two words", format!("{key} {key}")),
        (
            "forged",
            encode(&header, &claims(), &other_secret).expect("a token"),
        ),
        ("alg none", format!("{none}.{payload}.")),
        (
            "alg none, signed",
            format!(
                "{none}.{payload}.{}",
                good.split('.').nth(2).expect("three")
            ),
        ),
        ("signature of another", one_letter(&good)),
        ("expired", token(&with("exp", json!(now() - 60)))),
        ("not yet", token(&with("nbf", json!(now() + 600)))),
        ("wrong audience", token(&with("aud", json!("another")))),
        (
            "no audience",
            token(&json!({"sub": "a", "exp": now() + 60, "scope": "inference"})),
        ),
        (
            "no expiry",
            token(&json!({"sub": "a", "aud": "gossamer", "scope": "inference"})),
        ),
        ("dots", "..".to_owned()),
    ];
    for (what, credential) in &cases {
        for (method, path, body) in every_route() {
            let response = guarded.ask(&method, &path, credential, body.as_bytes());
            assert_unauthorized(&response, &format!("{what} {path}"));
            let challenge = response.header("www-authenticate").expect("a challenge");
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
            let secret = &credential[credential.len() / 2..];
            assert!(
                secret.len() < 4 || !response.text().contains(secret),
                "{what}"
            );
        }
    }
    guarded.assert_no_work();
    assert_eq!(guarded.chat(&key).status, 200);
    assert_eq!(guarded.chat(&good).status, 200);
}

#[test]
fn headers_in_other_forms() {
    let guarded = Guarded::start(|_| {});
    let key = guarded.key(&[Scope::Models]);
    let get = |values: &[String]| {
        let headers: Vec<(&str, &str)> = values
            .iter()
            .map(|v| ("authorization", v.as_str()))
            .collect();
        guarded
            .server
            .client()
            .request("GET", "/v1/models", &headers, b"")
            .status
    };
    for good in [
        format!("Bearer {key}"),
        format!("bearer {key}"),
        format!("BEARER   {key}  "),
    ] {
        assert_eq!(get(std::slice::from_ref(&good)), 200, "{good}");
    }
    for bad in [
        key.clone(),
        format!("Basic {key}"),
        format!("Bearer{key}"),
        "Bearer".into(),
        "Bearer ".into(),
        String::new(),
        format!("Bearer \u{e9}{key}"),
    ] {
        assert_eq!(get(std::slice::from_ref(&bad)), 401, "{bad}");
    }
    assert_eq!(
        get(&[format!("Bearer {key}"), format!("Bearer {key}")]),
        401
    );
    let path = format!("/v1/models?api_key={key}");
    assert_eq!(guarded.server.client().get(&path).status, 401);
}

#[test]
fn each_scope_opens_its_routes_and_no_other() {
    let guarded = Guarded::start(|_| {});
    let known = [
        (CHAT, Scope::Inference),
        (COMPLETIONS, Scope::Inference),
        ("/v1/models", Scope::Models),
        ("/v1/models/test-model", Scope::Models),
        ("/ready", Scope::Status),
        ("/info", Scope::Status),
        ("/metrics", Scope::Metrics),
    ];
    let credentials: Vec<(Scope, [String; 2])> = (Scope::ALL.iter())
        .map(|scope| {
            let scopes = format!("openid {}", scope.as_str());
            (
                *scope,
                [guarded.key(&[*scope]), token(&with("scope", json!(scopes)))],
            )
        })
        .collect();
    for (method, path, body) in every_route() {
        let mut opened_by = Vec::new();
        let mut asked_for = Vec::new();
        for (scope, credentials) in &credentials {
            for credential in credentials {
                let response = guarded.ask(&method, &path, credential, body.as_bytes());
                if response.status != 403 {
                    assert_ne!(response.status, 401, "{path}");
                    opened_by.push(*scope);
                    continue;
                }
                let error = response.error(403);
                match response.header("request-id") {
                    None => assert_eq!(error.code.as_deref(), Some("missing_scope")),
                    Some(_) => assert_eq!(error.kind, "permission_error"),
                }
                let challenge = response.header("www-authenticate").expect("a challenge");
                let (_, needed) = challenge
                    .rsplit_once("error=\"insufficient_scope\", scope=")
                    .expect("a scope");
                let needed = Scope::parse(needed.trim_matches('"')).expect("a scope");
                let sentence = format!("Missing scopes: {}.", needed.as_str());
                assert!(error.message.contains(&sentence), "{}", error.message);
                asked_for.push(needed);
            }
        }
        // A key and a token of one scope, and all others were told to get it.
        assert_eq!(opened_by.len(), 2, "{path} is opened by {opened_by:?}");
        assert_eq!(opened_by[0], opened_by[1], "{path}");
        assert!(
            asked_for.iter().all(|needed| *needed == opened_by[0]),
            "{path}"
        );
        if let Some((_, scope)) = known.iter().find(|(known, _)| *known == path) {
            assert_eq!(opened_by[0], *scope, "{path}");
        }
    }
    // The same row, however the path is written.
    let models = guarded.key(&[Scope::Models]);
    for path in [
        "/metrics?x",
        "/%6detrics",
        "/m%65trics",
        "/%6D%65%74%72%69%63%73",
    ] {
        assert_eq!(guarded.ask("GET", path, &models, b"").status, 403, "{path}");
    }
}

#[test]
fn whoever_has_a_credential_learns_what_is_not_there() {
    let guarded = Guarded::start(|_| {});
    let key = guarded.key(&[Scope::Docs]);
    let response = guarded.ask("GET", "/nope", &key, b"");
    assert_eq!(response.error(404).code.as_deref(), Some("unknown_url"));
    let models = guarded.key(&[Scope::Models]);
    assert_eq!(
        guarded.ask("DELETE", "/v1/models", &models, b"").status,
        405
    );
}

#[test]
fn what_is_open_to_all_needs_no_key_but_refuses_a_wrong_one() {
    let guarded = Guarded::start(|setup| {
        setup.auth.anonymous_scopes = Scopes::of(&[Scope::Metrics]);
    });
    let client = guarded.server.client();
    assert_eq!(client.get("/metrics").status, 200);
    let key = guarded.key(&[Scope::Models]);
    assert_eq!(guarded.ask("GET", "/metrics", &key, b"").status, 200);
    assert_eq!(guarded.ask("GET", "/info", &key, b"").status, 403);
    assert_unauthorized(
        &guarded.ask("GET", "/metrics", "sk-wrong", b""),
        "wrong key",
    );
    for path in ["/info", "/v1/models", "/nope"] {
        assert_unauthorized(&client.get(path), path);
    }
}

#[test]
fn the_key_file_is_read_again() {
    let guarded = Guarded::start(|_| {});
    let (key, id) = guarded.new_key(&[Scope::Models], None, Limits::default());
    let ask = || guarded.ask("GET", "/v1/models", &key, b"").status;
    assert_eq!(ask(), 200);
    let path = guarded.folder.path().join("keys.json");
    let text = std::fs::read(&path).expect("read");
    std::fs::write(&path, "{ half a file").expect("written");
    assert_eq!(ask(), 200, "the last good file holds");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(ask(), 401, "no file, no keys");
    std::fs::write(&path, text).expect("written");
    assert_eq!(ask(), 200);
    revoke_key(&path, &id, now()).expect("revoked");
    assert_eq!(ask(), 401);
    let error = guarded.ask("GET", "/v1/models", &key, b"").error(401);
    assert_eq!(error.message, "The API key has been revoked.");
}

#[test]
fn without_credentials_to_check_any_key_will_do() {
    let server = TestSetup::new(Script::always(HELLO)).start();
    for value in ["Bearer unused", "Basic x", ""] {
        let headers = [
            ("authorization", value),
            ("content-type", "application/json"),
        ];
        let body = chat("Hi").to_string();
        let response = server
            .client()
            .request("POST", CHAT, &headers, body.as_bytes());
        assert_eq!(response.status, 200, "{value}");
        assert!(
            response
                .headers
                .iter()
                .all(|(name, _)| !name.starts_with("x-ratelimit"))
        );
    }
}
