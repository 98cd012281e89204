"""Anthropic's Python SDK, with strict response validation, and the requests of a coding agent in their recorded shape."""

import asyncio
import json
import urllib.request
from pathlib import Path

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
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

# The SDK adds the version itself.
BASE = URL.removesuffix("/v1")
SETTINGS = {"base_url": BASE, "api_key": KEY, "max_retries": 0, "timeout": 120, "_strict_response_validation": True}
MESSAGE = {"model": MODEL, "max_tokens": 400}
# Greedy: the SDK's types of this version have no `temperature`, its server does.
GREEDY = {"extra_body": {"temperature": 0}}
THINKING = {"type": "adaptive"}
TOOL = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}


@pytest.fixture
def client():
    with Anthropic(**SETTINGS) as client:
        yield client


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def test_chat_answers_with_usage(client):
    message = client.messages.create(messages=user(CAPITAL), **MESSAGE, **GREEDY)
    assert [block.type for block in message.content] == ["text"]
    assert "Paris" in text_of(message) and "<|" not in text_of(message)
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    usage = message.usage
    assert 0 < usage.output_tokens_details.thinking_tokens < usage.output_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens > 10
    assert message._request_id


def test_chat_with_thinking_and_system_blocks(client):
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(messages=user(CAPITAL), system=system, thinking=THINKING, **MESSAGE, **GREEDY)
    thought, answer = message.content
    assert thought.type == "thinking" and thought.thinking and thought.signature
    assert answer.type == "text" and "Paris" in answer.text


def test_chat_remembers_the_dialogue(client):
    messages = user("My name is Anna.")
    first = client.messages.create(messages=messages, thinking=THINKING, **MESSAGE, **GREEDY)
    messages += [{"role": "assistant", "content": first.content}, *user("What is my name?")]
    assert "Anna" in text_of(client.messages.create(messages=messages, **MESSAGE, **GREEDY))


def test_chat_length_and_stop(client):
    cut = client.messages.create(messages=user(CAPITAL), **{**MESSAGE, "max_tokens": 3}, **GREEDY)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    stopped = client.messages.create(messages=user(CAPITAL), stop_sequences=["Paris"], **MESSAGE, **GREEDY)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    assert "Paris" not in text_of(stopped)


def test_chat_counts_tokens(client):
    count = client.messages.count_tokens(model=MODEL, messages=user(CAPITAL), tools=[TOOL])
    usage = client.messages.create(messages=user(CAPITAL), tools=[TOOL], **MESSAGE, **GREEDY).usage
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_chat_with_the_async_client():
    async def ask():
        async with AsyncAnthropic(**SETTINGS) as client:
            questions = [CAPITAL, "What is the capital of Japan?", "What is the capital of Italy?"]
            requests = [client.messages.create(messages=user(question), **MESSAGE, **GREEDY) for question in questions]
            return [text_of(message) for message in await asyncio.gather(*requests)]

    for answer, city in zip(asyncio.run(ask()), ["Paris", "Tokyo", "Rome"], strict=True):
        assert city in answer


def test_stream_helper_accumulates_the_whole_message(client):
    whole = client.messages.create(messages=user(CAPITAL), thinking=THINKING, **MESSAGE, **GREEDY)
    with client.messages.stream(messages=user(CAPITAL), thinking=THINKING, **MESSAGE, **GREEDY) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert text_of(final) == text_of(whole) and final.content[0].thinking == whole.content[0].thinking
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == whole.usage.output_tokens


def test_stream_of_text_can_be_left_early(client):
    with client.messages.stream(messages=user(CAPITAL), **MESSAGE, **GREEDY) as stream:
        for text in stream.text_stream:
            assert text
            break
    # The connection pool is as good as before.
    assert "Paris" in text_of(client.messages.create(messages=user(CAPITAL), **MESSAGE, **GREEDY))


@pytest.mark.parametrize("thinking", [None, THINKING])
def test_tools_loop(client, thinking):
    messages = user(ASK_WEATHER)
    extra = {} if thinking is None else {"thinking": thinking}
    message = client.messages.create(messages=messages, tools=[TOOL], **extra, **MESSAGE, **GREEDY)
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": weather(**call.input)}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(messages=messages, tools=[TOOL], **extra, **MESSAGE, **GREEDY)
    assert last.stop_reason == "end_turn" and is_weather_answer(text_of(last))


def test_tools_streamed_through_the_helper(client):
    with client.messages.stream(messages=user(ASK_WEATHER), tools=[TOOL], **MESSAGE, **GREEDY) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(parts)) == final.content[-1].input == {"city": "Paris"}
    assert final.stop_reason == "tool_use"


def test_tools_not_called_when_told_so(client):
    message = client.messages.create(
        messages=user(ASK_WEATHER), tools=[TOOL], tool_choice={"type": "none"}, **MESSAGE, **GREEDY
    )
    assert message.stop_reason == "end_turn" and [block.type for block in message.content] == ["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_class_and_type(client, stream):
    def error_of(kind, **change):
        with pytest.raises(kind) as raised:
            client.messages.create(**{**MESSAGE, "messages": user("Hello!"), "stream": stream, **change})
        body = raised.value.body
        assert body["type"] == "error" and body["request_id"] == raised.value.request_id
        return body["error"]

    missing = error_of(anthropic.NotFoundError, model="claude-opus-4-1")
    assert missing["type"] == "not_found_error"
    hot = error_of(anthropic.BadRequestError, extra_body={"temperature": 3})
    assert hot["type"] == "invalid_request_error" and "'temperature'" in hot["message"]
    image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}
    picture = error_of(anthropic.BadRequestError, messages=[{"role": "user", "content": [image]}])
    assert "'messages[0].content[0].type'" in picture["message"]
    long = error_of(anthropic.BadRequestError, messages=user("green river " * 70_000))
    assert long["message"].startswith("prompt is too long: ")


def test_errors_of_keys():
    with Anthropic(**{**SETTINGS, "api_key": WRONG_KEY}) as client:
        with pytest.raises(anthropic.AuthenticationError) as wrong:
            client.messages.create(messages=user("Hello!"), **MESSAGE)
    assert wrong.value.body["error"]["type"] == "authentication_error"
    # The same key as a bearer token.
    with Anthropic(**{**SETTINGS, "api_key": None, "auth_token": KEY}) as client:
        assert text_of(client.messages.create(messages=user("Hello!"), **MESSAGE))
    with Anthropic(**{**SETTINGS, "api_key": LIMITED_KEY}) as client:
        # The other suites share the key: the first request may be one too many already.
        with pytest.raises(anthropic.RateLimitError) as limited:
            for _ in range(2):
                client.messages.create(messages=user("Hello!"), **MESSAGE)
    assert limited.value.body["error"]["type"] == "rate_limit_error"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


def test_errors_of_the_connection():
    with Anthropic(**{**SETTINGS, "base_url": closed_port_url().removesuffix("/v1")}) as client:
        with pytest.raises(anthropic.APIConnectionError):
            client.messages.create(messages=user("Hello!"), **MESSAGE)


def test_chat_requests_of_a_coding_agent():
    """Each line of the log: a request in the shape of Claude Code's public documentation, and what must come back."""
    log = (Path(__file__).parent / "coding_agent.jsonl").read_text().splitlines()
    assert len(log) >= 5
    for line in log:
        entry = json.loads(line)
        body = {**entry["body"], "model": MODEL}
        headers = {
            "x-api-key": KEY,
            "anthropic-version": "2023-06-01",
            "anthropic-beta": entry["beta"],
            "content-type": "application/json",
        }
        url = f"{BASE}{entry['path']}?beta=true"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read().decode()
            assert answer.headers["request-id"]
        if body.get("stream"):
            events = [part.split("\n")[0] for part in text.split("\n\n") if part]
            assert events[0] == "event: message_start" and events[-1] == "event: message_stop"
            assert "event: error" not in events
        elif "count_tokens" in entry["path"]:
            assert json.loads(text)["input_tokens"] > 10
        else:
            assert json.loads(text)["type"] == "message"
