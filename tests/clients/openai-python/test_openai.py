"""OpenAI's Python SDK, with strict response validation: every body and chunk must satisfy the SDK's own types."""

import asyncio
import json

import openai
import pydantic
import pytest
from common import SETTINGS
from gossamer_server import (
    ASK_WEATHER,
    CAPITAL,
    LIMITED_KEY,
    MODEL,
    WEATHER,
    WRONG_KEY,
    closed_port_url,
    is_weather_answer,
    user,
    weather,
)
from openai import AsyncOpenAI, OpenAI

CHAT = {"model": MODEL, "temperature": 0, "max_completion_tokens": 400}


def test_chat_answers_with_reasoning_and_usage(client):
    answer = client.chat.completions.create(messages=user(CAPITAL), reasoning_effort="high", **CHAT)
    (choice,) = answer.choices
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert choice.message.reasoning and "<|" not in choice.message.reasoning + choice.message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens
    assert answer.object == "chat.completion" and answer.model == MODEL and answer._request_id


def test_chat_remembers_the_dialogue(client):
    messages = user("My name is Anna.")
    first = client.chat.completions.create(messages=messages, **CHAT).choices[0].message
    # As the SDK's documentation does it: the message object itself goes back.
    messages += [first, *user("What is my name?")]
    assert "Anna" in client.chat.completions.create(messages=messages, **CHAT).choices[0].message.content


def test_chat_with_every_kind_of_message_content(client):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": CAPITAL}]},
    ]
    assert "Paris" in client.chat.completions.create(messages=messages, **CHAT).choices[0].message.content


def test_chat_logprobs_and_choices(client):
    answer = client.chat.completions.create(messages=user(CAPITAL), n=2, logprobs=True, top_logprobs=2, **CHAT)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        text = b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode()
        assert text == choice.message.content
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in choice.logprobs.content)


def test_chat_length_and_stop(client):
    cut = client.chat.completions.create(messages=user(CAPITAL), **{**CHAT, "max_completion_tokens": 3})
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    stopped = client.chat.completions.create(messages=user(CAPITAL), stop="Paris", **CHAT).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content.endswith(" is ")


def test_chat_with_the_async_client():
    async def ask():
        async with AsyncOpenAI(**SETTINGS) as client:
            questions = [CAPITAL, "What is the capital of Japan?", "What is the capital of Italy?"]
            requests = [client.chat.completions.create(messages=user(question), **CHAT) for question in questions]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*requests)]

    for answer, city in zip(asyncio.run(ask()), ["Paris", "Tokyo", "Rome"], strict=True):
        assert city in answer


def test_chat_completions_of_raw_text(client):
    answer = client.completions.create(
        model=MODEL, prompt=["Hello", "The capital of"], max_tokens=4, temperature=0, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.finish_reason == "length" and len(choice.logprobs.tokens) == 4 for choice in answer.choices)
    assert answer.object == "text_completion" and answer.usage.completion_tokens == 8


def test_chat_models(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"


def test_stream_is_the_whole_answer_in_pieces(client):
    whole = client.chat.completions.create(messages=user(CAPITAL), **CHAT)
    stream = client.chat.completions.create(
        messages=user(CAPITAL), stream=True, stream_options={"include_usage": True}, **CHAT
    )
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1


def test_stream_helper_accumulates_content_and_logprobs(client):
    with client.chat.completions.stream(messages=user(CAPITAL), logprobs=True, top_logprobs=1, **CHAT) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.done") == 1 and kinds.count("content.delta") > 1
    choice = final.choices[0]
    assert "Paris" in choice.message.content and choice.finish_reason == "stop"
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_stream_of_raw_text(client):
    request = {"model": MODEL, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "logprobs": 1}
    whole = client.completions.create(**request)
    # Not strict: the SDK's type has no null for `finish_reason` here; OpenAI sends it in every chunk but the last.
    with OpenAI(**{**SETTINGS, "_strict_response_validation": False}) as lenient:
        chunks = list(lenient.completions.create(stream=True, stream_options={"include_usage": True}, **request))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in choices) == whole.choices[0].text
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8


def test_stream_with_the_async_client_can_be_left_early():
    async def first_words():
        async with AsyncOpenAI(**SETTINGS) as client:
            stream = await client.chat.completions.create(messages=user(CAPITAL), stream=True, **CHAT)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    await stream.close()
                    break
            # The connection pool is as good as before.
            return (await client.chat.completions.create(messages=user(CAPITAL), **CHAT)).choices[0].message.content

    assert "Paris" in asyncio.run(first_words())


def test_tools_loop(client):
    messages = user(ASK_WEATHER)
    choice = client.chat.completions.create(
        messages=messages, tools=[WEATHER], parallel_tool_calls=False, **CHAT
    ).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "get_weather",
        {"city": "Paris"},
    )
    result = weather(**json.loads(call.function.arguments))
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    last = client.chat.completions.create(messages=messages, tools=[WEATHER], tool_choice="auto", **CHAT).choices[0]
    assert last.finish_reason == "stop" and not last.message.tool_calls
    assert is_weather_answer(last.message.content)


def test_tools_streamed_through_the_helper(client):
    with client.chat.completions.stream(messages=user(ASK_WEATHER), tools=[WEATHER], **CHAT) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        choice = stream.get_final_completion().choices[0]
    assert [(event.name, json.loads(event.arguments)) for event in done] == [("get_weather", {"city": "Paris"})]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].id.startswith("call_")


def test_tools_from_a_pydantic_model(client):
    class GetWeather(pydantic.BaseModel):
        """Get the current weather for a city."""

        city: str

    # The SDK declares it as strict.
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    choice = client.chat.completions.parse(messages=user(ASK_WEATHER), tools=[tool], **CHAT).choices[0]
    assert choice.message.tool_calls[0].function.parsed_arguments == GetWeather(city="Paris")


def test_tools_not_called_when_told_so(client):
    choice = client.chat.completions.create(
        messages=user(ASK_WEATHER), tools=[WEATHER], tool_choice="none", **CHAT
    ).choices[0]
    assert choice.finish_reason == "stop" and not choice.message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_class_code_and_param(client, stream):
    def error_of(kind, **change):
        with pytest.raises(kind) as raised:
            client.chat.completions.create(**{**CHAT, "messages": user("Hello!"), "stream": stream, **change})
        assert raised.value.request_id and raised.value.message
        return raised.value

    missing = error_of(openai.NotFoundError, model="gpt-5")
    assert (missing.status_code, missing.code) == (404, "model_not_found")
    hot = error_of(openai.BadRequestError, temperature=3)
    assert (hot.param, hot.type) == ("temperature", "invalid_request_error")
    role = error_of(openai.BadRequestError, messages=[{"role": "robot", "content": "Hello!"}])
    assert role.param == "messages[0].role"
    unknown = error_of(openai.BadRequestError, extra_body={"frobnicate": 1})
    assert (unknown.param, unknown.code) == ("frobnicate", "unknown_parameter")
    long = error_of(openai.BadRequestError, messages=user("green river " * 70_000))
    assert long.code == "context_length_exceeded"


def test_errors_of_keys():
    with OpenAI(**{**SETTINGS, "api_key": WRONG_KEY}) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            client.chat.completions.create(messages=user("Hello!"), **CHAT)
    assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
    with OpenAI(**{**SETTINGS, "api_key": LIMITED_KEY}) as client:
        # The other suites share the key: the first request may be one too many already.
        with pytest.raises(openai.RateLimitError) as limited:
            for _ in range(2):
                answer = client.chat.completions.with_raw_response.create(messages=user("Hello!"), **CHAT)
                assert answer.headers["x-ratelimit-limit-requests"] == "1"
                assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert limited.value.code == "rate_limit_exceeded"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


def test_errors_of_unknown_routes(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.embeddings.create(model=MODEL, input="Hello")
    assert raised.value.type == "invalid_request_error"


def test_errors_of_the_connection():
    with OpenAI(**{**SETTINGS, "base_url": closed_port_url()}) as client:
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    with OpenAI(**{**SETTINGS, "timeout": 0.05}) as client:
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model=MODEL, prompt="Hello", max_tokens=3000, extra_body={"ignore_eos": True})
