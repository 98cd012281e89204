//! What an answer says about its prompt: `echo`, `prompt_logprobs`, and answers without any generated token.

use gossamer_testkit::{Script, tokens};
use serde_json::{Value, json};

use crate::common::{CHAT, COMPLETIONS, chat, completion, server, with};

/// The text and the columns of choice `index`, whole and put together from chunks.
fn both_ways(server: &gossamer_testkit::TestServer, body: &Value, index: usize) -> (String, Value) {
    let answer = server.client().post(COMPLETIONS, body).ok();
    let choice = &answer["choices"][index];
    let whole = (
        choice["text"].as_str().expect("a text").to_owned(),
        choice["logprobs"].clone(),
    );
    let streamed = with(body, json!({"stream": true}));
    let transcript = server.client().stream(COMPLETIONS, &streamed).transcript();
    assert!(transcript.done);
    let (mut text, mut columns) = (String::new(), json!(null));
    for choice in transcript.chunks.iter().map(|chunk| &chunk["choices"][0]) {
        if choice["index"] != index {
            continue;
        }
        text.push_str(choice["text"].as_str().expect("a text"));
        let Some(more) = choice["logprobs"].as_object() else {
            continue;
        };
        if columns.is_null() {
            columns =
                json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
        }
        for (name, column) in columns.as_object_mut().expect("columns") {
            let column = column.as_array_mut().expect("a column");
            column.extend(more[name].as_array().expect("a column").clone());
        }
    }
    assert_eq!((text, columns), whole, "streamed = whole");
    whole
}

#[test]
fn an_echoed_prompt_is_the_beginning_of_the_text() {
    let server = server(Script::echo().when("Once", " upon a time"));
    let body = with(&completion("Once"), json!({"echo": true}));
    assert_eq!(
        both_ways(&server, &body, 0),
        ("Once upon a time".into(), json!(null))
    );
    let ids = json!([tokens("On"), tokens("Once é")]);
    let body = with(&body, json!({"prompt": ids, "n": 2, "max_tokens": 50}));
    assert_eq!(both_ways(&server, &body, 0).0, "OnOn");
    assert_eq!(both_ways(&server, &body, 3).0, "Once é upon a time");
}

#[test]
fn an_echoed_prompt_has_log_probabilities_but_for_its_first_token() {
    let server = server(Script::echo().when_pieces("a é", &[" c", " d"]));
    let body = with(&completion("a é b"), json!({"echo": true, "logprobs": 2}));
    let (text, columns) = both_ways(&server, &body, 0);
    assert_eq!(text, "a é b c d");
    assert_eq!(columns["tokens"], json!(["a", " é", " b", " c", " d"]));
    assert_eq!(columns["text_offset"], json!([0, 1, 3, 5, 7]));
    assert_eq!(
        columns["token_logprobs"],
        json!([null, -0.25, -0.25, -0.25, -0.25])
    );
    let top = columns["top_logprobs"].as_array().expect("a column");
    assert!(top[0].is_null());
    assert_eq!(top[1][" é"], -0.25);
    assert!(
        top[1..]
            .iter()
            .all(|top| top.as_object().is_some_and(|top| top.len() == 2))
    );
}

#[test]
fn a_prompt_can_be_scored_and_nothing_generated() {
    let server = server(Script::echo());
    let body = with(
        &completion(json!(["one two", "three"])),
        json!({"echo": true, "logprobs": 0, "max_tokens": 0}),
    );
    let (text, columns) = both_ways(&server, &body, 0);
    assert_eq!(text, "one two");
    assert_eq!(columns["tokens"], json!(["one", " two"]));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(answer["choices"][1]["text"], "three");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(answer["usage"]["total_tokens"], 3);
    let body = with(&completion("x"), json!({"max_tokens": 0}));
    assert_eq!(both_ways(&server, &body, 0), (String::new(), json!(null)));
    server.wait_until_idle();
}

#[test]
fn prompt_logprobs_of_completions() {
    let server = server(Script::echo());
    let body = with(
        &completion("one two three"),
        json!({"prompt_logprobs": 2, "n": 2}),
    );
    let answer = server.client().post(COMPLETIONS, &body).ok();
    for index in 0..2 {
        let choice = &answer["choices"][index];
        assert!(choice["logprobs"].is_null());
        let scored = choice["prompt_logprobs"].as_array().expect("a list");
        assert_eq!(scored.len(), 3);
        assert!(scored[0].is_null());
        let two = tokens(" two")[0].to_string();
        let entry = scored[1].as_object().expect("an object");
        assert_eq!(entry.len(), 2, "{entry:?}");
        assert_eq!(
            entry[&two],
            json!({"logprob": -0.25, "rank": 1, "decoded_token": " two"})
        );
    }
    // The larger of two numbers of alternatives is computed; each is shown as asked.
    let body = with(
        &completion("one two"),
        json!({"prompt_logprobs": 0, "logprobs": 3, "echo": true}),
    );
    let choice = &server.client().post(COMPLETIONS, &body).ok()["choices"][0];
    let entry = choice["prompt_logprobs"][1].as_object().expect("an object");
    assert_eq!(entry.len(), 1);
    let top = choice["logprobs"]["top_logprobs"][1]
        .as_object()
        .expect("an object");
    assert_eq!(top.len(), 3);
}

#[test]
fn prompt_logprobs_of_a_chat_cover_the_whole_prompt_even_if_it_is_cached() {
    let server = server(Script::echo());
    let plain = server.client().post(CHAT, &chat("Hi")).ok();
    assert!(plain.get("prompt_logprobs").is_none());
    let body = with(&chat("Hi"), json!({"prompt_logprobs": 1}));
    let answer = server.client().post(CHAT, &body).ok();
    let scored = answer["prompt_logprobs"].as_array().expect("a list");
    assert_eq!(answer["usage"]["prompt_tokens"], scored.len());
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let texts: String = scored[1..]
        .iter()
        .flat_map(|entry| entry.as_object().expect("an object").values())
        .filter(|entry| entry["rank"] == 1)
        .map(|entry| entry["decoded_token"].as_str().expect("a text"))
        .collect();
    assert!(
        texts.ends_with("<|start|>user<|message|>Hi<|end|><|start|>assistant"),
        "{texts}"
    );
}

#[test]
fn what_would_make_the_answer_too_large_is_refused() {
    let server = server(Script::echo());
    let prompts: Vec<Vec<u32>> = vec![vec![1; 4000]; 4];
    let body = with(
        &completion(json!(prompts)),
        json!({"prompt_logprobs": 20, "max_tokens": 1}),
    );
    let error = server.client().post(COMPLETIONS, &body).error(400);
    assert_eq!(error.param.as_deref(), Some("prompt_logprobs"));
    assert!(error.message.contains("336000"), "{}", error.message);
    let body = with(
        &body,
        json!({"prompt_logprobs": null, "logprobs": 20, "echo": true}),
    );
    let error = server.client().post(COMPLETIONS, &body).error(400);
    assert_eq!(error.param.as_deref(), Some("logprobs"));
    assert_eq!(server.control.steps(), 0);
}
