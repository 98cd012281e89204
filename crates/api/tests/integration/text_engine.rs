//! An engine that takes text in place of the scheduler: the same routes, errors, counts and limits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gossamer_api::auth::{Limits, Scope};
use gossamer_api::text_engine::{
    GrammarSource, RequestError, SubmitError, TextEnd, TextEngine, TextEvent, TextMessage,
    TextRequest, TextSink, TextStats, TextStream, TextSubmitError, ToolCall, text_stream,
};
use gossamer_api::wire::chat::TokenLogprob;
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

use crate::auth::Guarded;
use crate::common::{CHAT, both_ways, chat, read_until, stream_chat, weather_tool, with};

/// One event of each choice's script.
#[derive(Clone)]
enum Say {
    Think(&'static str),
    Text(&'static str),
    Call(&'static str, &'static str),
    /// Goes on with the same text until nobody wants more.
    Forever(&'static str),
    Cut,
    Fail,
    /// The engine goes away without a word.
    Die,
}

/// Says the same to everybody; every prompt has seven tokens.
#[derive(Default)]
struct Scripted {
    script: Vec<Say>,
    refusal: Mutex<Option<TextSubmitError>>,
    seen: Mutex<Vec<TextRequest>>,
    running: Arc<AtomicUsize>,
    /// Choices that were ended from above.
    unwanted: Arc<AtomicUsize>,
    not_ready: AtomicBool,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Say>) -> Arc<Self> {
        Arc::new(Self {
            script: script.into_iter().collect(),
            ..Self::default()
        })
    }

    fn last(&self) -> TextRequest {
        let seen = self.seen.lock().expect("no test panics with it");
        seen.last().expect("a request").clone()
    }

    fn wait_until_idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.running.load(SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a request goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl TextEngine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn max_sequence_len(&self) -> usize {
        100
    }

    fn submit(
        &self,
        request: TextRequest,
    ) -> BoxFuture<'static, Result<TextStream, TextSubmitError>> {
        if let Some(refusal) = self.refusal.lock().expect("no test panics with it").take() {
            return async { Err(refusal) }.boxed();
        }
        let (sink, stream) = text_stream(request.n, 7);
        let (script, running) = (self.script.clone(), Arc::clone(&self.running));
        let unwanted = Arc::clone(&self.unwanted);
        let (n, scored) = (request.n, request.sampling.logprobs.is_some());
        self.seen
            .lock()
            .expect("no test panics with it")
            .push(request);
        running.fetch_add(1, SeqCst);
        std::thread::spawn(move || {
            say(&script, &sink, n, scored, &unwanted);
            running.fetch_sub(1, SeqCst);
        });
        async { Ok(stream) }.boxed()
    }

    fn stats(&self) -> TextStats {
        TextStats {
            running: self.running.load(SeqCst),
            waiting: 5,
        }
    }

    fn is_ready(&self) -> bool {
        !self.not_ready.load(SeqCst)
    }
}

fn say(script: &[Say], sink: &TextSink, n: u32, scored: bool, unwanted: &AtomicUsize) {
    for choice in 0..n {
        let delta = |reasoning: &str, content: &str, calls: Vec<ToolCall>| TextEvent::Delta {
            choice,
            tokens: 1,
            reasoning: reasoning.into(),
            content: content.into(),
            calls,
            logprobs: (scored)
                .then(|| TokenLogprob {
                    token: content.into(),
                    logprob: -0.5,
                    bytes: content.into(),
                    top_logprobs: Vec::new(),
                })
                .into_iter()
                .collect(),
        };
        let mut end = TextEnd::Own;
        for step in script {
            match step {
                Say::Think(text) => sink.send(delta(text, "", Vec::new())),
                Say::Text(text) => sink.send(delta("", text, Vec::new())),
                Say::Call(name, arguments) => {
                    let call = ToolCall {
                        name: (*name).into(),
                        arguments: (*arguments).into(),
                    };
                    sink.send(delta("", "", vec![call]));
                }
                Say::Forever(text) => {
                    while sink.wants(choice) {
                        sink.send(delta("", text, Vec::new()));
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    unwanted.fetch_add(1, SeqCst);
                }
                Say::Cut => end = TextEnd::Length,
                Say::Fail => {
                    let error = RequestError::Engine("secret detail".into());
                    sink.send(TextEvent::Failed(error));
                    return;
                }
                Say::Die => return,
            }
        }
        sink.send(TextEvent::ChoiceFinished { choice, end });
    }
    sink.send(TextEvent::Finished);
}

fn serve(engine: &Arc<Scripted>) -> TestServer {
    let mut setup = TestSetup::new(Script::echo());
    // As the gateway has it for such an engine.
    setup.api.constrain_headers = false;
    setup.text_engine = Some(Arc::<Scripted>::clone(engine));
    setup.start()
}

const ANSWER: [Say; 4] = [
    Say::Think("Hm"),
    Say::Think("."),
    Say::Text("Hello"),
    Say::Text(", world!"),
];

#[test]
fn an_answer_has_openais_shape_and_counts() {
    let engine = Scripted::new(ANSWER);
    let server = serve(&engine);
    let answer = &both_ways(&server, &chat("Hi"))[0];
    assert_eq!(answer.reasoning, "Hm.");
    assert_eq!(answer.content, "Hello, world!");
    assert_eq!(answer.finish_reason, "stop");

    let usage = server.client().post(CHAT, &chat("Hi")).ok()["usage"].clone();
    assert_eq!(
        usage,
        json!({
            "prompt_tokens": 7,
            "completion_tokens": 4,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2},
        })
    );
    let body = with(
        &chat("Hi"),
        json!({"stream_options": {"include_usage": true}}),
    );
    let transcript = stream_chat(&server, &body_of_stream(&body));
    assert_eq!(transcript.chunks.last().expect("a chunk")["usage"], usage);
    assert_eq!(server.metric("gossamer_api_requests_cancelled_total"), 0.0);
    let finished = "gossamer_api_choices_finished_total{reason=\"stop\"}";
    assert_eq!(server.metric(finished), 4.0);
}

/// `stream_options` may only be sent with `stream`, which [`stream_chat`] adds.
fn body_of_stream(body: &Value) -> Value {
    with(body, json!({"stream": true}))
}

#[test]
fn the_engine_is_told_what_the_request_says() {
    let engine = Scripted::new(ANSWER);
    let server = serve(&engine);
    let body = json!({
        "model": "test-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One", "name": "ann"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": "Three"},
        ],
        "tools": weather_tool(),
        "seed": 12, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "n": 2, "max_tokens": 9,
        "min_tokens": 3, "ignore_eos": true, "presence_penalty": 0.5, "logprobs": true, "top_logprobs": 2,
        "reasoning_effort": "high", "cache_salt": "mine",
    });
    server.client().post(CHAT, &body).ok();
    let request = engine.last();
    assert_eq!(
        request.messages,
        [
            TextMessage::System("Be brief.".into()),
            TextMessage::User {
                name: Some("ann".into()),
                text: "One".into()
            },
            TextMessage::Assistant {
                content: "Two".into(),
                reasoning: None,
                calls: Vec::new()
            },
            TextMessage::User {
                name: None,
                text: "Three".into()
            },
        ]
    );
    assert_eq!(request.tools[0].name, "get_weather");
    let sampling = &request.sampling;
    assert_eq!((sampling.seed, sampling.temperature), (12, 0.5));
    assert_eq!((sampling.top_k, sampling.logprobs), (40, Some(2)));
    assert_eq!((request.n, request.max_tokens), (2, Some(9)));
    assert_eq!((request.min_tokens, request.ignore_eos), (3, true));
    assert!(request.grammar.is_none());

    let format = json!({"response_format": {"type": "json_object"}});
    server.client().post(CHAT, &with(&chat("Hi"), format)).ok();
    assert!(matches!(
        engine.last().grammar,
        Some(GrammarSource::JsonObject)
    ));
    let broken = json!({"guided_regex": "("});
    let error = (server.client().post(CHAT, &with(&chat("Hi"), broken))).error(400);
    assert_eq!(error.param.as_deref(), Some("guided_regex"));
}

#[test]
fn a_stop_string_ends_the_choice_here_and_in_the_engine() {
    let script = [
        Say::Think("END"),
        Say::Text("one E"),
        Say::Text("ND two"),
        Say::Forever("x"),
    ];
    let engine = Scripted::new(script);
    let server = serve(&engine);
    let body = with(&chat("Hi"), json!({"stop": "END", "n": 2}));
    for answer in both_ways(&server, &body) {
        assert_eq!(answer.content, "one ");
        assert_eq!(answer.reasoning, "END");
        assert_eq!(answer.finish_reason, "stop");
    }
    engine.wait_until_idle();
    assert_eq!(engine.unwanted.load(SeqCst), 4);
    let answer = server.client().post(CHAT, &body).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}

#[test]
fn cuts_calls_and_logprobs() {
    let engine = Scripted::new([Say::Text("one"), Say::Text(" two"), Say::Cut]);
    let server = serve(&engine);
    let answer = &both_ways(&server, &with(&chat("Hi"), json!({"logprobs": true})))[0];
    assert_eq!(answer.finish_reason, "length");
    let scored: Vec<&Value> = answer
        .logprobs
        .iter()
        .map(|entry| &entry["token"])
        .collect();
    assert_eq!(scored, ["one", " two"]);

    let script = [
        Say::Text("Looking."),
        Say::Call("get_weather", "{\"city\":\"Paris\"}"),
        Say::Call("get_weather", "{}"),
    ];
    let server = serve(&Scripted::new(script));
    let body = with(&chat("Hi"), json!({"tools": weather_tool()}));
    let answer = &both_ways(&server, &body)[0];
    assert_eq!(answer.content, "Looking.");
    let expected = [
        ("get_weather".to_owned(), "{\"city\":\"Paris\"}".to_owned()),
        ("get_weather".to_owned(), "{}".to_owned()),
    ];
    assert_eq!(answer.calls, expected);
    assert_eq!(answer.finish_reason, "tool_calls");
}

#[test]
fn a_client_that_goes_away_cancels() {
    for stream in [false, true] {
        let engine = Scripted::new([Say::Forever("more ")]);
        let server = serve(&engine);
        let body = with(&chat("Hi"), json!({"stream": stream}));
        if stream {
            let mut reader = server.client().stream(CHAT, &body);
            read_until(&mut reader, "more");
        } else {
            let connection = server.client().post_without_reading(CHAT, &body);
            while engine.running.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(connection);
        }
        engine.wait_until_idle();
        assert_eq!(engine.unwanted.load(SeqCst), 1);
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.metric("gossamer_api_requests_cancelled_total") < 1.0 {
            assert!(Instant::now() < deadline, "it is counted");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_the_engine_refuses_is_answered_as_the_schedulers_refusals_are() {
    let engine = Scripted::new(ANSWER);
    let server = serve(&engine);
    let refused = |error: TextSubmitError, stream: bool| {
        *engine.refusal.lock().expect("no test panics with it") = Some(error);
        let body = with(&chat("Hi"), json!({"stream": stream}));
        server.client().post(CHAT, &body)
    };
    for stream in [false, true] {
        let full = SubmitError::QueueFull { limit: 3 };
        let response = refused(full.into(), stream);
        let error = response.error(429);
        assert_eq!(error.code.as_deref(), Some("engine_overloaded"));
        assert_eq!(response.header("retry-after"), Some("2"));

        let long = SubmitError::NeverFits {
            prompt_len: 101,
            limit: 100,
        };
        let error = refused(long.into(), stream).error(400);
        assert_eq!(error.code.as_deref(), Some("context_length_exceeded"));
        assert_eq!(error.param.as_deref(), Some("messages"));

        let error = refused(TextSubmitError::Template("roles".into()), stream).error(400);
        assert_eq!(error.param.as_deref(), Some("messages"));
        assert!(
            error.message.ends_with("conversation: roles"),
            "{}",
            error.message
        );

        let error = refused(TextSubmitError::Engine("secret".into()), stream).error(500);
        assert_eq!(error.code.as_deref(), Some("engine_error"));
        assert!(!error.message.contains("secret"));
    }
}

#[test]
fn an_engine_that_fails_or_dies_ends_every_answer_once() {
    for end in [Say::Fail, Say::Die] {
        let engine = Scripted::new([Say::Text("so far"), end]);
        let server = serve(&engine);
        let error = server.client().post(CHAT, &chat("Hi")).error(500);
        assert_eq!(error.code.as_deref(), Some("engine_error"));
        assert!(!error.message.contains("secret"));
        let body = with(&chat("Hi"), json!({"stream": true}));
        let transcript = server.client().stream(CHAT, &body).transcript();
        assert!(!transcript.done);
        let errors = (transcript.chunks.iter()).filter(|chunk| chunk.get("error").is_some());
        assert_eq!(errors.count(), 1, "{:?}", transcript.chunks);
    }
}

#[test]
fn what_such_an_engine_cannot_do_is_refused_by_name() {
    let engine = Scripted::new(ANSWER);
    let server = serve(&engine);
    let strict = json!([{"type": "function", "function": {
        "name": "f", "strict": true, "parameters": {"type": "object"},
    }}]);
    for (more, param) in [
        (json!({"logit_bias": {"1": 1}}), "logit_bias"),
        (json!({"stop_token_ids": [1]}), "stop_token_ids"),
        (json!({"prompt_logprobs": 1}), "prompt_logprobs"),
        (json!({"priority": 1}), "priority"),
        (json!({"max_reasoning_tokens": 9}), "max_reasoning_tokens"),
        (json!({"constrain_headers": true}), "constrain_headers"),
        (
            json!({"tools": weather_tool(), "tool_choice": "required"}),
            "tool_choice",
        ),
        (json!({"tools": strict}), "tools[0].function.parameters"),
    ] {
        let error = (server.client().post(CHAT, &with(&chat("Hi"), more))).error(400);
        assert_eq!(error.param.as_deref(), Some(param));
        assert_eq!(error.code.as_deref(), Some("unsupported_parameter"));
        let text = &error.message;
        assert!(text.contains(param) && text.contains("scripted"), "{text}");
    }
    let both = json!({"tools": weather_tool(), "response_format": {"type": "json_object"}});
    let error = (server.client().post(CHAT, &with(&chat("Hi"), both))).error(400);
    assert_eq!(error.param.as_deref(), Some("response_format.type"));

    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body, param) in [
        (
            "/v1/completions",
            json!({"model": "test-model", "prompt": "Hi"}),
            "prompt",
        ),
        ("/tokenize", json!({"prompt": "Hi"}), "prompt"),
        ("/detokenize", json!({"tokens": [1]}), "tokens"),
        ("/v1/chat/completions/render", chat("Hi"), "messages"),
        (
            "/v1/responses",
            json!({"model": "test-model", "input": "Hi", "truncation": "auto"}),
            "truncation",
        ),
    ] {
        let error = server.client().post(path, &body).error(400);
        assert_eq!(error.param.as_deref(), Some(param), "{path}");
    }
    let body = json!({"model": "test-model", "messages": messages});
    let response = server.client().post("/v1/messages/count_tokens", &body);
    assert_eq!(response.status, 400);
    assert!(
        engine
            .seen
            .lock()
            .expect("no test panics with it")
            .is_empty()
    );
}

#[test]
fn every_route_of_conversations_works() {
    let engine = Scripted::new(ANSWER);
    let server = serve(&engine);
    let client = server.client();
    let messages = json!([{"role": "user", "content": "Hi"}]);

    let body = json!({"model": "test-model", "max_tokens": 20, "messages": messages});
    let answer = client.post("/v1/messages", &body).ok();
    assert_eq!(answer["content"][0]["text"], "Hello, world!");
    assert_eq!(answer["usage"]["input_tokens"], 7);
    let events = client.stream("/v1/messages", &with(&body, json!({"stream": true})));
    let events = events.map(|event| format!("{event:?}")).collect::<String>();
    let counted = events.contains("\"input_tokens\": Number(7)");
    assert!(events.contains("message_stop") && counted, "{events}");

    let body = json!({"model": "test-model", "input": "Hi"});
    let answer = client.post("/v1/responses", &body).ok();
    assert_eq!(answer["status"], "completed");
    let kinds: Vec<&Value> = (answer["output"].as_array().expect("items").iter())
        .map(|item| &item["type"])
        .collect();
    assert_eq!(kinds, ["reasoning", "message"]);
    assert_eq!(answer["output"][1]["content"][0]["text"], "Hello, world!");
    assert_eq!(answer["usage"]["input_tokens"], 7);

    let body = json!({"prompt": "Hi"});
    assert_eq!(
        client.post("/generate", &body).ok()["text"],
        "Hello, world!"
    );
    let answer = client.post("/chat", &body).ok();
    assert_eq!(answer["message"]["content"], "Hello, world!");
    assert!(client.stream("/stream", &body).transcript().done);

    let info = client.get("/info").ok();
    assert_eq!(info["max_sequence_len"], 100);
    assert_eq!(info["waiting"], 5);
    assert!(info.get("kv_cache_tokens").is_none());
    assert_eq!(client.get("/ready").status, 200);
    engine.not_ready.store(true, SeqCst);
    assert_eq!(client.get("/ready").status, 503);
}

#[test]
fn tokens_count_against_the_limits_of_a_key() {
    let engine = Scripted::new(ANSWER);
    let guarded = Guarded::start(|setup| {
        setup.auth.limits = Limits {
            tokens_per_minute: Some(20),
            ..Limits::default()
        };
        setup.text_engine = Some(Arc::<Scripted>::clone(&engine));
        setup.api.constrain_headers = false;
    });
    let key = guarded.key(&[Scope::Inference]);
    let response = guarded.chat(&key);
    assert_eq!(response.status, 200);
    let left = response.header("x-ratelimit-remaining-tokens");
    // The header leaves with the answer: 7 of the prompt and 4 that were generated.
    assert_eq!(left, Some("9"));
    assert_eq!(guarded.chat(&key).status, 200);
    // The prompt alone is more than what is left: nothing is generated for it.
    let error = guarded.chat(&key).error(429);
    assert_eq!(error.kind, "tokens");
    engine.wait_until_idle();
}
