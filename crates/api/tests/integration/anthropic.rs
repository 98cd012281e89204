//! Anthropic's Messages API: requests, answers, streams and errors in its shape.

use gossamer_testkit::client::SseEvent;
use gossamer_testkit::{Script, TestServer};
use serde_json::{Value, json};

use crate::common::{CHAT, HELLO, server, with};

pub const MESSAGES: &str = "/v1/messages";
pub const COUNT: &str = "/v1/messages/count_tokens";

/// A request with one user message.
pub fn ask(text: &str) -> Value {
    json!({"model": "test-model", "max_tokens": 64, "messages": [{"role": "user", "content": text}]})
}

fn thinking() -> Value {
    json!({"thinking": {"type": "adaptive"}})
}

fn weather() -> Value {
    json!([{
        "name": "get_weather",
        "description": "Weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }])
}

const CALL: &str = "<|channel|>analysis<|message|>need weather<|end|>\
                    <|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>\
                    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";

/// The events of a streamed answer.
fn events(server: &TestServer, body: &Value) -> Vec<Value> {
    let body = with(body, json!({"stream": true}));
    (server.client().stream(MESSAGES, &body))
        .map(|event| match event {
            SseEvent::Data(value) => value,
            other => panic!("no event of this API: {other:?}"),
        })
        .collect()
}

/// Reads events as the API's documentation allows them and puts the message together; any other order panics.
fn assembled(events: &[Value]) -> Value {
    let mut events = (events.iter()).filter(|event| event["type"] != "ping");
    let start = events.next().expect("an event");
    assert_eq!(start["type"], "message_start");
    let mut message = start["message"].clone();
    assert_eq!(message["content"], json!([]));
    assert_eq!(message["stop_reason"], Value::Null);
    assert_eq!(message["usage"]["output_tokens"], 0);
    let mut open: Option<(usize, String)> = None;
    let mut ended = false;
    for event in events {
        assert!(!ended, "after the end: {event}");
        let index = event["index"].as_u64().map(|index| index as usize);
        let content = message["content"].as_array_mut().expect("content");
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert!(open.is_none(), "a block in a block: {event}");
                assert_eq!(message["stop_reason"], Value::Null, "{event}");
                let content = message["content"].as_array_mut().expect("content");
                assert_eq!(index, Some(content.len()), "{event}");
                content.push(event["content_block"].clone());
                open = Some((content.len() - 1, String::new()));
            }
            "content_block_delta" => {
                let (at, json) = open.as_mut().expect("a delta of an open block");
                assert_eq!(index, Some(*at), "{event}");
                let (block, delta) = (&mut content[*at], &event["delta"]);
                let kind = delta["type"].as_str().expect("a type");
                let (of, name) = match kind {
                    "text_delta" => ("text", "text"),
                    "thinking_delta" => ("thinking", "thinking"),
                    "signature_delta" => ("thinking", "signature"),
                    "input_json_delta" => ("tool_use", "partial_json"),
                    other => panic!("a delta of type {other}"),
                };
                assert_eq!(block["type"], of, "{event}");
                let more = delta[name].as_str().expect("text");
                assert!(!more.is_empty(), "{event}");
                if kind == "input_json_delta" {
                    json.push_str(more);
                } else {
                    let text = block[name].as_str().expect("text").to_owned() + more;
                    block[name] = text.into();
                }
            }
            "content_block_stop" => {
                let (at, json) = open.take().expect("an open block");
                assert_eq!(index, Some(at), "{event}");
                let block = &mut content[at];
                if block["type"] == "tool_use" {
                    assert_eq!(block["input"], json!({}), "input comes in deltas");
                    let json = if json.trim().is_empty() { "{}" } else { &json };
                    block["input"] = serde_json::from_str(json)
                        .unwrap_or_else(|_| json!({"raw_arguments": json}));
                }
            }
            "message_delta" => {
                assert!(open.is_none(), "{event}");
                assert_eq!(message["stop_reason"], Value::Null, "twice: {event}");
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => {
                assert_ne!(
                    message["stop_reason"],
                    Value::Null,
                    "message_delta comes first"
                );
                ended = true;
            }
            other => panic!("an event of type {other}"),
        }
    }
    assert!(ended, "no message_stop");
    message
}

/// What must be the same for a streamed and a whole answer: ids and signatures are made anew.
fn essence(message: &Value) -> Value {
    let mut message = message.clone();
    let id = message["id"].as_str().expect("an id");
    assert!(id.starts_with("msg_") && id.len() > 20, "{id}");
    message["id"] = Value::Null;
    for block in message["content"].as_array_mut().expect("content") {
        for (name, prefix) in [("id", "toolu_"), ("signature", "sig_")] {
            if let Some(id) = block[name].as_str() {
                assert!(id.starts_with(prefix) && id.len() > 20, "{id}");
                block[name] = Value::Null;
            }
        }
    }
    // The second request finds the first one's prompt in the cache.
    let usage = &message["usage"];
    let count = |name: &str| usage[name].as_u64().expect("a count");
    let prompt = count("input_tokens") + count("cache_read_input_tokens");
    message["usage"] = json!([
        prompt,
        count("output_tokens"),
        usage["output_tokens_details"]
    ]);
    message
}

/// Asks whole and streamed and checks that both say the same.
fn both_ways(server: &TestServer, body: &Value) -> Value {
    let whole = server.client().post(MESSAGES, body).ok();
    let streamed = assembled(&events(server, body));
    assert_eq!(essence(&streamed), essence(&whole));
    whole
}

#[test]
fn an_answer_has_anthropics_shape() {
    let server = server(Script::always(HELLO));
    let message = both_ways(&server, &ask("Hi"));
    assert_eq!(message["type"], "message");
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["model"], "test-model");
    assert_eq!(
        message["content"],
        json!([{"type": "text", "text": "Hello, world!"}])
    );
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(message["stop_sequence"], Value::Null);
    let usage = &message["usage"];
    assert_eq!(usage["cache_creation_input_tokens"], 0);
    assert_eq!(
        usage["output_tokens"],
        gossamer_testkit::tokens(HELLO).len()
    );
    assert_eq!(usage["output_tokens_details"]["thinking_tokens"], 4);
}

#[test]
fn thinking_is_shown_to_who_asks_for_it() {
    let server = server(Script::always(HELLO));
    for (config, shown) in [
        (
            json!({"type": "enabled", "budget_tokens": 1024}),
            Some("Let me think."),
        ),
        (json!({"type": "adaptive"}), Some("Let me think.")),
        (json!({"type": "adaptive", "display": "omitted"}), Some("")),
        (json!({"type": "disabled"}), None),
    ] {
        let message = both_ways(&server, &with(&ask("Hi"), json!({"thinking": config})));
        let blocks = message["content"].as_array().expect("content");
        let thought = blocks.iter().find(|block| block["type"] == "thinking");
        assert_eq!(
            thought.and_then(|block| block["thinking"].as_str()),
            shown,
            "{config}"
        );
        assert_eq!(blocks.last().expect("a block")["text"], "Hello, world!");
        assert_eq!(blocks.len(), 1 + usize::from(shown.is_some()));
    }
}

#[test]
fn budget_and_effort_become_the_prompts_effort() {
    let server = server(
        Script::echo()
            .when("Reasoning: low", "<|channel|>final<|message|>low")
            .when("Reasoning: high", "<|channel|>final<|message|>high"),
    );
    for (fields, effort) in [
        (json!({}), "medium"),
        (json!({"thinking": {"type": "disabled"}}), "low"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            "low",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 4096}}),
            "medium",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 16384}}),
            "high",
        ),
        (json!({"output_config": {"effort": "max"}}), "high"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 16384}, "output_config": {"effort": "low"}}),
            "low",
        ),
    ] {
        let message = server
            .client()
            .post(MESSAGES, &with(&ask("medium"), fields))
            .ok();
        assert_eq!(message["content"][0]["text"], effort);
    }
}

#[test]
fn the_budget_ends_the_reasoning() {
    let long = format!(
        "<|channel|>analysis<|message|>{}<|end|>",
        " word".repeat(1500)
    );
    let server = server(Script::always(&long));
    let fields =
        json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1100});
    let message = server
        .client()
        .post(MESSAGES, &with(&ask("Hi"), fields))
        .ok();
    assert_eq!(
        message["usage"]["output_tokens_details"]["thinking_tokens"],
        1024
    );
    assert_eq!(message["stop_reason"], "max_tokens");
}

#[test]
fn a_call_is_a_block_after_its_thinking_and_its_preamble() {
    let server = server(Script::always(CALL));
    let body = with(
        &with(&ask("Weather?"), thinking()),
        json!({"tools": weather()}),
    );
    let message = both_ways(&server, &body);
    let kinds: Vec<_> = (message["content"].as_array().expect("content").iter())
        .map(|block| block["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(message["content"][1]["text"], "I will look.");
    assert_eq!(message["content"][2]["name"], "get_weather");
    assert_eq!(message["content"][2]["input"], json!({"city": "Paris"}));
    assert_eq!(message["stop_reason"], "tool_use");
    let none = with(&body, json!({"tool_choice": {"type": "none"}}));
    let message = both_ways(&server, &none);
    assert_eq!(message["stop_reason"], "end_turn");
    let auto = json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}});
    assert_eq!(
        both_ways(&server, &with(&body, auto))["stop_reason"],
        "tool_use"
    );
}

#[test]
fn the_prompt_is_that_of_the_same_chat() {
    let server = server(Script::always(HELLO));
    let ours = json!({
        "model": "test-model", "max_tokens": 64,
        "system": [
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be kind."},
        ],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "<reminder>"},
                {"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "need weather", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I will look."},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Paris"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "no network"}], "is_error": true},
                {"type": "text", "text": "And now?"},
            ]},
            {"role": "system", "content": "It is late."},
        ],
        "tools": weather(),
        "thinking": {"type": "disabled"},
    });
    let theirs = json!({
        "model": "test-model", "reasoning_effort": "low",
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe kind."},
            {"role": "user", "content": "<reminder>\n\nWeather?"},
            {"role": "assistant", "reasoning": "need weather", "content": "I will look.", "tool_calls": [{
                "id": "a", "type": "function",
                "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"},
            }]},
            {"role": "tool", "tool_call_id": "a", "content": "Error: no network"},
            {"role": "user", "content": "And now?"},
            {"role": "developer", "content": "It is late."},
        ],
        "tools": crate::common::weather_tool(),
    });
    let rendered = server
        .client()
        .post("/v1/chat/completions/render", &theirs)
        .ok();
    let mut counted = ours.clone();
    counted
        .as_object_mut()
        .expect("an object")
        .remove("max_tokens");
    let count = server.client().post(COUNT, &counted).ok();
    assert_eq!(count, json!({"input_tokens": rendered["count"]}));
    // Every block of the other's prompt is found in the cache: the prompts are the same, token by token.
    server.client().post(CHAT, &theirs).ok();
    let usage = &server.client().post(MESSAGES, &ours).ok()["usage"];
    let prompt = rendered["count"].as_u64().expect("a count");
    let cached = usage["cache_read_input_tokens"].as_u64().expect("a count");
    assert_eq!(usage["input_tokens"].as_u64(), Some(prompt - cached));
    assert_eq!(cached, (prompt - 1) / 16 * 16);
}

#[test]
fn ends_have_their_reasons() {
    let server = server(Script::always(HELLO));
    let stopped = both_ways(
        &server,
        &with(&ask("Hi"), json!({"stop_sequences": ["xyz", "wor"]})),
    );
    assert_eq!(stopped["content"][0]["text"], "Hello, ");
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], "wor");
    let cut = both_ways(&server, &with(&ask("Hi"), json!({"max_tokens": 12})));
    assert_eq!(cut["stop_reason"], "max_tokens");
    assert_eq!(cut["usage"]["output_tokens"], 12);
    let nothing = both_ways(&server, &with(&ask("Hi"), json!({"max_tokens": 0})));
    assert_eq!(nothing["content"], json!([]));
    assert_eq!(nothing["usage"]["output_tokens"], 0);
    server.wait_until_idle();
}

#[test]
fn a_call_that_is_cut_keeps_what_there_is_of_it() {
    let server = server(Script::always(CALL));
    let len = gossamer_testkit::tokens(CALL).len();
    let body = with(
        &ask("Weather?"),
        json!({"tools": weather(), "max_tokens": len - 2}),
    );
    let message = both_ways(&server, &body);
    assert_eq!(message["stop_reason"], "max_tokens");
    let input = &message["content"][1]["input"];
    assert!(
        input["raw_arguments"]
            .as_str()
            .is_some_and(|text| text.starts_with("{\"city")),
        "{input}"
    );
}

/// Tokens that build and break harmony messages.
fn babble(random: &mut fastrand::Rng) -> Vec<u32> {
    const PIECES: &[&str] = &[
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|end|>",
        "<|constrain|>",
        "<|start|>assistant",
        "<|channel|>final<|message|>",
        "<|channel|>analysis<|message|>",
        "<|channel|>commentary<|message|>",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "analysis",
        "final",
        " to=functions.get_weather",
        "json",
        "{\"city\": \"Paris\"}",
        "{}",
        "a",
        "b\n",
        "\n\n",
        " é",
        "<|end|><|start|>assistant",
        "<|call|>",
    ];
    (0..random.usize(1..24))
        .flat_map(|_| gossamer_testkit::tokens(PIECES[random.usize(..PIECES.len())]))
        .collect()
}

#[test]
fn whatever_the_model_says_the_events_are_in_order_and_say_what_the_whole_says() {
    const CASES: usize = 200;
    let mut random = fastrand::Rng::with_seed(5);
    let script = (0..CASES).fold(Script::echo(), |script, case| {
        script.when_tokens(&format!("case {case}."), babble(&mut random))
    });
    let server = server(script);
    for case in 0..CASES {
        let body = with(
            &ask(&format!("case {case}.")),
            json!({"tools": weather(), "max_tokens": 200}),
        );
        let hidden = both_ways(&server, &body);
        let shown = both_ways(&server, &with(&body, thinking()));
        // Where another block stands between two texts, no blank line does.
        let flat = |text: &str| text.replace('\n', "");
        let text = |message: &Value, kind: &str, name: &str| -> Vec<String> {
            (message["content"].as_array().expect("content").iter())
                .filter(|block| block["type"] == kind)
                .map(|block| block[name].as_str().expect("text").to_owned())
                .collect()
        };
        let chat = json!({
            "model": "test-model", "max_tokens": 200, "tools": crate::common::weather_tool(),
            "messages": [{"role": "user", "content": format!("case {case}.")}],
        });
        let chat = server.client().post(CHAT, &chat).ok();
        let (chat, calls) = (
            &chat["choices"][0]["message"],
            &chat["choices"][0]["message"]["tool_calls"],
        );
        let said = |name: &str| chat[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            flat(&text(&shown, "thinking", "thinking").concat()),
            flat(&said("reasoning")),
            "case {case}"
        );
        assert_eq!(
            flat(&text(&shown, "text", "text").concat()),
            flat(&said("content")),
            "case {case}"
        );
        let uses = text(&shown, "tool_use", "name");
        assert_eq!(
            uses.len(),
            calls.as_array().map_or(0, Vec::len),
            "case {case}"
        );
        assert!(text(&hidden, "thinking", "thinking").is_empty());
        assert_eq!(text(&hidden, "tool_use", "name"), uses);
        assert_eq!(
            flat(&text(&hidden, "text", "text").concat()),
            flat(&said("content")),
            "case {case}"
        );
    }
    server.wait_until_idle();
}

#[test]
fn what_coding_agents_send_is_accepted() {
    let server = server(Script::always(HELLO));
    let body = json!({
        "model": "test-alias", "max_tokens": 2000, "stream": true, "temperature": 1,
        "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "citations": null}]}],
        "tools": [{
            "name": "Read", "description": "Reads a file.", "eager_input_streaming": true,
            "input_schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}},
        }],
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "enabled", "budget_tokens": 1999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "service_tier": "auto", "speed": "standard", "cache_control": {"type": "ephemeral"},
    });
    let headers = [
        ("content-type", "application/json"),
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "claude-code-20250219,interleaved-thinking-2025-05-14",
        ),
        ("x-api-key", "unused"),
    ];
    let path = format!("{MESSAGES}?beta=true");
    let answer = server
        .client()
        .request("POST", &path, &headers, body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
    assert!(
        answer
            .text()
            .ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
    );
    // Agents also send empty lists.
    server
        .client()
        .post(
            MESSAGES,
            &with(&ask("Hi"), json!({"tools": [], "stop_sequences": []})),
        )
        .ok();
}
