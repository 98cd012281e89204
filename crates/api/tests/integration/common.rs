//! Bodies to send and answers to read.

use gossamer_testkit::client::{SseReader, Transcript};
use gossamer_testkit::{Script, TestServer, TestSetup};
use serde_json::{Value, json};

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";

/// Reasoning, then an answer.
pub const HELLO: &str = "<|channel|>analysis<|message|>Let me think.<|end|>\
                         <|start|>assistant<|channel|>final<|message|>Hello, world!<|return|>";

/// A server whose model says what the script says.
pub fn server(script: Script) -> TestServer {
    TestSetup::new(script).start()
}

/// A chat request with one user message.
pub fn chat(text: &str) -> Value {
    json!({"model": "test-model", "messages": [{"role": "user", "content": text}]})
}

/// A completion request.
pub fn completion(prompt: impl Into<Value>) -> Value {
    json!({"model": "test-model", "prompt": prompt.into()})
}

/// `body` with the fields of `more`.
pub fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    let fields = body.as_object_mut().expect("a body is an object");
    let Value::Object(more) = more else {
        panic!("fields come in an object")
    };
    fields.extend(more);
    body
}

/// Declares a function `get_weather`.
pub fn weather_tool() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }}])
}

/// A whole streamed chat answer.
pub fn stream_chat(server: &TestServer, body: &Value) -> Transcript {
    let body = with(body, json!({"stream": true}));
    let transcript = server.client().stream(CHAT, &body).transcript();
    assert!(transcript.done, "no [DONE]: {:?}", transcript.chunks);
    transcript
}

/// One choice, put together from chunks or taken from a whole answer.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub content: String,
    pub reasoning: String,
    /// Name and arguments.
    pub calls: Vec<(String, String)>,
    pub logprobs: Vec<Value>,
    pub finish_reason: String,
}

/// Reads a whole chat answer.
pub fn whole(answer: &Value) -> Vec<Answer> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list(&answer["choices"])
        .iter()
        .enumerate()
        .map(|(i, choice)| {
            assert_eq!(choice["index"], i);
            let message = &choice["message"];
            assert_eq!(message["role"], "assistant");
            Answer {
                content: text(&message["content"]),
                reasoning: text(&message["reasoning"]),
                calls: list(&message["tool_calls"])
                    .iter()
                    .map(|call| {
                        (
                            text(&call["function"]["name"]),
                            text(&call["function"]["arguments"]),
                        )
                    })
                    .collect(),
                logprobs: list(&choice["logprobs"]["content"]),
                finish_reason: text(&choice["finish_reason"]),
            }
        })
        .collect()
}

/// Puts a streamed chat answer together as an SDK does, and checks the chunks' form.
pub fn assembled(transcript: &Transcript) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    let head = |chunk: &Value| {
        (
            chunk["id"].clone(),
            chunk["created"].clone(),
            chunk["model"].clone(),
        )
    };
    for chunk in &transcript.chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(head(chunk), head(&transcript.chunks[0]));
        for choice in chunk["choices"].as_array().expect("choices") {
            let index = choice["index"].as_u64().expect("an index") as usize;
            answers.resize_with(answers.len().max(index + 1), Answer::default);
            let first = !transcript
                .chunks
                .iter()
                .take_while(|c| !std::ptr::eq(*c, chunk))
                .any(|c| c["choices"][0]["index"] == index);
            let delta = &choice["delta"];
            assert_eq!(
                delta["role"] == "assistant",
                first,
                "the role stands in the first chunk only"
            );
            let answer = &mut answers[index];
            assert_eq!(
                answer.finish_reason, "",
                "nothing comes after the finish reason"
            );
            answer
                .content
                .push_str(delta["content"].as_str().unwrap_or_default());
            answer
                .reasoning
                .push_str(delta["reasoning"].as_str().unwrap_or_default());
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                add_call(&mut answer.calls, call);
            }
            answer.logprobs.extend(
                choice["logprobs"]["content"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default(),
            );
            if let Some(reason) = choice["finish_reason"].as_str() {
                answer.finish_reason = reason.to_owned();
            }
        }
    }
    for answer in &answers {
        assert_ne!(answer.finish_reason, "", "every choice ends");
    }
    answers
}

fn add_call(calls: &mut Vec<(String, String)>, call: &Value) {
    let index = call["index"].as_u64().expect("an index") as usize;
    if index == calls.len() {
        let id = call["id"].as_str().expect("an id when the call is opened");
        assert!(id.starts_with("call_") && id.len() > 20, "{id}");
        assert_eq!(call["type"], "function");
        let name = call["function"]["name"]
            .as_str()
            .expect("a name when the call is opened");
        calls.push((name.to_owned(), String::new()));
    } else {
        assert!(
            call.get("id").is_none() && call["function"].get("name").is_none(),
            "{call}"
        );
    }
    calls[index]
        .1
        .push_str(call["function"]["arguments"].as_str().expect("arguments"));
}

/// Asks for the same answer whole and streamed and checks that both say the same.
pub fn both_ways(server: &TestServer, body: &Value) -> Vec<Answer> {
    let answers = whole(&server.client().post(CHAT, body).ok());
    assert_eq!(
        assembled(&stream_chat(server, body)),
        answers,
        "streamed = whole"
    );
    answers
}

/// Reads events until one has this text somewhere.
pub fn read_until(reader: &mut SseReader, text: &str) {
    for event in reader {
        if format!("{event:?}").contains(text) {
            return;
        }
    }
    panic!("the stream ended without {text:?}");
}
