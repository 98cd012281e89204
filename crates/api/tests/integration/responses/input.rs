//! What goes in: items, their rendering, the contract of every field.

use gossamer_testkit::Script;
use serde_json::{Value, json};

use super::{RESPONSES, create, request, said, stream, weather};
use crate::common::{CHAT, chat, server, weather_tool, with};

/// The prompt that the model sees for a chat request, as text.
fn chat_prompt(server: &gossamer_testkit::TestServer, body: &Value) -> String {
    let rendered = server
        .client()
        .post("/v1/chat/completions/render", body)
        .ok();
    rendered["prompt"].as_str().expect("a prompt").to_owned()
}

#[test]
fn items_are_rendered_as_the_same_chat_is() {
    // The script answers with what it is only if the prompt is, to the token, that of the chat.
    let plain = server(Script::echo());
    let dialogue = json!([
        {"role": "system", "content": "Be nice.\n\nAlways."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "reasoning": "need weather", "content": "I will look.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "developer", "content": "In French."},
    ]);
    let prompt = chat_prompt(
        &plain,
        &with(
            &chat(""),
            json!({"messages": dialogue, "tools": weather_tool(), "reasoning_effort": "high"}),
        ),
    );
    let server = server(Script::echo().when(&prompt, "<|channel|>final<|message|>the same"));
    let items = json!([
        {"role": "system", "content": "Always."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather"}, {"type": "input_text", "text": "?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "need weather"}],
         "encrypted_content": null},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "I will look.", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{\"city\": \"Paris\"}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]},
        {"type": "message", "role": "developer", "content": "In French."},
    ]);
    let body = json!({
        "model": "test-model", "instructions": "Be nice.", "input": items, "tools": weather(),
        "reasoning": {"effort": "high"},
    });
    assert_eq!(
        said(&create(&server, &body)),
        [("message".into(), "the same".into())]
    );
    // The phase says it where the order does not.
    let mut body = body;
    body["input"][3]["phase"] = json!("commentary");
    let (_, response) = stream(&server, &body);
    assert_eq!(said(&response)[0].1, "the same");
    body["input"][3]["phase"] = json!("final_answer");
    assert_ne!(said(&create(&server, &body))[0].1, "the same");
}

#[test]
fn the_contract_of_every_field() {
    let table = include_str!("../../contract/responses.txt");
    crate::contract::check_refusals(table, 80, RESPONSES, |fields| with(&request("Hi"), fields));
}

#[test]
fn the_contract_of_items() {
    let table = include_str!("../../contract/items.txt");
    crate::contract::check_refusals(table, 35, RESPONSES, |items| {
        with(&request("Hi"), json!({"input": items}))
    });
}

#[test]
fn a_refused_request_is_no_stream_and_keeps_nothing() {
    let server = server(Script::echo());
    let body = with(&request("Hi"), json!({"stream": true, "temperature": 3}));
    let response = server.client().post(RESPONSES, &body);
    assert_eq!(response.error(400).param.as_deref(), Some("temperature"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(server.metric("gossamer_responses_stored"), 0.0);
}

#[test]
fn what_sdks_and_codex_send_unasked_is_accepted() {
    let server = server(Script::echo());
    for fields in [
        json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": false}),
        json!({"tool_choice": "none"}),
        json!({"include": ["reasoning.encrypted_content"], "store": false}),
        json!({"client_metadata": {"x": "y"}, "prompt_cache_key": "session"}),
        json!({"stream": true, "stream_options": {"include_obfuscation": false}}),
        json!({"reasoning": {"effort": "medium", "summary": "detailed"}}),
        json!({"reasoning": {}, "text": {}, "metadata": null, "tools": null, "include": []}),
        json!({"prompt_cache_retention": "in_memory", "service_tier": "default"}),
        json!({"top_logprobs": 3}),
        json!({"reasoning": null, "include": [], "tools": [{"type": "web_search", "external_web_access": false}], "tool_choice": "auto"}),
        json!({"tools": [{"type": "namespace", "name": "n", "description": "", "tools": []}], "tool_choice": "auto"}),
        json!({"seed": 3, "top_k": 5, "min_p": 0.1, "priority": -1, "cache_salt": "x", "speculation": "off", "max_reasoning_tokens": 3}),
    ] {
        let body = with(&request("Hi"), fields.clone());
        let response = server.client().post(RESPONSES, &body);
        assert_eq!(response.status, 200, "{fields}: {}", response.text());
    }
    // A field of chat completions under its own name there is not one here.
    for field in ["messages", "max_tokens", "n", "response_format", "stop"] {
        let error = server
            .client()
            .post(RESPONSES, &with(&request("Hi"), json!({field: 1})))
            .error(400);
        assert_eq!(error.code.as_deref(), Some("unknown_parameter"), "{field}");
        assert_eq!(error.param.as_deref(), Some(field));
    }
    server
        .client()
        .post(CHAT, &with(&chat("Hi"), json!({"input": "x"})))
        .error(400);
}

#[test]
fn functions_of_a_namespace_have_one_name_for_the_model_and_two_for_the_client() {
    const CALL: &str = "<|channel|>analysis<|message|>I send.<|end|><|start|>assistant<|channel|>commentary \
                        to=functions.mail__send <|constrain|>json<|message|>{}<|call|>";
    // The model reads of them under the one name, and what they have in common with the first.
    let script = Script::echo()
        .when(
            &format!("{CALL}<|start|>functions.mail__send to=assistant<|channel|>commentary<|message|>sent"),
            "<|channel|>final<|message|>It was sent.",
        )
        .when("// About mail.\n// \n// Sends.\ntype mail__send = () => any;\n\n// Reads.\ntype mail__read = () => any;", CALL);
    let server = server(script);
    let function = |name: &str, description: &str| json!({"type": "function", "name": name, "description": description, "strict": false, "parameters": null});
    let tools = json!([
        {"type": "web_search", "external_web_access": true, "search_content_types": ["text"]},
        {"type": "namespace", "name": "mail", "description": "About mail.", "tools": [function("send", "Sends."), function("read", "Reads.")]},
        function("send", "Something else."),
    ]);
    let body = with(&request("Write!"), json!({"tools": tools}));
    let (_, streamed) = stream(&server, &body);
    for response in [create(&server, &body), streamed] {
        // What the model was not told of is not shown either.
        let shown = json!([tools[1], tools[2]]);
        assert_eq!(response["tools"], shown);
        let call = &response["output"][1];
        assert_eq!(
            (&call["namespace"], &call["name"], &call["arguments"]),
            (&"mail".into(), &"send".into(), &"{}".into()),
            "{response}"
        );
        let result =
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "sent"});
        let items =
            json!([{"role": "user", "content": "Write!"}, response["output"][0], call, result]);
        for more in [
            json!({"input": [result], "previous_response_id": response["id"]}),
            json!({"input": items}),
        ] {
            let answer = create(&server, &with(&body, more));
            assert_eq!(said(&answer)[0].1, "It was sent.");
        }
    }
    // A function of its own has one name.
    let plain = with(&body, json!({"tools": [function("mail__send", "Sends.")]}));
    let script = Script::always(CALL);
    let call = create(&crate::common::server(script), &plain);
    assert_eq!(call["output"][1]["name"], "mail__send");
    assert!(call["output"][1].get("namespace").is_none());
}
