//! Parameters that change what is generated or what of it is shown: reasoning, usage, choice of texts, order.

use gossamer_testkit::{Script, TestSetup, tokens};
use serde_json::{Value, json};

use crate::common::{
    CHAT, COMPLETIONS, HELLO, assembled, both_ways, chat, completion, server, stream_chat, whole,
    with,
};

/// What the scheduler puts in when the reasoning has to end.
const HANDOVER: &str = "<|end|><|start|>assistant<|channel|>final<|message|>";

/// Thinks five words; if it is made to answer after two or none, it does.
fn thinker() -> Script {
    Script::echo()
        .when(
            &format!("<|message|> one two{HANDOVER}"),
            "I stopped at two.",
        )
        .when(
            &format!("<|channel|>analysis<|message|>{HANDOVER}"),
            "I did not think.",
        )
        .when(
            "Hi",
            "<|channel|>analysis<|message|> one two three four five<|end|>\
             <|start|>assistant<|channel|>final<|message|>I thought.",
        )
}

#[test]
fn reasoning_that_reaches_its_bound_hands_over_to_the_answer() {
    let server = server(thinker());
    for (max, reasoning, content) in [
        (5, " one two three four five", "I thought."),
        (2, " one two", "I stopped at two."),
        (0, "", "I did not think."),
    ] {
        let body = with(&chat("Hi"), json!({"max_reasoning_tokens": max}));
        let answer = &both_ways(&server, &body)[0];
        let said = (answer.reasoning.as_str(), answer.content.as_str());
        assert_eq!(said, (reasoning, content));
        assert_eq!(answer.finish_reason, "stop");
        let usage = &server.client().post(CHAT, &body).ok()["usage"];
        let details = &usage["completion_tokens_details"];
        assert_eq!(details["reasoning_tokens"], max, "{usage}");
    }
    // The tokens that were put in are tokens of the answer.
    let body = with(&chat("Hi"), json!({"max_reasoning_tokens": 2}));
    let usage = &server.client().post(CHAT, &body).ok()["usage"];
    let said =
        format!("<|channel|>analysis<|message|> one two{HANDOVER}I stopped at two.<|return|>");
    assert_eq!(usage["completion_tokens"], tokens(&said).len());
}

#[test]
fn a_handover_ends_where_max_tokens_does() {
    let server = server(thinker());
    let prefix = tokens("<|channel|>analysis<|message|> one two").len();
    for more in 1..=tokens(HANDOVER).len() {
        let body = with(
            &chat("Hi"),
            json!({"max_reasoning_tokens": 2, "max_tokens": prefix + more}),
        );
        let answer = &both_ways(&server, &body)[0];
        assert_eq!(answer.finish_reason, "length");
        let said = (answer.reasoning.as_str(), answer.content.as_str());
        assert_eq!(said, (" one two", ""));
    }
    server.wait_until_idle();
}

#[test]
fn every_choice_has_its_own_bound() {
    let short =
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>short";
    let long = "<|channel|>analysis<|message|> one two three<|end|><|start|>assistant<|channel|>final<|message|>long";
    let server = server(
        Script::echo()
            .when(&format!("<|message|> one two{HANDOVER}"), "cut")
            .when_choices("Hi", &[short, long]),
    );
    let body = with(&chat("Hi"), json!({"max_reasoning_tokens": 2, "n": 2}));
    let answers = both_ways(&server, &body);
    let contents: Vec<_> = answers
        .iter()
        .map(|answer| answer.content.as_str())
        .collect();
    assert_eq!(contents, ["short", "cut"]);
}

#[test]
fn reasoning_can_be_left_out() {
    let server = server(Script::always(HELLO));
    let body = with(&chat("Hi"), json!({"include_reasoning": false}));
    let answer = server.client().post(CHAT, &body).ok();
    let message = answer["choices"][0]["message"]
        .as_object()
        .expect("a message");
    assert_eq!(message["content"], "Hello, world!");
    assert!(!message.contains_key("reasoning") && !message.contains_key("reasoning_content"));
    let details = &answer["usage"]["completion_tokens_details"];
    assert_eq!(
        details["reasoning_tokens"], 4,
        "it was thought all the same"
    );
    let transcript = stream_chat(&server, &body);
    assert_eq!(assembled(&transcript), whole(&answer));
    let text = format!("{:?}", transcript.chunks);
    assert!(!text.contains("reasoning"), "{text}");
}

#[test]
fn messages_of_one_kind_are_paragraphs() {
    let server = server(Script::always(
        "<|channel|>analysis<|message|>first<|end|><|start|>assistant<|channel|>analysis<|message|>second<|end|>\
         <|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>\
         <|start|>assistant<|channel|>analysis<|message|>third<|end|>\
         <|start|>assistant<|channel|>final<|message|>Found it.",
    ));
    let answer = &both_ways(&server, &chat("Hi"))[0];
    assert_eq!(answer.reasoning, "first\n\nsecond\n\nthird");
    assert_eq!(answer.content, "I will look.\n\nFound it.");
    // What is between them is content like any other.
    let body = with(&chat("Hi"), json!({"stop": "\n\n"}));
    assert_eq!(both_ways(&server, &body)[0].content, "I will look.");
    let body = with(&chat("Hi"), json!({"stop": ".\n\nFound", "logprobs": true}));
    let answer = &both_ways(&server, &body)[0];
    assert_eq!(answer.content, "I will look");
    let known: String = (answer.logprobs.iter())
        .map(|entry| entry["token"].as_str().expect("a text"))
        .collect();
    assert_eq!(known, "I will look");
}

#[test]
fn token_counts_in_every_chunk() {
    let server = server(Script::always(HELLO));
    let options = json!({"continuous_usage_stats": true, "include_usage": true});
    for (path, body) in [(CHAT, chat("Hi")), (COMPLETIONS, completion("Hi"))] {
        let body = with(
            &body,
            json!({"stream": true, "stream_options": options, "max_tokens": 100}),
        );
        let chunks = server.client().stream(path, &body).transcript().chunks;
        let counts: Vec<u64> = (chunks.iter())
            .map(|chunk| {
                chunk["usage"]["completion_tokens"]
                    .as_u64()
                    .expect("a count")
            })
            .collect();
        assert!(counts.is_sorted() && counts.len() > 3, "{counts:?}");
        let last = chunks.last().expect("chunks");
        assert_eq!(last["choices"], json!([]));
        let total = tokens(HELLO).len() as u64;
        assert_eq!(last["usage"]["completion_tokens"], total);
    }
    let body = with(
        &chat("Hi"),
        json!({"stream": true, "stream_options": {"continuous_usage_stats": true}}),
    );
    let chunks = server.client().stream(CHAT, &body).transcript().chunks;
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["usage"]["total_tokens"].is_u64())
    );
    let last = chunks.last().expect("chunks");
    assert_ne!(
        last["choices"],
        json!([]),
        "the last chunk was not asked for"
    );
}

#[test]
fn the_tier_is_named_to_those_who_named_one() {
    let server = server(Script::always(HELLO));
    let body = with(&chat("Hi"), json!({"service_tier": "auto"}));
    assert_eq!(
        server.client().post(CHAT, &body).ok()["service_tier"],
        "default"
    );
    let chunks = stream_chat(&server, &body).chunks;
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["service_tier"] == "default")
    );
    let answer = server.client().post(CHAT, &chat("Hi")).ok();
    assert!(answer.get("service_tier").is_none());
}

#[test]
fn the_best_of_several_texts() {
    // Every token of the script has the same log-probability, so all texts are equally good: the first ones win.
    let server = server(Script::echo().when_choices("Hi", &["a", "b c", "d", "e"]));
    let body = with(&completion("Hi"), json!({"n": 2, "best_of": 4}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    let texts: Vec<&Value> = (0..2).map(|i| &answer["choices"][i]["text"]).collect();
    assert_eq!(texts, ["a", "b c"]);
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(2));
    assert!(answer["choices"][0]["logprobs"].is_null(), "not asked for");
    let all: usize = ["a", "b c", "d", "e"]
        .iter()
        .map(|text| tokens(text).len() + 1)
        .sum();
    assert_eq!(
        answer["usage"]["completion_tokens"], all,
        "all of them were generated"
    );
}

#[test]
fn the_likeliest_text_per_token_wins() {
    let unlikely = tokens("zebra")[0];
    let mut setup =
        TestSetup::new(Script::echo().when_choices("Hi", &["zebra", "yes yes yes", "no"]));
    setup.unlikely = vec![unlikely];
    let server = setup.start();
    let body = with(&completion("Hi"), json!({"best_of": 3, "logprobs": 0}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(answer["choices"][0]["text"], "yes yes yes");
    assert_eq!(answer["choices"][0]["index"], 0);
    let body = with(&body, json!({"n": 3, "prompt": ["Hi", "Hi there"]}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    let texts: Vec<&str> = (answer["choices"].as_array().expect("choices").iter())
        .map(|choice| choice["text"].as_str().expect("a text"))
        .collect();
    assert_eq!(
        texts,
        ["zebra", "yes yes yes", "no"].repeat(2),
        "nothing to choose from"
    );
}

#[test]
fn priorities_and_salts_arrive_at_the_scheduler() {
    let mut setup = TestSetup::new(Script::echo());
    setup.scheduler.max_num_seqs = 1;
    let server = setup.start();
    server.control.hold();
    std::thread::scope(|scope| {
        for (waiting, priority) in [(1, 0), (2, 3), (3, -2), (4, 3)] {
            let server = &server;
            // The seed tells the requests apart where the executor sees them.
            let body = with(&chat("Hi"), json!({"priority": priority, "seed": waiting}));
            scope.spawn(move || server.client().post(CHAT, &body).ok());
            if waiting == 1 {
                server.control.wait_until_blocked();
            }
            server.wait_until("submitted", |stats| {
                stats.running + stats.waiting == waiting
            });
        }
        server.control.release();
    });
    let mut order: Vec<u64> = (server.control.samples().iter())
        .map(|spec| spec.params.seed)
        .collect();
    order.dedup();
    assert_eq!(order, [1, 3, 2, 4]);

    let prompt = "many words ".repeat(40);
    let cached = |more: Value| {
        let answer = server.client().post(CHAT, &with(&chat(&prompt), more)).ok();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    assert_eq!(cached(json!({"cache_salt": "a"})), Some(0));
    assert!(cached(json!({"cache_salt": "a"})) > Some(80));
    assert_eq!(cached(json!({"cache_salt": "b"})), Some(0));
    // Without a salt, the beginning of every prompt is known by now, but not this prompt.
    assert!(cached(json!({})) < Some(80));
    assert!(cached(json!({"cache_salt": null})) > Some(80));
}

#[test]
fn only_allowed_functions_are_declared() {
    let server = server(
        Script::echo()
            .when("type g =", "<|channel|>final<|message|>g is declared")
            .when("type f =", "<|channel|>final<|message|>only f"),
    );
    let function = |name| json!({"type": "function", "function": {"name": name}});
    let tools = json!([function("f"), function("g")]);
    let body = with(&chat("Hi"), json!({"tools": tools}));
    assert_eq!(both_ways(&server, &body)[0].content, "g is declared");
    let choice = json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("f")]}});
    let body = with(&body, json!({"tool_choice": choice}));
    assert_eq!(both_ways(&server, &body)[0].content, "only f");
}
