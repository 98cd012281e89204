//! Creating responses: shape, stream, ends, errors.

use gossamer_scheduler::ExecuteError;
use gossamer_testkit::{Script, response_events};
use serde_json::{Value, json};

use super::{RESPONSES, create, get, request, said, stream, weather, without_ids};
use crate::common::{HELLO, server, with};

const CALL: &str = "<|channel|>analysis<|message|>need weather<|end|>\
                    <|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>\
                    <|start|>assistant<|channel|>analysis<|message|>now call<|end|>\
                    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";

#[test]
fn a_response_has_openais_shape() {
    let server = server(Script::always(HELLO));
    let body = json!({
        "model": "test-alias", "input": "Hi", "instructions": "Be nice.", "temperature": 0.5, "top_p": 0.9,
        "max_output_tokens": 100, "metadata": {"a": "b"}, "user": "me", "tools": weather(),
        "reasoning": {"effort": "low", "summary": "auto"}, "safety_identifier": "s", "prompt_cache_key": "k",
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "truncation": "disabled", "service_tier": "auto",
        "parallel_tool_calls": false, "tool_choice": "auto", "max_tool_calls": 3,
    });
    let response = create(&server, &body);
    for (field, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("model", json!("test-model")),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("instructions", json!("Be nice.")),
        ("temperature", json!(0.5)),
        ("top_p", json!(0.9)),
        ("max_output_tokens", json!(100)),
        ("max_tool_calls", json!(3)),
        ("metadata", json!({"a": "b"})),
        ("user", json!("me")),
        ("safety_identifier", json!("s")),
        ("prompt_cache_key", json!("k")),
        ("reasoning", json!({"effort": "low", "summary": "auto"})),
        (
            "text",
            json!({"format": {"type": "text"}, "verbosity": "medium"}),
        ),
        ("truncation", json!("disabled")),
        ("service_tier", json!("default")),
        ("parallel_tool_calls", json!(false)),
        ("tool_choice", json!("auto")),
        ("store", json!(true)),
        ("background", json!(false)),
        ("previous_response_id", Value::Null),
        ("top_logprobs", json!(0)),
        ("access_programs", Value::Null),
    ] {
        assert_eq!(response[field], value, "{field}");
    }
    assert_eq!(response["tools"][0]["name"], "get_weather");
    assert!(
        response["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("resp_"))
    );
    assert!(response["created_at"].as_i64() <= response["completed_at"].as_i64());
    assert_eq!(
        said(&response),
        [
            ("reasoning".into(), "Let me think.".into()),
            ("message".into(), "Hello, world!".into())
        ]
    );
    let message = &response["output"][1];
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["phase"], "final_answer");
    assert_eq!(message["status"], "completed");
    assert_eq!(message["content"][0]["annotations"], json!([]));
    assert_eq!(response["output"][0]["summary"], json!([]));
    let usage = &response["usage"];
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], 4);
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(
            usage["input_tokens"].as_u64().unwrap_or(0)
                + usage["output_tokens"].as_u64().unwrap_or(0)
        )
    );
    assert_eq!(get(&server, &response), response);
    // What has no value is null, but for these: the SDKs' types have no null for them.
    let (events, response) = stream(&server, &request("Hi"));
    assert!(events[0]["response"].get("usage").is_none());
    assert!(response.get("user").is_none() && response.get("access_programs").is_some());
}

#[test]
fn streamed_is_whole() {
    let server = server(Script::echo().when("Weather", CALL).when("Hi", HELLO));
    for body in [
        request("Hi"),
        request("Say it back"),
        with(&request("Weather"), json!({"tools": weather()})),
        with(&request("Hi"), json!({"max_output_tokens": 5})),
        with(
            &request("Hi"),
            json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
        ),
    ] {
        let whole = create(&server, &body);
        let (_, streamed) = stream(&server, &body);
        assert_eq!(without_ids(streamed), without_ids(whole));
    }
    server.wait_until_idle();
}

#[test]
fn messages_are_items_in_the_order_in_which_they_were_written() {
    let server = server(Script::always(CALL));
    let body = with(&request("Weather?"), json!({"tools": weather()}));
    let (events, response) = stream(&server, &body);
    assert_eq!(
        said(&response),
        [
            ("reasoning".into(), "need weather".into()),
            ("message".into(), "I will look.".into()),
            ("reasoning".into(), "now call".into()),
            ("function_call".into(), "{\"city\": \"Paris\"}".into()),
        ]
    );
    assert_eq!(response["output"][1]["phase"], "commentary");
    assert_eq!(response["output"][3]["name"], "get_weather");
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert!(of("response.function_call_arguments.delta") > 2);
    assert_eq!(of("response.function_call_arguments.done"), 1);
    assert!(of("response.reasoning_text.delta") > 2);
}

#[test]
fn the_names_of_the_events() {
    let server = server(Script::echo().when_pieces(
        "Hi",
        &[
            "<|channel|>analysis<|message|>",
            "Let",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "Hel",
            "lo",
        ],
    ));
    let (events, _) = stream(&server, &request("Hi"));
    let names: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
}

#[test]
fn a_bound_on_the_output_makes_it_incomplete() {
    let server = server(Script::always(HELLO));
    // The header of the answer and two of its tokens.
    let body = with(&request("Hi"), json!({"max_output_tokens": 14}));
    let response = create(&server, &body);
    assert_eq!(response["status"], "incomplete");
    assert_eq!(
        response["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    assert_eq!(response["completed_at"], Value::Null);
    assert_eq!(response["usage"]["output_tokens"], 14);
    let output = response["output"].as_array().expect("output");
    assert_eq!(output[0]["status"], "completed");
    assert_eq!(output[1]["status"], "incomplete");
    let text = output[1]["content"][0]["text"].as_str().expect("a text");
    assert!(
        "Hello, world!".starts_with(text) && !text.is_empty(),
        "{text:?}"
    );
    let (events, _) = stream(&server, &body);
    assert_eq!(
        events.last().map(|event| event["type"].clone()),
        Some(json!("response.incomplete"))
    );
}

#[test]
fn a_call_that_nobody_allowed_is_text() {
    let server = server(Script::always(CALL));
    let (_, response) = stream(&server, &request("Weather?"));
    assert_eq!(
        said(&response)[3],
        ("message".into(), "{\"city\": \"Paris\"}".into())
    );
}

#[test]
fn logprobs_are_those_of_the_answer() {
    let server = server(Script::always(HELLO));
    let body = with(
        &request("Hi"),
        json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    );
    let (events, response) = stream(&server, &body);
    let logprobs = response["output"][1]["content"][0]["logprobs"]
        .as_array()
        .expect("logprobs")
        .clone();
    let text: String = logprobs
        .iter()
        .filter_map(|token| token["token"].as_str())
        .collect();
    assert_eq!(text, "Hello, world!");
    assert!(
        logprobs
            .iter()
            .all(|token| token["top_logprobs"].as_array().map(Vec::len) == Some(2))
    );
    let deltas: Vec<Value> = (events.iter())
        .filter(|event| event["type"] == "response.output_text.delta")
        .flat_map(|event| event["logprobs"].as_array().expect("logprobs").clone())
        .collect();
    assert_eq!(deltas, logprobs);
    let plain = create(&server, &request("Hi"));
    assert_eq!(plain["output"][1]["content"][0]["logprobs"], json!([]));
}

#[test]
fn a_failure_in_the_stream_is_its_last_event_and_a_failure_of_the_whole_an_error() {
    let server = server(Script::echo());
    let body = request("one two three four five six seven");
    server.control.hold();
    let reader = server
        .client()
        .stream(RESPONSES, &with(&body, json!({"stream": true})));
    server.control.allow(6);
    server.control.wait_until_blocked();
    server
        .control
        .fail_next(ExecuteError::Step("secret detail".into()));
    server.control.release();
    let events = reader.transcript().chunks;
    let response = response_events::check(&events);
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "server_error");
    assert!(!response.to_string().contains("secret"));
    assert_eq!(get(&server, &response), response);
    assert_eq!(
        server.metric("gossamer_api_errors_total{code=\"engine_error\"}"),
        1.0
    );

    server
        .control
        .fail_next(ExecuteError::Step("secret detail".into()));
    let error = server.client().post(RESPONSES, &body).error(500);
    assert_eq!(error.code.as_deref(), Some("engine_error"));
    assert_eq!(
        server.metric("gossamer_api_errors_total{code=\"engine_error\"}"),
        2.0
    );
    assert_eq!(server.metric("gossamer_responses_stored"), 1.0);
    server.wait_until_idle();
}

#[test]
fn a_client_that_goes_away_cancels_its_response() {
    let server = server(Script::always(&format!(
        "<|channel|>final<|message|>{}",
        "word ".repeat(500)
    )));
    server.control.hold();
    let mut reader = server
        .client()
        .stream(RESPONSES, &with(&request("Hi"), json!({"stream": true})));
    assert!(reader.next().is_some());
    drop(reader);
    server.control.release();
    server.wait_until_idle();
    assert_eq!(server.metric("gossamer_api_requests_cancelled_total"), 1.0);
    assert_eq!(server.metric("gossamer_responses_stored"), 0.0);
}

#[test]
fn a_conversation_that_is_too_long_is_refused_or_shortened() {
    let server = server(Script::always(HELLO));
    let mut items: Vec<Value> = Vec::new();
    for i in 0..60 {
        items.push(
            json!({"role": "user", "content": format!("question {i} {}", "word ".repeat(100))}),
        );
        items.push(json!({"role": "assistant", "content": "answer"}));
    }
    items.push(json!({"role": "user", "content": "the last question"}));
    let body = json!({"model": "test-model", "input": items, "instructions": "KEEP THIS", "max_output_tokens": 50});
    let error = server.client().post(RESPONSES, &body).error(400);
    assert_eq!(error.code.as_deref(), Some("context_length_exceeded"));
    assert_eq!(error.param.as_deref(), Some("input"));
    let response = create(&server, &with(&body, json!({"truncation": "auto"})));
    let input = response["usage"]["input_tokens"].as_u64().expect("a count");
    assert!((3900..=4096 - 50).contains(&input), "{input}");
    assert_eq!(response["truncation"], "auto");
}
