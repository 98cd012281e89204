//! A loop of ten tool calls hits the prefix cache for all but the new tokens, whatever the client forgets.

use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

use crate::anthropic::{MESSAGES, ask};
use crate::common::{CHAT, chat, weather_tool, with};
use crate::responses::{self, RESPONSES, weather};

const TURNS: usize = 10;
const BLOCK: u64 = 16;

/// A model that calls `get_weather` again and again, with headers and token borders as it likes and as no renderer has them.
fn looping() -> Script {
    let call = |i: usize| -> Vec<String> {
        let header = match i % 2 {
            0 => {
                "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
            }
            _ => "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>",
        };
        let thought =
            format!("<|channel|>analysis<|message|>call number {i}, and a few more words<|end|>");
        let pieces = [
            &thought,
            header,
            "{\"ci",
            "ty\":  ",
            "\"Pa",
            "ris\", \"n\": ",
            "1.0",
            "}",
            "<|call|>",
        ];
        pieces.map(str::to_owned).to_vec()
    };
    let last = format!("result {TURNS}.");
    let mut script = Script::echo().when(&last, "<|channel|>final<|message|>That was all.");
    for i in (0..TURNS).rev() {
        let needle = if i == 0 {
            "Weather?".to_owned()
        } else {
            format!("result {i}.")
        };
        let call = call(i);
        let pieces: Vec<&str> = call.iter().map(String::as_str).collect();
        script = script.when_pieces(&needle, &pieces);
    }
    script
}

fn start(kept_turns: usize) -> TestServer {
    let mut setup = TestSetup::new(looping());
    setup.api.kept.turns = kept_turns;
    setup.start()
}

/// Prompt, cached and generated tokens of each request of a loop.
type Counts = Vec<(u64, u64, u64)>;

/// The loop through chat completions. `forget` is what a client does to an assistant's message.
fn through_chat(server: &TestServer, forget: impl Fn(&mut Value)) -> Counts {
    let mut body = with(&chat("Weather?"), json!({"tools": weather_tool()}));
    let mut counts = Vec::new();
    for i in 1..=TURNS + 1 {
        let answer = server.client().post(CHAT, &body).ok();
        let usage = &answer["usage"];
        let count = |value: &Value| value.as_u64().expect("a count");
        counts.push((
            count(&usage["prompt_tokens"]),
            count(&usage["prompt_tokens_details"]["cached_tokens"]),
            count(&usage["completion_tokens"]),
        ));
        let mut message = answer["choices"][0]["message"].clone();
        if i > TURNS {
            assert_eq!(message["content"], "That was all.");
            break;
        }
        let id = message["tool_calls"][0]["id"].clone();
        forget(&mut message);
        let result = json!({"role": "tool", "tool_call_id": id, "content": format!("result {i}.")});
        (body["messages"].as_array_mut().expect("messages")).extend([message, result]);
    }
    counts
}

/// The loop through the Messages API.
fn through_messages(server: &TestServer, fields: Value) -> Counts {
    let tools = json!([{
        "name": "get_weather", "description": "Weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }]);
    let mut body = with(&with(&ask("Weather?"), json!({"tools": tools})), fields);
    let mut counts = Vec::new();
    for i in 1..=TURNS + 1 {
        let answer = server.client().post(MESSAGES, &body).ok();
        let count = |name: &str| answer["usage"][name].as_u64().expect("a count");
        let cached = count("cache_read_input_tokens");
        counts.push((
            count("input_tokens") + cached,
            cached,
            count("output_tokens"),
        ));
        let content = &answer["content"];
        let call = content
            .as_array()
            .and_then(|blocks| blocks.last())
            .expect("a block");
        if i > TURNS {
            assert_eq!(call["text"], "That was all.");
            break;
        }
        let result = json!({"type": "tool_result", "tool_use_id": call["id"], "content": format!("result {i}.")});
        (body["messages"].as_array_mut().expect("messages")).extend([
            json!({"role": "assistant", "content": content}),
            json!({"role": "user", "content": [result]}),
        ]);
    }
    counts
}

/// How a client of the Responses API goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goes {
    /// By the id of the response before.
    ById,
    /// With all items sent again, and nothing kept by the server.
    WithAll,
    /// The same, but for the items of the reasoning.
    WithoutReasoning,
    /// The same, and the arguments are written anew.
    Rewriting,
}

/// The loop through the Responses API.
fn through_responses(server: &TestServer, goes: Goes, streamed: bool) -> Counts {
    let by_id = goes == Goes::ById;
    let mut body = with(
        &responses::request(""),
        json!({
            "input": [{"role": "user", "content": "Weather?"}], "tools": weather(), "store": by_id,
            // What one loop left in the cache is not another's.
            "cache_salt": format!("{goes:?} {streamed}"),
        }),
    );
    let mut counts = Vec::new();
    for i in 1..=TURNS + 1 {
        let response = match streamed {
            true => responses::stream(server, &body).1,
            false => server.client().post(RESPONSES, &body).ok(),
        };
        let count = |value: &Value| value.as_u64().expect("a count");
        let usage = &response["usage"];
        counts.push((
            count(&usage["input_tokens"]),
            count(&usage["input_tokens_details"]["cached_tokens"]),
            count(&usage["output_tokens"]),
        ));
        let mut output = response["output"].as_array().expect("output").clone();
        if i > TURNS {
            assert_eq!(output[0]["content"][0]["text"], "That was all.");
            break;
        }
        assert_eq!((output.len(), &output[0]["type"]), (2, &"reasoning".into()));
        let result = json!({
            "type": "function_call_output", "call_id": output[1]["call_id"], "output": format!("result {i}."),
        });
        if by_id {
            body["previous_response_id"] = response["id"].clone();
            body["input"] = json!([result]);
            continue;
        }
        if goes != Goes::WithAll {
            output.remove(0);
        }
        if goes == Goes::Rewriting {
            output[0]["arguments"] = "{\"n\":1,\"city\":\"Paris\"}".into();
        }
        let items = body["input"].as_array_mut().expect("items");
        items.extend(output);
        items.push(result);
    }
    counts
}

/// Of every request after the first, all that the one before it had computed was found: its prompt and what it generated,
/// but for the last token, which nothing was computed from, in whole blocks.
fn all_but_the_new(counts: &Counts) -> bool {
    counts.windows(2).all(|pair| {
        let ((prompt, _, generated), (_, cached, _)) = (pair[0], pair[1]);
        cached >= (prompt + generated - 1) / BLOCK * BLOCK
    })
}

fn without_reasoning(message: &mut Value) {
    let message = message.as_object_mut().expect("a message");
    message.remove("reasoning");
    message.remove("reasoning_content");
}

/// As a client does that parses and writes the arguments.
fn with_other_blanks(message: &mut Value) {
    without_reasoning(message);
    message["tool_calls"][0]["function"]["arguments"] = "{\"n\":1,\"city\":\"Paris\"}".into();
}

#[test]
fn a_loop_through_chat_hits_the_cache_whatever_is_forgotten() {
    let server = start(100);
    for (what, forget) in [
        ("nothing", (|_| {}) as fn(&mut Value)),
        ("the reasoning", without_reasoning),
        ("how the arguments were written", with_other_blanks),
        ("one of the names of the reasoning", |message| {
            message
                .as_object_mut()
                .expect("a message")
                .remove("reasoning");
        }),
    ] {
        let counts = through_chat(&server, forget);
        assert_eq!(counts.len(), TURNS + 1);
        assert!(all_but_the_new(&counts), "{what}: {counts:?}");
    }
}

#[test]
fn a_loop_through_messages_hits_the_cache_with_and_without_thinking() {
    let server = start(100);
    for thinking in [
        json!({}),
        json!({"thinking": {"type": "adaptive"}}),
        json!({"thinking": {"type": "adaptive", "display": "omitted"}}),
    ] {
        let counts = through_messages(&server, thinking.clone());
        assert_eq!(counts.len(), TURNS + 1);
        assert!(all_but_the_new(&counts), "{thinking}: {counts:?}");
    }
}

#[test]
fn a_loop_through_responses_hits_the_cache_by_id_and_with_items_sent_again() {
    let server = start(100);
    for goes in [
        Goes::ById,
        Goes::WithAll,
        Goes::WithoutReasoning,
        Goes::Rewriting,
    ] {
        for streamed in [false, true] {
            let counts = through_responses(&server, goes, streamed);
            assert_eq!(counts.len(), TURNS + 1);
            assert!(all_but_the_new(&counts), "{goes:?}, {streamed}: {counts:?}");
        }
    }
}

#[test]
fn it_is_the_kept_turns_that_do_it() {
    let server = start(0);
    for goes in [Goes::ById, Goes::WithAll, Goes::WithoutReasoning] {
        assert!(!all_but_the_new(&through_responses(&server, goes, false)));
    }
    assert!(!all_but_the_new(&through_chat(&server, without_reasoning)));
    assert!(!all_but_the_new(&through_messages(&server, json!({}))));
}

#[test]
fn counting_and_rendering_see_what_is_put_back() {
    let server = start(100);
    let first = with(&chat("Weather?"), json!({"tools": weather_tool()}));
    let answer = server.client().post(CHAT, &first).ok();
    let mut message = answer["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    without_reasoning(&mut message);
    let mut second = first;
    (second["messages"].as_array_mut().expect("messages")).extend([
        message,
        json!({"role": "tool", "tool_call_id": id, "content": "sun"}),
    ]);
    let rendered = server
        .client()
        .post("/v1/chat/completions/render", &second)
        .ok();
    let prompt = rendered["prompt"].as_str().expect("a prompt");
    assert!(
        prompt.contains("call number 0") && prompt.contains("{\"city\":  \"Paris\""),
        "{prompt}"
    );
    let count = &server.client().post(CHAT, &second).ok()["usage"]["prompt_tokens"];
    assert_eq!(*count, rendered["count"]);
}

#[test]
fn a_turn_behind_an_answer_loses_its_reasoning_as_ever() {
    let server = start(100);
    let body = json!({
        "model": "test-model", "tools": weather_tool(),
        "messages": [{"role": "user", "content": "Weather?"}],
    });
    let answer = server.client().post(CHAT, &body).ok();
    let message = answer["choices"][0]["message"].clone();
    let id = message["tool_calls"][0]["id"].clone();
    let mut body = body;
    (body["messages"].as_array_mut().expect("messages")).extend([
        message,
        json!({"role": "tool", "tool_call_id": id, "content": "sun"}),
        json!({"role": "assistant", "content": "It is sunny."}),
        json!({"role": "user", "content": "Thanks."}),
    ]);
    let rendered = server
        .client()
        .post("/v1/chat/completions/render", &body)
        .ok();
    let prompt = rendered["prompt"].as_str().expect("a prompt");
    assert!(
        !prompt.contains("call number 0") && prompt.contains("to=functions.get_weather"),
        "{prompt}"
    );
}
