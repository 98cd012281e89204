//! The shape half of OpenAI's compatibility test for servers of GPT-OSS: thirty tool calls through both APIs, whole and streamed.
//!
//! Their test (openai/gpt-oss, `compatibility-test/runCase.ts`) asks a real model and looks at what came back: the tool is
//! called, its arguments satisfy its schema, the reasoning is where clients look for it, its events are there. Whether the
//! model chose well is its other half, which needs that model. Here a script replays harmony as GPT-OSS writes it, in each of
//! its forms, so that all of that must hold for every case, and the arguments be those of the script.
//! The cases are data: `tests/compatibility`.

use gossamer_testkit::{Script, TestServer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::common::{Answer, CHAT, assembled, server, stream_chat, whole, with};
use crate::responses::{self, said};

#[derive(Deserialize)]
struct Case {
    tool_name: String,
    input: String,
    expected_arguments: Value,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("../compatibility/cases.jsonl").lines();
    let cases: Vec<Case> = lines
        .map(|line| serde_json::from_str(line).expect("a case"))
        .collect();
    assert_eq!(cases.len(), 30);
    cases
}

/// The declared function of this name.
fn tool(name: &str) -> Value {
    let tools: Vec<Value> =
        serde_json::from_str(include_str!("../compatibility/tools.json")).expect("tools");
    let mut of_this_name = tools.into_iter().filter(|tool| tool["name"] == name);
    let tool = of_this_name.next().expect("every case's tool is declared");
    assert!(of_this_name.next().is_none(), "{name} twice");
    with(&tool, json!({"strict": false}))
}

fn thought(number: usize) -> String {
    format!("Case {number}: I should call the function.")
}

fn result(number: usize) -> String {
    json!({"case": number, "ok": true}).to_string()
}

fn answer(number: usize) -> String {
    format!("That was case {number}.")
}

/// A turn that calls, as GPT-OSS writes it: the recipient in either part of the header, with the type of the content marked,
/// named or left out, and now and then with a word to the user before it.
fn turn(number: usize, case: &Case) -> String {
    let name = &case.tool_name;
    let header = match number % 5 {
        0 => format!("<|channel|>commentary to=functions.{name} <|constrain|>json"),
        1 => format!(" to=functions.{name}<|channel|>commentary <|constrain|>json"),
        2 => format!("<|channel|>commentary to=functions.{name}"),
        3 => format!("<|channel|>commentary to=functions.{name} json"),
        _ => format!(" to=functions.{name}<|channel|>commentary json"),
    };
    let preamble = match number % 7 {
        3 => "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant",
        _ => "",
    };
    let (thought, arguments) = (thought(number), &case.expected_arguments);
    format!(
        "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant{preamble}{header}<|message|>{arguments}<|call|>"
    )
}

fn start() -> TestServer {
    let mut script = Script::echo();
    for (number, _) in cases().iter().enumerate() {
        let (result, answer) = (result(number), answer(number));
        script = script.when(
            &format!("<|message|>{result}<|end|>"),
            &format!(
                "<|channel|>analysis<|message|>It is there.<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
            ),
        );
    }
    for (number, case) in cases().iter().enumerate() {
        let asked = format!("<|start|>user<|message|>{}<|end|>", case.input);
        script = script.when(&asked, &turn(number, case));
    }
    server(script)
}

/// What both of their tests look for first: the call, with arguments of the declared schema; and that they are the script's.
fn check_call(case: &Case, name: &Value, arguments: &Value) {
    assert_eq!(*name, case.tool_name.as_str(), "{}", case.input);
    let text = arguments.as_str().expect("arguments are a text");
    let parsed: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let schema = &tool(&case.tool_name)["parameters"];
    let validator = jsonschema::validator_for(schema).expect("a schema");
    assert!(validator.is_valid(&parsed), "{parsed} by {schema}");
    assert_eq!(parsed, case.expected_arguments, "{}", case.input);
}

fn preamble(number: usize) -> Option<&'static str> {
    (number % 7 == 3).then_some("One moment.")
}

#[test]
fn thirty_tool_calls_through_chat_completions() {
    let server = start();
    for (number, case) in cases().iter().enumerate() {
        let function = tool(&case.tool_name);
        let mut body = json!({
            "model": "test-model", "messages": [{"role": "user", "content": case.input}],
            "tools": [{"type": "function", "function": function}],
        });
        let first = server.client().post(CHAT, &body).ok();
        let message = &first["choices"][0]["message"];
        // Where clients look for the reasoning; and text beside a call is text, or null.
        for field in ["reasoning", "reasoning_content"] {
            assert_eq!(message[field], thought(number), "{field}");
        }
        let text = preamble(number).map_or(Value::Null, Value::from);
        assert_eq!(message["content"], text);
        let calls = message["tool_calls"].as_array().expect("calls");
        assert_eq!((calls.len(), &calls[0]["type"]), (1, &"function".into()));
        check_call(
            case,
            &calls[0]["function"]["name"],
            &calls[0]["function"]["arguments"],
        );
        // Streamed, it is the same, and in their order: the reasoning, the text, the call.
        let transcript = stream_chat(&server, &body);
        assert_eq!(assembled(&transcript), whole(&first));
        let kinds = kinds(&transcript.chunks);
        let expected: &[&str] = match text {
            Value::Null => &["reasoning", "tool_calls"],
            _ => &["reasoning", "content", "tool_calls"],
        };
        assert_eq!(kinds, expected, "{:?}", transcript.chunks);

        let call_id = calls[0]["id"].clone();
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.extend([
            message.clone(),
            json!({"role": "tool", "tool_call_id": call_id, "content": result(number)}),
        ]);
        let last = Answer {
            content: answer(number),
            reasoning: "It is there.".into(),
            finish_reason: "stop".into(),
            ..Answer::default()
        };
        assert_eq!(crate::common::both_ways(&server, &body), [last]);
    }
}

/// Which fields of the deltas grow, each run of one kind once.
fn kinds(chunks: &[Value]) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = Vec::new();
    for chunk in chunks {
        let delta = &chunk["choices"][0]["delta"];
        for kind in ["reasoning", "content", "tool_calls"] {
            let grows = match &delta[kind] {
                Value::String(text) => !text.is_empty(),
                other => other.is_array(),
            };
            if grows && kinds.last() != Some(&kind) {
                kinds.push(kind);
            }
        }
    }
    kinds
}

#[test]
fn thirty_tool_calls_through_responses() {
    let server = start();
    for (number, case) in cases().iter().enumerate() {
        let function = with(&tool(&case.tool_name), json!({"type": "function"}));
        let body = with(
            &responses::request(&case.input),
            json!({"tools": [function]}),
        );
        let response = responses::create(&server, &body);
        let (events, streamed) = responses::stream(&server, &body);
        assert_eq!(said(&streamed), said(&response));
        // What their test of events looks for, once each, and the order of the rest is checked by `stream`.
        let count = |name: &str| events.iter().filter(|event| event["type"] == name).count();
        assert!(count("response.reasoning_text.delta") > 0);
        assert_eq!(count("response.reasoning_text.done"), 1);
        assert!(count("response.function_call_arguments.delta") > 0);
        assert_eq!(count("response.function_call_arguments.done"), 1);

        for response in [&response, &streamed] {
            assert_eq!(response["status"], "completed");
            let mut items = response["output"].as_array().expect("output").iter();
            let reasoning = items.next().expect("an item");
            let content = json!([{"type": "reasoning_text", "text": thought(number)}]);
            assert_eq!(
                (&reasoning["type"], &reasoning["content"]),
                (&"reasoning".into(), &content)
            );
            if let Some(text) = preamble(number) {
                let message = items.next().expect("an item");
                assert_eq!(message["content"][0]["text"], text);
                assert_eq!(message["phase"], "commentary");
            }
            let call = items.next().expect("an item");
            assert_eq!(call["type"], "function_call");
            check_call(case, &call["name"], &call["arguments"]);
            assert!(items.next().is_none());

            // The result, to both: by id, and with everything sent again.
            let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": result(number)});
            let mut all = vec![json!({"role": "user", "content": case.input})];
            all.extend(response["output"].as_array().expect("output").clone());
            all.push(output.clone());
            for more in [
                json!({"input": [output], "previous_response_id": response["id"]}),
                json!({"input": all}),
            ] {
                let body = with(&body, more);
                let last = vec![
                    ("reasoning".to_owned(), "It is there.".to_owned()),
                    ("message".to_owned(), answer(number)),
                ];
                assert_eq!(said(&responses::create(&server, &body)), last);
                assert_eq!(said(&responses::stream(&server, &body).1), last);
            }
        }
    }
}
