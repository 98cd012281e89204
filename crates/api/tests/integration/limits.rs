//! Keys over their limits: 429, and headers that say what is so. Time stands still unless a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gossamer_api::auth::{Clock, Limits, Scope};
use gossamer_testkit::client::Response;
use gossamer_testkit::{Script, TestSetup};
use serde_json::json;

use crate::auth::Guarded;
use crate::common::{CHAT, COMPLETIONS, HELLO, chat, completion, with};

/// A server whose clock is the test's, with these limits for every key.
fn limited(limits: Limits) -> (Guarded, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Clock::Manual(Arc::clone(&time));
    let guarded = Guarded::start(|setup| {
        setup.auth.limits = limits;
        setup.auth.clock = clock;
    });
    (guarded, time)
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.header(&format!("x-ratelimit-{name}"))
}

fn number(response: &Response, name: &str) -> u64 {
    let value = header(response, name).unwrap_or_else(|| panic!("x-ratelimit-{name}"));
    value.parse().expect("a number")
}

#[test]
fn requests_per_minute() {
    let (guarded, time) = limited(Limits {
        requests_per_minute: Some(3),
        ..Limits::default()
    });
    let key = guarded.key(&[Scope::Inference, Scope::Models]);
    for (remaining, reset) in [(2, "20s"), (1, "40s"), (0, "1m0s")] {
        let response = guarded.chat(&key);
        assert_eq!(response.status, 200);
        assert_eq!(number(&response, "limit-requests"), 3);
        assert_eq!(number(&response, "remaining-requests"), remaining);
        assert_eq!(header(&response, "reset-requests"), Some(reset));
        assert_eq!(header(&response, "limit-tokens"), None);
    }
    time.store(500, Ordering::SeqCst);
    let response = guarded.chat(&key);
    let error = response.error(429);
    assert_eq!(error.code.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(error.kind, "requests");
    assert_eq!(
        error.message,
        "Rate limit reached: 3 requests per minute. Try again in 19.5s."
    );
    assert_eq!(response.header("retry-after"), Some("20"));
    assert_eq!(response.header("retry-after-ms"), Some("19500"));
    assert_eq!(number(&response, "remaining-requests"), 0);

    // Not earlier, and not later.
    time.store(19_999, Ordering::SeqCst);
    guarded.chat(&key).error(429);
    time.store(20_000, Ordering::SeqCst);
    assert_eq!(guarded.chat(&key).status, 200);
    guarded.chat(&key).error(429);
    // Another key has its own account; looking at the models costs nothing; a bad request costs one.
    let other = guarded.key(&[Scope::Inference]);
    assert_eq!(guarded.chat(&other).status, 200);
    let response = guarded.ask("GET", "/v1/models", &key, b"");
    assert_eq!(
        (response.status, header(&response, "limit-requests")),
        (200, None)
    );
    let response = guarded.ask("POST", CHAT, &other, b"{");
    response.error(400);
    assert_eq!(number(&response, "remaining-requests"), 1);
}

#[test]
fn tokens_per_minute() {
    let (guarded, time) = limited(Limits {
        tokens_per_minute: Some(150),
        ..Limits::default()
    });
    let key = guarded.key(&[Scope::Inference]);
    let body = completion(vec![100; 100]).to_string();
    let ask = || guarded.ask("POST", COMPLETIONS, &key, body.as_bytes());
    let response = ask();
    let used = response.ok()["usage"]["total_tokens"]
        .as_u64()
        .expect("usage");
    assert!((101..150).contains(&used), "{used}");
    let left = 150 - used;
    assert_eq!(number(&response, "limit-tokens"), 150);
    assert_eq!(number(&response, "remaining-tokens"), left);
    assert_eq!(header(&response, "limit-requests"), None);

    let steps = guarded.server.control.steps();
    let response = ask();
    let error = response.error(429);
    assert_eq!(
        (error.kind.as_str(), error.code.as_deref()),
        ("tokens", Some("rate_limit_exceeded"))
    );
    assert_eq!(
        number(&response, "remaining-tokens"),
        left,
        "a refused request costs nothing"
    );
    assert_eq!(
        guarded.server.control.steps(),
        steps,
        "a refused request is not computed"
    );
    // 150 tokens a minute are one each 400 ms.
    let wait = (100 - left) * 400;
    assert_eq!(
        response.header("retry-after-ms"),
        Some(wait.to_string().as_str())
    );
    time.store(wait - 1, Ordering::SeqCst);
    ask().error(429);
    time.store(wait, Ordering::SeqCst);
    assert_eq!(ask().status, 200);
}

#[test]
fn a_prompt_that_never_fits_the_limit_is_not_tried_again() {
    let (guarded, _) = limited(Limits {
        tokens_per_minute: Some(50),
        ..Limits::default()
    });
    let key = guarded.key(&[Scope::Inference]);
    let body = completion(vec![100; 51]).to_string();
    let response = guarded.ask("POST", COMPLETIONS, &key, body.as_bytes());
    let error = response.error(429);
    assert!(
        error.message.contains("the prompt alone has 51 tokens"),
        "{}",
        error.message
    );
    assert_eq!(response.header("retry-after"), None);
    assert_eq!(response.header("x-should-retry"), Some("false"));
    assert_eq!(number(&response, "remaining-tokens"), 50);
}

#[test]
fn requests_at_a_time() {
    let (guarded, _) = limited(Limits {
        concurrent_requests: Some(1),
        ..Limits::default()
    });
    let key = guarded.key(&[Scope::Inference]);
    let control = &guarded.server.control;
    control.hold();
    let value = format!("Bearer {key}");
    let headers = [
        ("authorization", value.as_str()),
        ("content-type", "application/json"),
    ];
    let body = with(&chat("Hi"), json!({"stream": true})).to_string();
    // A stream whose head has arrived runs for certain.
    let stream = guarded
        .server
        .client()
        .open("POST", CHAT, &headers, body.as_bytes());
    guarded.server.wait_until("it waits or runs", |stats| {
        stats.running + stats.waiting == 1
    });
    let response = guarded.chat(&key);
    let error = response.error(429);
    assert_eq!(error.code.as_deref(), Some("rate_limit_exceeded"));
    assert!(
        error.message.contains("1 requests at a time"),
        "{}",
        error.message
    );
    assert!(response.header("retry-after").is_some());
    let other = guarded.key(&[Scope::Inference]);
    control.release();
    assert_eq!(guarded.chat(&other).status, 200);

    // Its client goes away: the place is free again.
    drop(stream);
    guarded.server.wait_until_idle();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while guarded.chat(&key).status != 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "the place was not given back"
        );
        std::thread::yield_now();
    }
    for _ in 0..20 {
        assert_eq!(
            guarded.chat(&key).status,
            200,
            "one after the other is one at a time"
        );
    }
}

#[test]
fn a_key_may_have_limits_of_its_own() {
    let (guarded, _) = limited(Limits {
        requests_per_minute: Some(1),
        tokens_per_minute: Some(100_000),
        ..Limits::default()
    });
    let own = Limits {
        requests_per_minute: Some(7),
        ..Limits::default()
    };
    let (key, _) = guarded.new_key(&[Scope::Inference], None, own);
    let response = guarded.chat(&key);
    assert_eq!(number(&response, "limit-requests"), 7);
    assert_eq!(number(&response, "limit-tokens"), 100_000);
}

#[test]
fn without_credentials_everybody_shares_one_account() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.auth.limits.requests_per_minute = Some(2);
    setup.auth.clock = Clock::Manual(Arc::default());
    let server = setup.start();
    let ask = |key: &str| {
        let value = format!("Bearer {key}");
        let headers = [
            ("authorization", value.as_str()),
            ("content-type", "application/json"),
        ];
        server
            .client()
            .request("POST", CHAT, &headers, chat("Hi").to_string().as_bytes())
    };
    assert_eq!(ask("a").status, 200);
    assert_eq!(ask("b").status, 200);
    ask("c").error(429);
}

#[test]
fn what_was_generated_counts_as_it_comes() {
    let (guarded, _) = limited(Limits {
        tokens_per_minute: Some(1000),
        ..Limits::default()
    });
    let key = guarded.key(&[Scope::Inference]);
    let body = with(
        &chat("Hi"),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let response = guarded.ask("POST", CHAT, &key, body.to_string().as_bytes());
    assert_eq!(response.status, 200);
    let text = response.text();
    let usage = text.rsplit("\"total_tokens\":").next().expect("usage");
    let digits: String = usage.chars().take_while(char::is_ascii_digit).collect();
    let used: u64 = digits.parse().expect("a number");
    let before = number(&response, "remaining-tokens");
    assert!(
        before > 1000 - used,
        "the head goes out before the first token"
    );
    let after = guarded.ask("POST", CHAT, &key, b"{");
    assert_eq!(number(&after, "remaining-tokens"), 1000 - used);
}
