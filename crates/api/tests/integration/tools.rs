//! Tool calls out, tool results in.

use gossamer_testkit::Script;
use serde_json::json;

use crate::common::{
    CHAT, assembled, both_ways, chat, server, stream_chat, weather_tool, whole, with,
};

const CALL: &str = "<|channel|>analysis<|message|>need weather<|end|>\
                    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";

#[test]
fn a_call_has_openais_shape() {
    let server = server(Script::always(CALL));
    let body = with(
        &chat("Weather in Paris?"),
        json!({"tools": weather_tool(), "tool_choice": "auto", "parallel_tool_calls": false}),
    );
    let answer = server.client().post(CHAT, &body).ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = choice["message"].as_object().expect("a message");
    assert_eq!(message["content"], json!(null));
    assert_eq!(message["reasoning"], "need weather");
    let call = &message["tool_calls"][0];
    assert!(
        call["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("call_"))
    );
    assert_eq!(call["type"], "function");
    assert_eq!(
        call["function"],
        json!({"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"})
    );
    both_ways(&server, &body);
}

#[test]
fn a_streamed_call_has_its_name_first_and_then_its_arguments() {
    let server = server(Script::echo().when_pieces(
        "Weather",
        &[
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
            "{\"city\"",
            ": \"Par",
            "is\"}",
            "<|call|>",
        ],
    ));
    let body = with(&chat("Weather in Paris?"), json!({"tools": weather_tool()}));
    let transcript = stream_chat(&server, &body);
    let answer = &assembled(&transcript)[0];
    assert_eq!(
        answer.calls,
        [("get_weather".into(), "{\"city\": \"Paris\"}".into())]
    );
    assert_eq!(answer.finish_reason, "tool_calls");
    let calls: Vec<_> = (transcript.chunks.iter())
        .filter_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls").cloned())
        .collect();
    assert_eq!(
        calls[0][0]["function"],
        json!({"name": "get_weather", "arguments": ""})
    );
    assert_eq!(
        calls[1],
        json!([{"index": 0, "function": {"arguments": "{\""}}])
    );
    assert!(calls.len() > 4, "piece by piece: {calls:?}");
}

#[test]
fn a_preamble_is_content() {
    let server = server(Script::always(
        "<|channel|>commentary<|message|>I will look.<|end|>\
         <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>",
    ));
    let answer = &both_ways(
        &server,
        &with(&chat("Weather?"), json!({"tools": weather_tool()})),
    )[0];
    assert_eq!(answer.content, "I will look.");
    assert_eq!(answer.calls, [("get_weather".to_owned(), "{}".to_owned())]);
    assert_eq!(answer.finish_reason, "tool_calls");
}

#[test]
fn a_call_that_is_cut_says_length() {
    let server = server(Script::always(CALL));
    let all = gossamer_testkit::tokens(CALL).len();
    let body = with(
        &chat("Weather?"),
        json!({"tools": weather_tool(), "max_tokens": all - 2}),
    );
    let answer = &both_ways(&server, &body)[0];
    assert_eq!(answer.finish_reason, "length");
    assert_eq!(answer.calls.len(), 1);
}

#[test]
fn a_call_that_nobody_allowed_is_text() {
    let server = server(Script::always(CALL));
    for body in [
        chat("Weather?"),
        with(
            &chat("Weather?"),
            json!({"tools": weather_tool(), "tool_choice": "none"}),
        ),
    ] {
        let answer = &both_ways(&server, &body)[0];
        assert!(answer.calls.is_empty());
        assert_eq!(answer.content, "{\"city\": \"Paris\"}");
        assert_eq!(answer.finish_reason, "stop");
    }
}

#[test]
fn declarations_are_in_the_prompt_unless_calls_are_forbidden() {
    let server = server(
        Script::echo()
            .when(
                "type get_weather = (_: {",
                "<|channel|>final<|message|>declared",
            )
            .when("Weather?", "<|channel|>final<|message|>not declared"),
    );
    let with_tools = with(&chat("Weather?"), json!({"tools": weather_tool()}));
    assert_eq!(both_ways(&server, &with_tools)[0].content, "declared");
    let none = with(&with_tools, json!({"tool_choice": "none"}));
    assert_eq!(both_ways(&server, &none)[0].content, "not declared");
}

#[test]
fn the_loop_of_call_and_result_keeps_the_reasoning() {
    let server = server(
        Script::echo()
            .when(
                // What the model wrote itself, to the letter.
                &format!(
                    "<|start|>assistant{CALL}<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny"
                ),
                "<|channel|>final<|message|>It is sunny in Paris.",
            )
            .when("Weather in Paris?", CALL),
    );
    let first = with(&chat("Weather in Paris?"), json!({"tools": weather_tool()}));
    let answer = server.client().post(CHAT, &first).ok();
    // As SDKs send it back: the message as it came, then the result.
    let message = answer["choices"][0]["message"].clone();
    let result =
        json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"});
    let mut second = first;
    second["messages"]
        .as_array_mut()
        .expect("messages")
        .extend([message, result]);
    let answer = server.client().post(CHAT, &second).ok();
    assert_eq!(whole(&answer)[0].content, "It is sunny in Paris.");
    assert_eq!(whole(&answer)[0].finish_reason, "stop");
}
