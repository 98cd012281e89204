//! Examples of every request and answer, by operation.
//!
//! A test sends each request to a server that must accept it, and the linter of `make openapi-lint` holds every example to
//! its schema, so none of them can be wrong about the API.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::Modify;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::{Content, OpenApi, RefOr};

use super::operations;

/// Puts the examples into the document.
pub(super) struct Examples;

impl Modify for Examples {
    fn modify(&self, document: &mut OpenApi) {
        for operation in operations(document) {
            let id = operation.operation_id.clone().unwrap_or_default();
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                for content in body.content.values_mut() {
                    add(content, requests(&id));
                }
            }
            let Some(RefOr::T(success)) = operation.responses.responses.get_mut("200") else {
                continue;
            };
            for (kind, content) in &mut success.content {
                add(content, answers(&id, kind));
            }
        }
    }
}

fn add(content: &mut RefOr<Content>, examples: Vec<(&str, &str, Value)>) {
    let RefOr::T(content) = content else { return };
    let examples: BTreeMap<String, RefOr<Example>> = examples
        .into_iter()
        .map(|(name, summary, value)| {
            let example = ExampleBuilder::new().summary(summary).value(Some(value));
            (name.to_owned(), RefOr::T(example.build()))
        })
        .collect();
    content.examples = examples;
}

/// Name, summary and body. Names sort: the first is what Swagger UI shows first.
fn requests(operation: &str) -> Vec<(&'static str, &'static str, Value)> {
    let question = json!({"role": "user", "content": "What is the capital of France?"});
    match operation {
        "createChatCompletion" => vec![
            (
                "1-question",
                "A question",
                json!({"model": MODEL, "messages": [question], "reasoning_effort": "low"}),
            ),
            (
                "2-stream",
                "The same, streamed",
                json!({
                    "model": MODEL, "messages": [question],
                    "stream": true, "stream_options": {"include_usage": true},
                }),
            ),
            (
                "3-tools",
                "A function to call",
                json!({
                    "model": MODEL,
                    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
                    "tools": [weather()],
                }),
            ),
            (
                "4-tool-result",
                "The function's result",
                json!({
                    "model": MODEL,
                    "messages": [
                        {"role": "user", "content": "What is the weather in Paris?"},
                        {"role": "assistant", "tool_calls": [{
                            "id": "call_1", "type": "function",
                            "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"},
                        }]},
                        {"role": "tool", "tool_call_id": "call_1", "content": "{\"sky\": \"clear\", \"celsius\": 21}"},
                    ],
                    "tools": [weather()],
                }),
            ),
        ],
        "createResponse" => vec![
            (
                "1-question",
                "A question",
                json!({"model": MODEL, "input": "What is the capital of France?", "reasoning": {"effort": "low"}}),
            ),
            (
                "2-stream",
                "The same, streamed",
                json!({"model": MODEL, "input": "What is the capital of France?", "stream": true}),
            ),
            (
                "3-tools",
                "A function to call",
                json!({"model": MODEL, "input": "What is the weather in Paris?", "tools": [flat_weather()]}),
            ),
            (
                "4-tool-result",
                "The function's result, with everything before it",
                json!({
                    "model": MODEL,
                    "store": false,
                    "input": [
                        {"role": "user", "content": "What is the weather in Paris?"},
                        {"type": "reasoning", "summary": [], "content": [
                            {"type": "reasoning_text", "text": "I need the weather in Paris."}]},
                        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{\"city\":\"Paris\"}"},
                        {"type": "function_call_output", "call_id": "call_1", "output": "{\"sky\": \"clear\", \"celsius\": 21}"},
                    ],
                    "tools": [flat_weather()],
                }),
            ),
            (
                "5-background",
                "In the background",
                json!({"model": MODEL, "input": "What is the capital of France?", "background": true}),
            ),
        ],
        "createMessage" => vec![
            (
                "1-question",
                "A question",
                json!({"model": MODEL, "max_tokens": 256, "messages": [question]}),
            ),
            (
                "2-stream",
                "With thinking, streamed",
                json!({
                    "model": MODEL, "max_tokens": 2048, "messages": [question],
                    "thinking": {"type": "enabled", "budget_tokens": 1024}, "stream": true,
                }),
            ),
            (
                "3-tools",
                "A tool to call",
                json!({
                    "model": MODEL, "max_tokens": 256,
                    "system": "Answer in one sentence.",
                    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
                    "tools": [weather_tool()],
                }),
            ),
            (
                "4-tool-result",
                "The tool's result",
                json!({
                    "model": MODEL, "max_tokens": 256,
                    "messages": [
                        {"role": "user", "content": "What is the weather in Paris?"},
                        {"role": "assistant", "content": [{
                            "type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"},
                        }]},
                        {"role": "user", "content": [{
                            "type": "tool_result", "tool_use_id": "toolu_1",
                            "content": "{\"sky\": \"clear\", \"celsius\": 21}",
                        }]},
                    ],
                    "tools": [weather_tool()],
                }),
            ),
        ],
        "countMessageTokens" => vec![(
            "1-question",
            "A question",
            json!({"model": MODEL, "messages": [question]}),
        )],
        "renderChatCompletion" => vec![(
            "1-question",
            "A question",
            json!({"model": MODEL, "messages": [question], "reasoning_effort": "low"}),
        )],
        "createCompletion" => vec![
            (
                "1-text",
                "A text to continue",
                json!({"model": MODEL, "prompt": "Once upon a time", "max_tokens": 16}),
            ),
            (
                "2-tokens",
                "Token ids, with log-probabilities",
                json!({"model": MODEL, "prompt": [18049, 7557, 261, 1058], "max_tokens": 4, "logprobs": 2}),
            ),
        ],
        "tokenize" => vec![
            (
                "1-text",
                "A text",
                json!({"prompt": "Hello, world!", "return_token_strs": true}),
            ),
            (
                "2-conversation",
                "A conversation",
                json!({"messages": [question]}),
            ),
        ],
        "detokenize" => vec![(
            "1-tokens",
            "Token ids",
            json!({"tokens": [13225, 11, 2375, 0]}),
        )],
        "generate" | "chat" | "stream" => vec![
            (
                "1-prompt",
                "A prompt",
                json!({"prompt": "What is the capital of France?", "reasoning_level": "low"}),
            ),
            (
                "2-conversation",
                "A conversation",
                json!({"messages": [question], "max_tokens": 200}),
            ),
        ],
        _ => Vec::new(),
    }
}

fn answers(operation: &str, kind: &str) -> Vec<(&'static str, &'static str, Value)> {
    let one = |value| vec![("1-answer", "An answer", value)];
    match (operation, kind) {
        ("createMessage", "text/event-stream") => vec![
            (
                "1-delta",
                "More text",
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Paris"}}),
            ),
            (
                "2-end",
                "How it ended",
                json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                    "usage": message_usage(),
                }),
            ),
        ],
        ("createMessage", _) => one(json!({
            "id": "msg_W1cV9kQm3xYb7nRtZ5sLhJdf", "type": "message", "role": "assistant", "model": MODEL,
            "content": [{"type": "text", "text": "The capital of France is Paris."}],
            "stop_reason": "end_turn", "stop_sequence": null, "usage": message_usage(),
        })),
        ("countMessageTokens", _) => one(json!({"input_tokens": 72})),
        ("createChatCompletion", "application/json") => vec![
            ("1-answer", "An answer", chat_completion(message(), "stop")),
            (
                "2-tool-call",
                "A call of a function",
                chat_completion(
                    json!({
                        "role": "assistant", "content": null, "refusal": null,
                        "reasoning": "I need the weather in Paris.",
                        "tool_calls": [{
                            "id": "call_y0Zr2nq5wB7m1xKcD8sVtGhj", "type": "function",
                            "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"},
                        }],
                    }),
                    "tool_calls",
                ),
            ),
        ],
        ("createChatCompletion" | "stream", _) => vec![
            (
                "1-first",
                "The first event's data",
                chat_chunk(json!({"role": "assistant", "content": ""}), None),
            ),
            (
                "2-text",
                "More of the answer",
                chat_chunk(json!({"content": "Paris"}), None),
            ),
            (
                "3-end",
                "The answer's end",
                chat_chunk(json!({}), Some("stop")),
            ),
        ],
        ("createCompletion", _) => one(json!({
            "id": "cmpl-q3VbWm8nXc0rT5yKzL2dHsJf", "object": "text_completion", "created": CREATED, "model": MODEL,
            "choices": [{"index": 0, "text": " there was", "logprobs": null, "finish_reason": "length"}],
            "usage": usage(4, 2, 0),
        })),
        ("createResponse" | "retrieveResponse", "text/event-stream") => vec![(
            "1-text",
            "The data of the event response.output_text.delta",
            json!({
                "sequence_number": 12, "type": "response.output_text.delta", "item_id": "msg_n3XbQm8vWc0rT5yKzL2dHsJf",
                "output_index": 1, "content_index": 0, "delta": "Paris", "logprobs": [],
            }),
        )],
        ("createResponse" | "retrieveResponse", _) => {
            one(response("completed", vec![thought(), said()]))
        }
        ("cancelResponse", _) => one(response("cancelled", vec![thought()])),
        ("deleteResponse", _) => {
            one(json!({"id": RESPONSE, "object": "response", "deleted": true}))
        }
        ("listInputItems", _) => one(json!({
            "object": "list", "first_id": "msg_1", "last_id": "msg_1", "has_more": false,
            "data": [{
                "type": "message", "role": "user", "id": "msg_1", "status": "completed",
                "content": [{"type": "input_text", "text": "What is the capital of France?"}],
            }],
        })),
        ("listModels", _) => one(json!({"object": "list", "data": [model()]})),
        ("retrieveModel", _) => one(model()),
        ("tokenize", _) => one(json!({
            "count": 4, "max_model_len": 4096, "tokens": [13225, 11, 2375, 0],
            "token_strs": ["Hello", ",", " world", "!"],
        })),
        ("detokenize", _) => one(json!({"prompt": "Hello, world!"})),
        ("renderChatCompletion", _) => vec![(
            "1-answer",
            "An answer, without its system message",
            json!({
                "object": "chat.completion.prompt", "model": MODEL, "prompt": "<|start|>user<|message|>Hi<|end|><|start|>assistant",
                "token_ids": [200_006, 1428, 200_008, 12194, 200_007, 200_006, 173_781], "count": 7, "max_model_len": 4096,
            }),
        )],
        ("generate", _) => one(json!({
            "id": "gen-W1cV9kQm3xYb7nRtZ5sLhJdf", "created": CREATED, "model": MODEL,
            "text": "The capital of France is Paris.", "reasoning": "The user asks for a capital.",
            "finish_reason": "stop", "usage": usage(72, 24, 8),
        })),
        ("chat", _) => one(json!({
            "id": "chat-W1cV9kQm3xYb7nRtZ5sLhJdf", "created": CREATED, "model": MODEL,
            "message": message(), "finish_reason": "stop", "usage": usage(72, 24, 8),
        })),
        ("health", _) => one(json!({"status": "ok"})),
        ("ready", _) => one(json!({"status": "ready"})),
        ("info", _) => one(json!({
            "version": env!("CARGO_PKG_VERSION"), "model": MODEL, "architecture": "GptOssForCausalLM", "backend": "cpu",
            "kernels": "avx2", "weight_bytes": 5_400_000, "kv_cache_bytes": 268_435_456, "max_sequence_len": 4096,
            "kv_cache_tokens": 65_536, "ready": true, "running": 1, "waiting": 0, "uptime_seconds": 3600,
        })),
        ("metrics", _) => one(json!("gossamer_scheduler_sequences_running 1\n")),
        ("openapi", _) => one(json!({"openapi": "3.1.0", "info": {"title": "Gossamer"}})),
        _ => Vec::new(),
    }
}

/// The embedded model: what a server that was started without options serves.
const MODEL: &str = "gossamer-tiny";
const CREATED: i64 = 1_795_000_000;

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city."}},
            "required": ["city"],
        },
    }})
}

const RESPONSE: &str = "resp_W1cV9kQm3xYb7nRtZ5sLhJdf";

fn flat_weather() -> Value {
    let mut tool = weather()["function"].take();
    tool["type"] = "function".into();
    tool
}

fn thought() -> Value {
    json!({
        "type": "reasoning", "id": "rs_q3VbWm8nXc0rT5yKzL2dHsJf", "status": "completed", "summary": [],
        "content": [{"type": "reasoning_text", "text": "The user asks for a capital."}],
    })
}

fn said() -> Value {
    json!({
        "type": "message", "id": "msg_n3XbQm8vWc0rT5yKzL2dHsJf", "status": "completed", "role": "assistant",
        "phase": "final_answer",
        "content": [{"type": "output_text", "text": "The capital of France is Paris.", "annotations": [], "logprobs": []}],
    })
}

fn response(status: &str, output: Vec<Value>) -> Value {
    let completed = status == "completed";
    json!({
        "id": RESPONSE, "object": "response", "created_at": CREATED, "access_programs": null, "status": status,
        "completed_at": completed.then_some(CREATED + 1), "background": !completed, "error": null,
        "incomplete_details": null, "instructions": null, "max_output_tokens": null, "max_tool_calls": null,
        "model": MODEL, "output": output, "parallel_tool_calls": true, "previous_response_id": null,
        "prompt_cache_key": null, "reasoning": {"effort": "low", "summary": null}, "safety_identifier": null,
        "service_tier": "default", "store": true, "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
        "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "metadata": {},
        "usage": {
            "input_tokens": 72, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 24, "output_tokens_details": {"reasoning_tokens": 8}, "total_tokens": 96,
        },
    })
}

fn weather_tool() -> Value {
    json!({
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "input_schema": weather()["function"]["parameters"],
    })
}

fn message_usage() -> Value {
    json!({
        "input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 64, "output_tokens": 24,
        "output_tokens_details": {"thinking_tokens": 8},
    })
}

fn message() -> Value {
    json!({
        "role": "assistant", "content": "The capital of France is Paris.", "refusal": null,
        "reasoning": "The user asks for a capital.", "reasoning_content": "The user asks for a capital.",
    })
}

fn chat_completion(message: Value, finish_reason: &str) -> Value {
    json!({
        "id": "chatcmpl-W1cV9kQm3xYb7nRtZ5sLhJdf", "object": "chat.completion", "created": CREATED, "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason}],
        "usage": usage(72, 24, 8),
    })
}

fn chat_chunk(delta: Value, finish_reason: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-W1cV9kQm3xYb7nRtZ5sLhJdf", "object": "chat.completion.chunk", "created": CREATED, "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
    })
}

fn usage(prompt: usize, completion: usize, reasoning: usize) -> Value {
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    })
}

fn model() -> Value {
    json!({"id": MODEL, "object": "model", "created": CREATED, "owned_by": "gossamer", "max_model_len": 4096})
}
