"""LiteLLM, which turns our answers into its own types and our errors into its own classes."""

import asyncio
import json

import litellm
import pytest
from gossamer_server import (
    ASK_WEATHER,
    CAPITAL,
    KEY,
    LIMITED_KEY,
    MODEL,
    URL,
    WEATHER,
    WRONG_KEY,
    closed_port_url,
    is_weather_answer,
    user,
    weather,
)

SETTINGS = {
    "model": f"openai/{MODEL}",
    "api_base": URL,
    "api_key": KEY,
    "temperature": 0,
    "num_retries": 0,
    "timeout": 120,
}
SETTINGS["max_tokens"] = 400


def test_chat_answers_with_reasoning_and_usage():
    answer = litellm.completion(messages=user(CAPITAL), **SETTINGS)
    (choice,) = answer.choices
    assert "Paris" in choice.message.content and choice.finish_reason == "stop"
    assert choice.message.reasoning_content and "<|" not in choice.message.reasoning_content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_chat_remembers_the_dialogue():
    messages = user("My name is Anna.")
    # LiteLLM sends the reasoning and its own empty fields back with the message.
    messages += [litellm.completion(messages=messages, **SETTINGS).choices[0].message, *user("What is my name?")]
    assert "Anna" in litellm.completion(messages=messages, **SETTINGS).choices[0].message.content


def test_chat_as_a_hosted_vllm():
    settings = {**SETTINGS, "model": f"hosted_vllm/{MODEL}"}
    assert "Paris" in litellm.completion(messages=user(CAPITAL), **settings).choices[0].message.content


def test_chat_async():
    answer = asyncio.run(litellm.acompletion(messages=user(CAPITAL), **SETTINGS))
    assert "Paris" in answer.choices[0].message.content


def test_chat_completions_of_raw_text():
    settings = {**SETTINGS, "model": f"text-completion-openai/{MODEL}", "max_tokens": 4}
    answer = litellm.text_completion(prompt="Hello", **settings)
    assert answer.choices[0].text and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def test_stream_is_the_whole_answer_in_pieces():
    whole = litellm.completion(messages=user(CAPITAL), **SETTINGS)
    chunks = list(
        litellm.completion(messages=user(CAPITAL), stream=True, stream_options={"include_usage": True}, **SETTINGS)
    )
    built = litellm.stream_chunk_builder(chunks, messages=user(CAPITAL))
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.choices[0].message.reasoning_content == whole.choices[0].message.reasoning_content
    assert built.choices[0].finish_reason == "stop"
    assert built.usage.completion_tokens == whole.usage.completion_tokens


def test_tools_loop():
    messages = user(ASK_WEATHER)
    choice = litellm.completion(messages=messages, tools=[WEATHER], **SETTINGS).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = weather(**json.loads(call.function.arguments))
    # `name` is what LiteLLM's documentation puts into a result.
    tool = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": result}
    messages += [choice.message, tool]
    last = litellm.completion(messages=messages, tools=[WEATHER], tool_choice="auto", **SETTINGS).choices[0]
    assert last.finish_reason == "stop" and is_weather_answer(last.message.content)


def test_tools_streamed():
    chunks = list(litellm.completion(messages=user(ASK_WEATHER), tools=[WEATHER], stream=True, **SETTINGS))
    choice = litellm.stream_chunk_builder(chunks).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert choice.finish_reason == "tool_calls"


def test_errors_become_those_of_litellm():
    def error_of(kind, **change):
        with pytest.raises(kind) as raised:
            litellm.completion(**{**SETTINGS, "messages": user("Hello!"), **change})
        return raised.value

    assert "no-such-model" in str(error_of(litellm.NotFoundError, model="openai/no-such-model"))
    assert "temperature" in str(error_of(litellm.BadRequestError, temperature=3))
    error_of(litellm.AuthenticationError, api_key=WRONG_KEY)
    # Told apart from other bad requests by the words and the code of the error.
    error_of(litellm.ContextWindowExceededError, messages=user("green river " * 70_000))


def test_errors_of_a_key_over_its_limit():
    with pytest.raises(litellm.RateLimitError):
        for _ in range(2):
            litellm.completion(**{**SETTINGS, "messages": user("Hello!"), "api_key": LIMITED_KEY})


def test_errors_of_the_connection():
    with pytest.raises(litellm.InternalServerError, match="Connection error"):
        litellm.completion(**{**SETTINGS, "messages": user("Hello!"), "api_base": closed_port_url()})
