//! Messages to prompts: what the model reads.

use gossamer_testkit::Script;
use serde_json::{Value, json};

use crate::common::{CHAT, server};

/// Sends messages; the answer is `yes` if the prompt contains `needle`.
#[track_caller]
fn prompt_contains(messages: Value, needle: &str) {
    prompt_contains_with(json!({}), messages, needle);
}

#[track_caller]
fn prompt_contains_with(more: Value, messages: Value, needle: &str) {
    let server = server(
        Script::echo()
            .when(needle, "<|channel|>final<|message|>yes")
            .when("", "<|channel|>final<|message|>no"),
    );
    let body = crate::common::with(&json!({"model": "test-model", "messages": messages}), more);
    let answer = server.client().post(CHAT, &body).ok();
    assert_eq!(
        answer["choices"][0]["message"]["content"], "yes",
        "the prompt lacks {needle:?}"
    );
}

#[test]
fn the_system_message_has_date_and_effort() {
    let hi = json!([{"role": "user", "content": "Hi"}]);
    prompt_contains(hi.clone(), "Current date: 2026-01-02\n\nReasoning: medium");
    for effort in ["low", "medium", "high"] {
        prompt_contains_with(
            json!({"reasoning_effort": effort}),
            hi.clone(),
            &format!("Reasoning: {effort}"),
        );
    }
}

#[test]
fn system_and_developer_messages_are_instructions() {
    prompt_contains(
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            {"role": "user", "content": "Hi"},
        ]),
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\nBe kind.<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant",
    );
}

#[test]
fn reasoning_before_the_last_answer_is_dropped() {
    let messages = json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two", "reasoning": "hidden", "refusal": null, "annotations": [], "audio": null,
         "function_call": null, "tool_calls": null},
        {"role": "user", "content": "three"},
    ]);
    prompt_contains(
        messages,
        "<|start|>user<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>two<|end|><|start|>user<|message|>three<|end|>",
    );
}

#[test]
fn reasoning_between_calls_is_kept_under_either_name() {
    for name in ["reasoning", "reasoning_content"] {
        let messages = json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", name: "need it", "tool_calls": [
                {"id": "x", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "x", "name": "f", "content": [{"type": "text", "text": "sun"}]},
        ]);
        prompt_contains(messages, "<|channel|>analysis<|message|>need it<|end|>");
    }
}

#[test]
fn content_beside_calls_is_a_preamble() {
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "x", "content": "sun"},
    ]);
    prompt_contains(
        messages,
        "<|start|>assistant<|channel|>commentary<|message|>Looking.<|end|>",
    );
}

#[test]
fn two_calls_are_answered_in_any_order() {
    let messages = json!([
        {"role": "user", "content": "both?"},
        {"role": "assistant", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "b", "content": "second"},
        {"role": "tool", "tool_call_id": "a", "content": "first"},
    ]);
    prompt_contains(
        messages,
        "<|start|>functions.g to=assistant<|channel|>commentary<|message|>second<|end|>",
    );
}

#[test]
fn users_are_named_in_their_headers() {
    let messages = json!([
        {"role": "user", "name": "ada", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "name": "bot", "content": "three"},
        {"role": "user", "name": "bob", "content": "four"},
    ]);
    prompt_contains(
        messages,
        "<|start|>user:ada<|message|>one<|end|><|start|>user<|message|>two<|end|>\
         <|start|>assistant<|channel|>final<|message|>three<|end|><|start|>user:bob<|message|>four<|end|>",
    );
}
