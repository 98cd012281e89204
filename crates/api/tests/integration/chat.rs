//! Chat completions, whole.

use gossamer_testkit::{Script, TestSetup};
use serde_json::json;

const ANSWER: &str =
    "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant<|channel|>final<|message|>Hello, world!<|return|>";

#[test]
fn an_answer_has_reasoning_content_and_usage() {
    let server = TestSetup::new(Script::always(ANSWER)).start();
    let body = json!({"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = server.client().post("/v1/chat/completions", &body).ok();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Hello, world!");
    assert_eq!(message["reasoning"], "Let me think.");
    assert_eq!(message["reasoning_content"], "Let me think.");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}
