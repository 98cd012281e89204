//! The Rust crate async-openai: typed answers, so that a missing or mistyped field is an error.
//!
//! The runner (`run.py`) starts the server and sets the variables.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::{ApiError, OpenAIError};
use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, ChatCompletionRequestAssistantMessageArgs,
    ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage,
    ChatCompletionRequestToolMessageArgs, ChatCompletionRequestUserMessage,
    ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools, CompletionFinishReason,
    CreateChatCompletionRequest, CreateChatCompletionRequestArgs, FinishReason, FunctionObjectArgs,
    ReasoningEffort,
};
use async_openai::types::completions::CreateCompletionRequestArgs;
use futures::StreamExt;
use serde_json::{Value, json};

const CAPITAL: &str = "What is the capital of France?";
const ASK_WEATHER: &str = "What is the weather in Paris?";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn model() -> String {
    variable("CLIENTS_MODEL")
}

fn client_with(url: &str, key: &str) -> Client<OpenAIConfig> {
    let config = OpenAIConfig::new()
        .with_api_base(format!("{url}/v1"))
        .with_api_key(key);
    Client::with_config(config)
}

fn client() -> Client<OpenAIConfig> {
    client_with(&variable("CLIENTS_URL"), &variable("CLIENTS_KEY"))
}

fn user(text: &str) -> ChatCompletionRequestMessage {
    ChatCompletionRequestUserMessage::from(text).into()
}

fn chat(messages: Vec<ChatCompletionRequestMessage>) -> CreateChatCompletionRequestArgs {
    let mut request = CreateChatCompletionRequestArgs::default();
    request
        .model(model())
        .messages(messages)
        .temperature(0.0)
        .max_completion_tokens(400u32);
    request
}

fn weather_tool(strict: bool) -> ChatCompletionTools {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": false,
    });
    let function = FunctionObjectArgs::default()
        .name("get_weather")
        .description("Get the current weather for a city.")
        .parameters(parameters)
        .strict(strict)
        .build()
        .expect("a complete function");
    ChatCompletionTools::Function(ChatCompletionTool { function })
}

#[tokio::test]
async fn chat_answers_with_usage() {
    let system = ChatCompletionRequestSystemMessage::from("Be brief.").into();
    let request = chat(vec![system, user(CAPITAL)])
        .reasoning_effort(ReasoningEffort::High)
        .build()
        .expect("a complete request");
    let answer = client().chat().create(request).await.expect("an answer");
    assert_eq!(
        (answer.object.as_str(), answer.model),
        ("chat.completion", model())
    );
    let choice = &answer.choices[0];
    assert!(
        choice
            .message
            .content
            .as_deref()
            .is_some_and(|text| text.contains("Paris"))
    );
    assert_eq!(choice.finish_reason, Some(FinishReason::Stop));
    let usage = answer.usage.expect("usage");
    assert_eq!(
        usage.total_tokens,
        usage.prompt_tokens + usage.completion_tokens
    );
    let details = usage.completion_tokens_details.expect("details");
    assert!(details.reasoning_tokens.is_some_and(|count| count > 0));
}

#[tokio::test]
async fn chat_with_logprobs_choices_and_length() {
    let request = chat(vec![user(CAPITAL)])
        .n(2)
        .logprobs(true)
        .top_logprobs(2)
        .build();
    let answer = client()
        .chat()
        .create(request.expect("complete"))
        .await
        .expect("an answer");
    assert_eq!(answer.choices.len(), 2);
    for choice in answer.choices {
        let tokens = choice
            .logprobs
            .expect("asked for")
            .content
            .expect("of the answer");
        let text: String = tokens.iter().map(|token| token.token.as_str()).collect();
        assert_eq!(Some(text), choice.message.content);
        assert!(tokens.iter().all(|token| token.top_logprobs.len() == 2));
    }
    let request = chat(vec![user(CAPITAL)])
        .max_completion_tokens(3u32)
        .build();
    let cut = client()
        .chat()
        .create(request.expect("complete"))
        .await
        .expect("an answer");
    assert_eq!(cut.choices[0].finish_reason, Some(FinishReason::Length));
}

#[tokio::test]
async fn chat_completions_of_raw_text_and_models() {
    let request = CreateCompletionRequestArgs::default()
        .model(model())
        .prompt(["Hello", "The capital of"])
        .max_tokens(4u32)
        .temperature(0.0)
        .build()
        .expect("a complete request");
    let answer = client()
        .completions()
        .create(request)
        .await
        .expect("an answer");
    assert_eq!(answer.object, "text_completion");
    assert_eq!(
        answer
            .choices
            .iter()
            .map(|choice| choice.index)
            .collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(
        answer.choices[0].finish_reason,
        Some(CompletionFinishReason::Length)
    );
    let models = client().models().list().await.expect("a list");
    assert_eq!(
        models
            .data
            .iter()
            .map(|model| model.id.clone())
            .collect::<Vec<_>>(),
        [model()]
    );
    assert_eq!(
        client()
            .models()
            .retrieve(&model())
            .await
            .expect("a model")
            .object,
        "model"
    );
}

#[tokio::test]
async fn stream_is_the_whole_answer_in_pieces() {
    let whole = chat(vec![user(CAPITAL)]).build().expect("complete");
    let whole = client().chat().create(whole).await.expect("an answer");
    let options = ChatCompletionStreamOptions {
        include_usage: Some(true),
        include_obfuscation: None,
    };
    let request = chat(vec![user(CAPITAL)])
        .stream(true)
        .stream_options(options)
        .build();
    let mut stream = client()
        .chat()
        .create_stream(request.expect("complete"))
        .await
        .expect("a stream");
    let (mut text, mut reasons, mut usage) = (String::new(), Vec::new(), None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.expect("every chunk has the crate's shape");
        usage = chunk.usage.or(usage);
        for choice in chunk.choices {
            text.push_str(choice.delta.content.as_deref().unwrap_or_default());
            reasons.extend(choice.finish_reason);
        }
    }
    assert_eq!(Some(text), whole.choices[0].message.content);
    assert_eq!(reasons, [FinishReason::Stop]);
    let expected = whole.usage.expect("usage").completion_tokens;
    assert_eq!(usage.expect("usage").completion_tokens, expected);
}

#[tokio::test]
async fn stream_of_raw_text() {
    let request = CreateCompletionRequestArgs::default()
        .model(model())
        .prompt("Hello")
        .max_tokens(8u32)
        .temperature(0.0)
        .stream(true)
        .build()
        .expect("a complete request");
    let mut stream = client()
        .completions()
        .create_stream(request)
        .await
        .expect("a stream");
    let (mut text, mut reasons) = (String::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        for choice in chunk.expect("every chunk has the crate's shape").choices {
            text.push_str(&choice.text);
            reasons.extend(choice.finish_reason);
        }
    }
    assert!(!text.is_empty());
    assert_eq!(reasons, [CompletionFinishReason::Length]);
}

#[tokio::test]
async fn tools_loop() {
    let mut messages = vec![user(ASK_WEATHER)];
    let request = chat(messages.clone())
        .tools(vec![weather_tool(false)])
        .build();
    let answer = client()
        .chat()
        .create(request.expect("complete"))
        .await
        .expect("an answer");
    let choice = answer.choices.into_iter().next().expect("a choice");
    assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
    let calls = choice.message.tool_calls.expect("a call");
    let [ChatCompletionMessageToolCalls::Function(call)] = &calls[..] else {
        panic!("one call of a function, not {calls:?}");
    };
    assert_eq!(call.function.name, "get_weather");
    let arguments: Value = serde_json::from_str(&call.function.arguments).expect("JSON");
    assert_eq!(arguments, json!({"city": "Paris"}));

    let result = ChatCompletionRequestToolMessageArgs::default()
        .tool_call_id(call.id.clone())
        .content(json!({"temperature": 21, "condition": "sunny"}).to_string())
        .build();
    let said = ChatCompletionRequestAssistantMessageArgs::default()
        .tool_calls(calls.clone())
        .build();
    messages.push(said.expect("a message").into());
    messages.push(result.expect("a message").into());
    let request = chat(messages).tools(vec![weather_tool(false)]).build();
    let answer = client()
        .chat()
        .create(request.expect("complete"))
        .await
        .expect("an answer");
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Stop));
    let text = answer.choices[0]
        .message
        .content
        .clone()
        .expect("an answer");
    assert!(text.contains("21") && text.contains("sunny"), "{text}");
}

#[tokio::test]
async fn tools_streamed_and_declared_strict() {
    let request = chat(vec![user(ASK_WEATHER)])
        .tools(vec![weather_tool(true)])
        .stream(true)
        .build();
    let mut stream = client()
        .chat()
        .create_stream(request.expect("complete"))
        .await
        .expect("a stream");
    let (mut name, mut arguments, mut reasons) = (String::new(), String::new(), Vec::new());
    while let Some(chunk) = stream.next().await {
        for choice in chunk.expect("every chunk has the crate's shape").choices {
            reasons.extend(choice.finish_reason);
            for call in choice.delta.tool_calls.unwrap_or_default() {
                let function = call.function.expect("a part of a call");
                name.push_str(&function.name.unwrap_or_default());
                arguments.push_str(&function.arguments.unwrap_or_default());
            }
        }
    }
    let arguments: Value = serde_json::from_str(&arguments).expect("JSON");
    assert_eq!(
        (name.as_str(), arguments),
        ("get_weather", json!({"city": "Paris"}))
    );
    assert_eq!(reasons, [FinishReason::ToolCalls]);
}

/// Sends it whole and streamed; the error is the same.
async fn refused(
    client: &Client<OpenAIConfig>,
    request: CreateChatCompletionRequest,
) -> (u16, ApiError) {
    let streamed = CreateChatCompletionRequest {
        stream: Some(true),
        ..request.clone()
    };
    let whole = client.chat().create(request).await.expect_err("refused");
    let streamed = match client.chat().create_stream(streamed).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.expect("an event").expect_err("refused"),
    };
    let [whole, streamed] = [whole, streamed].map(|error| match error {
        OpenAIError::ApiError(error) => (error.status_code.as_u16(), error.api_error),
        other => panic!("an error of the API, not {other:?}"),
    });
    assert_eq!(
        (whole.0, &whole.1.message),
        (streamed.0, &streamed.1.message)
    );
    whole
}

#[tokio::test]
async fn errors_have_status_code_and_param() {
    let client = client();
    let request = chat(vec![user("Hello!")])
        .model("gpt-5")
        .build()
        .expect("complete");
    let (status, error) = refused(&client, request).await;
    assert_eq!(
        (status, error.code.as_deref()),
        (404, Some("model_not_found"))
    );

    let request = chat(vec![user("Hello!")])
        .temperature(3.0)
        .build()
        .expect("complete");
    let (status, error) = refused(&client, request).await;
    assert_eq!((status, error.param.as_deref()), (400, Some("temperature")));
    assert_eq!(error.r#type.as_deref(), Some("invalid_request_error"));

    let wrong = client_with(&variable("CLIENTS_URL"), "sk-gossamer-no-such-key");
    let request = chat(vec![user("Hello!")]).build().expect("complete");
    let (status, error) = refused(&wrong, request).await;
    assert_eq!(
        (status, error.code.as_deref()),
        (401, Some("invalid_api_key"))
    );

    let long = "green river ".repeat(70_000);
    let request = chat(vec![user(&long)]).build().expect("complete");
    let (status, error) = refused(&client, request).await;
    assert_eq!(
        (status, error.code.as_deref()),
        (400, Some("context_length_exceeded"))
    );
}

#[tokio::test]
async fn errors_of_the_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let request = chat(vec![user("Hello!")]).build().expect("complete");
    let error = client_with(&url, "unused")
        .chat()
        .create(request)
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(&error, OpenAIError::Reqwest(error) if error.is_connect()),
        "{error:?}"
    );
}
