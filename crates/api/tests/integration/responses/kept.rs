//! Responses that are kept: fetch, continue, list, delete; whose they are; what a restart leaves.

use std::path::Path;
use std::time::Duration;

use gossamer_api::StoreConfig;
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

use super::{RESPONSES, create, get, path, request, said, stream, weather};
use crate::auth::Guarded;
use crate::common::{CHAT, HELLO, chat, server, weather_tool, with};

const CALL: &str = "<|channel|>analysis<|message|>need weather<|end|>\
                    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";

fn continues(previous: &Value, input: impl Into<Value>) -> Value {
    json!({"model": "test-model", "previous_response_id": previous["id"], "input": input.into(), "temperature": 0})
}

/// A server whose responses are in a file.
fn server_with(file: &Path, script: Script) -> TestServer {
    let mut setup = TestSetup::new(script);
    setup.responses = Some(StoreConfig {
        path: Some(file.to_owned()),
        max_count: 100,
        max_bytes: 1 << 24,
        max_age: Duration::from_secs(3600),
    });
    setup.start()
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let server = server(
        Script::echo()
            .when("The answer was red.", "<|channel|>final<|message|>third")
            .when("<|start|>user<|message|>First<|end|><|start|>assistant<|channel|>final<|message|>Hello, world!<|end|><|start|>user<|message|>Second<|end|>", "<|channel|>final<|message|>second")
            .when("First", HELLO),
    );
    let first = create(
        &server,
        &with(
            &request("First"),
            json!({"instructions": "Not carried over."}),
        ),
    );
    let second = create(&server, &continues(&first, "Second"));
    assert_eq!(said(&second)[0].1, "second");
    assert_eq!(second["previous_response_id"], first["id"]);
    let (_, third) = stream(&server, &continues(&second, "The answer was red."));
    assert_eq!(said(&third)[0].1, "third");
    // Two answers to the same.
    let other = create(&server, &continues(&first, "Second"));
    assert_eq!(said(&other)[0].1, "second");
    for response in [&first, &second, &third, &other] {
        assert_eq!(&get(&server, response), response);
    }
}

#[test]
fn the_loop_of_call_and_result_keeps_the_reasoning() {
    const RENDERED: &str = "<|channel|>analysis<|message|>need weather<|end|><|start|>assistant to=functions.get_weather\
                            <|channel|>commentary <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>";
    const RESULT: &str =
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny";
    // As the model wrote it, or, where turns are not kept, from the items.
    for (kept_turns, read) in [(100, CALL), (0, RENDERED)] {
        let script = Script::echo().when(
            &format!("{read}{RESULT}"),
            "<|channel|>final<|message|>It is sunny in Paris.",
        );
        let mut setup = TestSetup::new(script.when("Weather in Paris?", CALL));
        setup.api.kept.turns = kept_turns;
        let server = setup.start();
        let first = with(&request("Weather in Paris?"), json!({"tools": weather()}));
        let call = create(&server, &first);
        let call_id = call["output"][1]["call_id"].clone();
        let result = json!({"type": "function_call_output", "call_id": call_id, "output": "sunny"});
        // Continued by id.
        let body = with(
            &continues(&call, json!([result])),
            json!({"tools": weather()}),
        );
        assert_eq!(said(&create(&server, &body))[0].1, "It is sunny in Paris.");
        // Everything sent again, as it came.
        let mut items = vec![json!({"role": "user", "content": "Weather in Paris?"})];
        items.extend(call["output"].as_array().expect("output").clone());
        items.push(result);
        let body = with(&first, json!({"input": items, "store": false}));
        assert_eq!(said(&create(&server, &body))[0].1, "It is sunny in Paris.");
        // A call that nobody answers.
        let error = server
            .client()
            .post(RESPONSES, &continues(&call, "And now?"))
            .error(400);
        assert_eq!(error.param.as_deref(), Some("input"));
        assert!(error.message.contains("none answers"), "{}", error.message);
    }
}

#[test]
fn what_was_not_kept_is_not_there() {
    let server = server(Script::always(HELLO));
    let response = create(&server, &with(&request("Hi"), json!({"store": false})));
    assert_eq!(response["store"], false);
    let missing = |path: &str| server.client().get(path).error(404);
    assert_eq!(
        missing(&path(&response)).code.as_deref(),
        Some("response_not_found")
    );
    missing(&format!("{}/input_items", path(&response)));
    missing(&format!("{RESPONSES}/resp_0"));
    let error = server
        .client()
        .post(RESPONSES, &continues(&response, "x"))
        .error(400);
    assert_eq!(error.code.as_deref(), Some("previous_response_not_found"));
    let error = server
        .client()
        .request("DELETE", &path(&response), &[], b"")
        .error(404);
    assert_eq!(error.param.as_deref(), Some("response"));
    server
        .client()
        .request("POST", &format!("{}/cancel", path(&response)), &[], b"")
        .error(404);
    let error = server
        .client()
        .get(&format!("{RESPONSES}/x?starting_after=3"))
        .error(400);
    assert_eq!(error.param.as_deref(), Some("starting_after"));
    let error = server
        .client()
        .get(&format!("{RESPONSES}/x?frobnicate=3"))
        .error(400);
    assert_eq!(error.param.as_deref(), Some("frobnicate"));
}

#[test]
fn a_server_that_keeps_nothing_says_so() {
    let mut setup = TestSetup::new(Script::always(HELLO));
    setup.responses = None;
    let server = setup.start();
    let response = create(&server, &request("Hi"));
    assert_eq!(response["store"], false);
    server.client().get(&path(&response)).error(404);
    server
        .client()
        .get(&format!("{}/input_items", path(&response)))
        .error(404);
    server
        .client()
        .request("DELETE", &path(&response), &[], b"")
        .error(404);
    for (fields, param) in [
        (json!({"store": true}), "store"),
        (json!({"background": true}), "background"),
        (
            json!({"previous_response_id": "resp_1"}),
            "previous_response_id",
        ),
    ] {
        let error = server
            .client()
            .post(RESPONSES, &with(&request("Hi"), fields))
            .error(400);
        assert_eq!(error.param.as_deref(), Some(param));
    }
}

#[test]
fn deleting_forgets_and_ends_what_continues_it() {
    let server = server(Script::always(HELLO));
    let first = create(&server, &request("Hi"));
    let second = create(&server, &continues(&first, "And?"));
    let deleted = server
        .client()
        .request("DELETE", &path(&first), &[], b"")
        .ok();
    assert_eq!(
        deleted,
        json!({"id": first["id"], "object": "response", "deleted": true})
    );
    server.client().get(&path(&first)).error(404);
    assert_eq!(get(&server, &second), second);
    let error = server
        .client()
        .post(RESPONSES, &continues(&second, "x"))
        .error(400);
    assert_eq!(error.code.as_deref(), Some("previous_response_not_found"));
    assert!(
        error.message.contains(first["id"].as_str().expect("an id")),
        "{}",
        error.message
    );
    server
        .client()
        .request("DELETE", &path(&first), &[], b"")
        .error(404);
}

#[test]
fn the_input_of_a_response_is_listed_in_pages() {
    let server = server(Script::always(HELLO));
    let first = create(&server, &request("One"));
    let items = json!([
        {"role": "developer", "content": "Two"},
        {"role": "user", "id": "msg_mine", "content": [{"type": "input_text", "text": "Three"}]},
    ]);
    let second = create(&server, &continues(&first, items));
    let list = |query: &str| {
        server
            .client()
            .get(&format!("{}/input_items{query}", path(&second)))
            .ok()
    };
    let all = list("?order=asc&limit=100");
    let kinds: Vec<_> = (all["data"].as_array().expect("data").iter())
        .map(|item| (item["type"].clone(), item["role"].clone()))
        .collect();
    assert_eq!(
        kinds,
        [
            (json!("message"), json!("user")),
            (json!("reasoning"), Value::Null),
            (json!("message"), json!("assistant")),
            (json!("message"), json!("developer")),
            (json!("message"), json!("user")),
        ]
    );
    assert_eq!(
        all["data"][3]["content"],
        json!([{"type": "input_text", "text": "Two"}])
    );
    assert_eq!(all["last_id"], "msg_mine");
    assert_eq!(all["has_more"], false);
    let newest = list("?limit=2");
    assert_eq!(newest["first_id"], "msg_mine");
    assert_eq!(newest["has_more"], true);
    let rest = list(&format!(
        "?after={}",
        newest["last_id"].as_str().expect("an id")
    ));
    assert_eq!(rest["data"].as_array().map(Vec::len), Some(3));
    assert_eq!(rest["last_id"], all["first_id"]);
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("after=nothing", "after"),
        ("x=1", "x"),
    ] {
        let error = server
            .client()
            .get(&format!("{}/input_items?{query}", path(&second)))
            .error(400);
        assert_eq!(error.param.as_deref(), Some(param), "{query}");
    }
}

#[test]
fn nobody_sees_the_responses_of_another_key() {
    let guarded = Guarded::start(|_| ());
    let scopes = [gossamer_api::auth::Scope::Inference];
    let (anna, bert) = (guarded.key(&scopes), guarded.key(&scopes));
    let (anna, bert) = (anna.as_str(), bert.as_str());
    let send = |method: &str, path: &str, key: &str, body: &Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        guarded.ask(method, path, key, body.as_bytes())
    };
    let control = &guarded.server.control;
    let hers = send("POST", RESPONSES, anna, &request("Hi")).ok();
    let path = path(&hers);
    assert_eq!(send("GET", &path, anna, &Value::Null).ok(), hers);
    let background = with(&request("Hi"), json!({"background": true}));
    control.hold();
    let live = send("POST", RESPONSES, anna, &background).ok();
    let live_path = super::path(&live);
    for path in [&path, &live_path] {
        for (method, path) in [
            ("GET", path.clone()),
            ("GET", format!("{path}/input_items")),
            ("DELETE", path.clone()),
            ("POST", format!("{path}/cancel")),
        ] {
            let error = send(method, &path, bert, &Value::Null).error(404);
            assert_eq!(
                error.code.as_deref(),
                Some("response_not_found"),
                "{method} {path}"
            );
        }
    }
    for response in [&hers, &live] {
        let error = send("POST", RESPONSES, bert, &continues(response, "x")).error(400);
        assert_eq!(error.code.as_deref(), Some("previous_response_not_found"));
    }
    control.release();
    assert_eq!(
        send("POST", RESPONSES, anna, &continues(&hers, "x")).status,
        200
    );
}

#[test]
fn a_restart_leaves_everything_and_fails_what_was_unfinished() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("responses.db");
    let (first, second) = {
        let server = server_with(&file, Script::always(HELLO));
        let first = create(&server, &request("Hi"));
        server.control.hold();
        let second = create(&server, &with(&request("Hi"), json!({"background": true})));
        assert_eq!(second["status"], "queued");
        (first, second)
    };
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("the file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "nobody else may read what people said");
    let server = server_with(&file, Script::echo());
    assert_eq!(get(&server, &first), first);
    let second = get(&server, &second);
    assert_eq!(second["status"], "failed");
    assert_eq!(second["error"]["code"], "server_error");
    let third = create(&server, &continues(&first, "Go on"));
    assert_eq!(said(&third)[0].1, "Go on");
    assert_eq!(server.metric("gossamer_responses_stored"), 3.0);
}

#[test]
fn a_tool_loop_of_ten_turns_computes_only_what_is_new() {
    const BLOCK: u64 = 16;
    // What the model generated must be rendered again as it was, reasoning and all, or its blocks are of no use.
    let mut script = Script::echo();
    for turn in (0..10).rev() {
        let needle = if turn == 0 {
            "go".to_owned()
        } else {
            format!("result of step {turn}.")
        };
        // The header as the renderer writes it: the recipient in the role.
        script = script.when(
            &needle,
            &format!(
                "<|channel|>analysis<|message|>Now I think about step {turn} and what to do there, and then I do it.<|end|>\
                 <|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{{\"city\": \"City {turn}\"}}<|call|>"
            ),
        );
    }
    // Nothing is put back: it is the renderer's doing.
    let mut setup = TestSetup::new(script);
    setup.api.kept.turns = 0;
    let server = setup.start();
    let check = |turn: u64, input: u64, cached: u64, before: u64| {
        // All that was there when the last turn ended: its prompt and its output, but for the block that was not full and
        // the token that was drawn last, which nothing was computed from.
        assert!(
            cached + 2 * BLOCK > before,
            "turn {turn}: {cached} of {before} tokens cached, {input} in all"
        );
    };
    // Responses: by id, and with everything sent again.
    for by_id in [true, false] {
        let mut items = vec![json!({"role": "user", "content": format!("go {by_id}")})];
        let mut body = with(
            &request(""),
            json!({"input": items, "tools": weather(), "seed": 1}),
        );
        let mut before = 0;
        for turn in 0..10 {
            let response = create(&server, &body);
            let usage = &response["usage"];
            let count = |name: &str| usage[name].as_u64().expect("a count");
            let cached = usage["input_tokens_details"]["cached_tokens"]
                .as_u64()
                .expect("a count");
            check(turn, count("input_tokens"), cached, before);
            before = count("total_tokens");
            let call_id = response["output"][1]["call_id"].clone();
            let result = json!({"type": "function_call_output", "call_id": call_id, "output": format!("result of step {}.", turn + 1)});
            if by_id {
                body["previous_response_id"] = response["id"].clone();
                body["input"] = json!([result]);
            } else {
                items.extend(response["output"].as_array().expect("output").clone());
                items.push(result);
                body["input"] = json!(items);
            }
        }
    }
    // Chat completions.
    let mut body = with(
        &chat("go chat"),
        json!({"tools": weather_tool(), "seed": 1}),
    );
    let mut before = 0;
    for turn in 0..10 {
        let answer = server.client().post(CHAT, &body).ok();
        let usage = &answer["usage"];
        let count = |name: &str| usage[name].as_u64().expect("a count");
        let cached = usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a count");
        check(turn, count("prompt_tokens"), cached, before);
        before = count("total_tokens");
        let message = answer["choices"][0]["message"].clone();
        let result = json!({
            "role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": format!("result of step {}.", turn + 1),
        });
        body["messages"]
            .as_array_mut()
            .expect("messages")
            .extend([message, result]);
    }
}
