//! Raw completions: strings, token ids, batches.

use gossamer_testkit::{Script, tokens};
use serde_json::{Value, json};

use crate::common::{COMPLETIONS, completion, server, with};

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().expect("choices");
    choices
        .iter()
        .enumerate()
        .map(|(i, choice)| {
            assert_eq!(choice["index"], i);
            choice["text"].as_str().expect("text").to_owned()
        })
        .collect()
}

#[test]
fn an_answer_has_openais_shape() {
    let server = server(Script::always(" upon a time"));
    let answer = server.client().post(COMPLETIONS, &completion("Once")).ok();
    let id = answer["id"].as_str().expect("an id");
    assert!(id.starts_with("cmpl-"), "{id}");
    assert_eq!(
        answer,
        json!({
            "id": id,
            "object": "text_completion",
            "created": answer["created"],
            "model": "test-model",
            "choices": [{"index": 0, "text": " upon a time", "logprobs": null, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 4,
                "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            "system_fingerprint": "fp_test",
        })
    );
}

#[test]
fn the_prompt_is_raw_and_its_control_tokens_are_text() {
    let server = server(Script::echo());
    let prompt = "<|start|>user<|mess";
    let body = with(&completion(prompt), json!({"max_tokens": 100}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(texts(&answer), [prompt]);
    let spelled = tokens("x").len() + 8;
    assert!(
        answer["usage"]["prompt_tokens"].as_u64() > Some(spelled as u64 - 3),
        "more than one token each: {answer}"
    );
}

#[test]
fn control_tokens_of_the_answer_are_left_out() {
    let server = server(Script::always("<|channel|>final<|message|>seen"));
    let answer = server.client().post(COMPLETIONS, &completion("x")).ok();
    assert_eq!(texts(&answer), ["finalseen"]);
}

#[test]
fn all_four_forms_of_prompt() {
    let server = server(Script::echo());
    let ids = |text: &str| json!(tokens(text));
    let many = json!({"max_tokens": 50});
    for (prompt, expected) in [
        (json!("one two"), vec!["one two"]),
        (json!(["one two", "three"]), vec!["one two", "three"]),
        (ids("one two"), vec!["one two"]),
        (
            json!([ids("one two"), ids("three four five"), ids("six")]),
            vec!["one two", "three four five", "six"],
        ),
        (
            json!(["text", ids("and tokens")]),
            vec!["text", "and tokens"],
        ),
    ] {
        let answer = server
            .client()
            .post(COMPLETIONS, &with(&completion(prompt), many.clone()))
            .ok();
        assert_eq!(texts(&answer), expected);
    }
}

#[test]
fn choices_of_a_batch_are_numbered_prompt_by_prompt() {
    let server = server(
        Script::echo()
            .when_choices("alpha", &["a0", "a1"])
            .when_choices("beta", &["b0", "b1"]),
    );
    let body = with(
        &completion(json!(["alpha", "beta"])),
        json!({"n": 2, "best_of": 2}),
    );
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(texts(&answer), ["a0", "a1", "b0", "b1"]);
    let prompt_tokens = (tokens("alpha").len() + tokens("beta").len()) as u64;
    assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens);

    let streamed = server
        .client()
        .stream(COMPLETIONS, &with(&body, json!({"stream": true})))
        .transcript();
    assert!(streamed.done);
    let mut joined = vec![String::new(); 4];
    let mut finished = vec![0; 4];
    for chunk in &streamed.chunks {
        assert_eq!(chunk["object"], "text_completion");
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        joined[index].push_str(choice["text"].as_str().expect("text"));
        finished[index] += usize::from(!choice["finish_reason"].is_null());
    }
    assert_eq!(joined, ["a0", "a1", "b0", "b1"]);
    assert_eq!(finished, [1; 4]);
    server.wait_until_idle();
}

#[test]
fn usage_of_a_stream() {
    let server = server(Script::always("abc"));
    let body = with(
        &completion("x"),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let mut chunks = server
        .client()
        .stream(COMPLETIONS, &body)
        .transcript()
        .chunks;
    let last = chunks.pop().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 3);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.get("usage") == Some(&Value::Null))
    );
}

#[test]
fn the_default_length_is_openais() {
    let server = server(Script::echo());
    let body = with(&completion("x"), json!({"ignore_eos": true}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn log_probabilities_in_the_older_form() {
    let server = server(Script::echo().when_pieces("x", &["ab", "é", " c"]));
    let body = with(&completion("x"), json!({"logprobs": 2}));
    let answer = server.client().post(COMPLETIONS, &body).ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["ab", "é", " c"]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.25, -0.25, -0.25]));
    assert_eq!(logprobs["text_offset"], json!([0, 2, 3]), "in characters");
    assert_eq!(logprobs["top_logprobs"][0]["ab"], -0.25);
    assert_eq!(
        logprobs["top_logprobs"][0]
            .as_object()
            .map(serde_json::Map::len),
        Some(2)
    );

    let mut offsets = Vec::new();
    for chunk in server
        .client()
        .stream(COMPLETIONS, &with(&body, json!({"stream": true})))
        .transcript()
        .chunks
    {
        offsets.extend(
            chunk["choices"][0]["logprobs"]["text_offset"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
        );
    }
    assert_eq!(offsets, [0, 2, 3]);
}

#[test]
fn broken_characters_become_replacement_characters() {
    let half = tokens("🦀")[0];
    let server = server(Script::echo().when_tokens("x", vec![half, tokens("a")[0]]));
    let answer = server.client().post(COMPLETIONS, &completion("x")).ok();
    assert_eq!(texts(&answer), ["\u{fffd}a"]);
}
