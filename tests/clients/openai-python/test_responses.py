"""The Responses API through OpenAI's Python SDK: every body and event must satisfy the SDK's own types."""

import asyncio
import json
import time
from typing import Literal

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
    is_weather_answer,
    user,
    weather,
)
from openai import AsyncOpenAI, OpenAI

ASK = {"model": MODEL, "temperature": 0, "max_output_tokens": 400}
TOOL = {"type": "function", "strict": False, **WEATHER["function"]}
# Nothing but its bound ends an answer.
ENDLESS = {"extra_body": {"logit_bias": {str(token): -100 for token in (200002, 200007, 200012, 199999)}}}
ENDS = ("response.completed", "response.incomplete", "response.failed")


class Capital(pydantic.BaseModel):
    """What an answer is held to."""

    city: Literal["Paris", "Rome"]
    in_europe: bool


def checked(events):
    """All events of a stream: numbered without a gap, with one end, which is the last."""
    events = list(events)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.type in ENDS] == [events[-1].type]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    return events


def without_ids(response):
    """What two responses to the same request have in common."""
    body = response.to_dict()
    for name in ("id", "created_at", "completed_at", "usage"):
        del body[name]
    for item in body["output"]:
        item.pop("call_id", None)
        del item["id"]
    return body


def test_responses_answer_with_reasoning_and_usage(client):
    response = client.responses.create(input=CAPITAL, reasoning={"effort": "high", "summary": "auto"}, **ASK)
    reasoning, message = response.output
    assert (reasoning.type, message.type, message.role) == ("reasoning", "message", "assistant")
    assert "Paris" in response.output_text and "<|" not in response.output_text + reasoning.content[0].text
    assert reasoning.content[0].type == "reasoning_text" and reasoning.content[0].text and reasoning.summary == []
    assert (response.status, response.object, response.model) == ("completed", "response", MODEL)
    assert (response.reasoning.effort, response.reasoning.summary) == ("high", "auto")
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    assert response.created_at <= response.completed_at and response._request_id


def test_responses_of_instructions_and_every_kind_of_input(client):
    texts = [{"type": "input_text", "text": "What is the capital"}, {"type": "input_text", "text": " of France?"}]
    items = [{"role": "developer", "content": "Be brief."}, {"type": "message", "role": "user", "content": texts}]
    response = client.responses.create(input=items, instructions="Be friendly.", metadata={"a": "b"}, **ASK)
    assert "Paris" in response.output_text
    assert response.instructions == "Be friendly." and response.metadata == {"a": "b"}


def test_responses_remember_by_id_and_by_items(client):
    first = client.responses.create(input="My name is Anna.", **ASK)
    second = client.responses.create(input="What is my name?", previous_response_id=first.id, **ASK)
    assert "Anna" in second.output_text and second.previous_response_id == first.id
    # As the SDK's documentation does it: the output goes back as it came.
    items = [*user("My name is Anna."), *first.output, *user("What is my name?")]
    third = client.responses.create(input=items, store=False, **ASK)
    assert third.output_text == second.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(third.id)


def test_responses_end_at_their_bound(client):
    cut = client.responses.create(input=CAPITAL, **{**ASK, "max_output_tokens": 8})
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == 8 and cut.output[-1].status == "incomplete"
    (*_, last) = checked(client.responses.create(input=CAPITAL, stream=True, **{**ASK, "max_output_tokens": 8}))
    assert last.type == "response.incomplete" and without_ids(last.response) == without_ids(cut)


def test_responses_with_logprobs(client):
    include = ["message.output_text.logprobs"]
    response = client.responses.create(input=CAPITAL, include=include, top_logprobs=2, **ASK)
    content = response.output[-1].content[0]
    assert "".join(token.token for token in content.logprobs) == content.text
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in content.logprobs)
    events = checked(client.responses.create(input=CAPITAL, include=include, stream=True, **ASK))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [token.token for event in deltas for token in event.logprobs] == [token.token for token in content.logprobs]


def test_responses_streamed_are_the_whole_in_pieces(client):
    whole = client.responses.create(input=CAPITAL, **ASK)
    events = checked(client.responses.create(input=CAPITAL, stream=True, **ASK))
    for kind, text in (("reasoning_text", whole.output[0].content[0].text), ("output_text", whole.output_text)):
        assert "".join(event.delta for event in events if event.type == f"response.{kind}.delta") == text
    assert without_ids(events[-1].response) == without_ids(whole)
    # Each item's events stand together, in the order of the documentation.
    kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith(".delta")]
    items = []
    for text in ("reasoning_text", "output_text"):
        items += ["output_item.added", "content_part.added", f"{text}.done", "content_part.done", "output_item.done"]
    assert kinds == ["created", "in_progress", *items, "completed"]


def test_responses_through_the_stream_helper(client):
    with client.responses.stream(input=CAPITAL, **ASK) as stream:
        events = checked(stream)
        final = stream.get_final_response()
    snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text and "Paris" in final.output_text
    assert final.output[0].type == "reasoning" and final.usage.output_tokens > 0


def test_responses_parsed_into_a_model(client):
    parsed = client.responses.parse(input="Tell me about Paris.", text_format=Capital, **ASK)
    assert isinstance(parsed.output_parsed, Capital)
    assert parsed.text.format.type == "json_schema" and json.loads(parsed.output_text)
    with client.responses.stream(input="Tell me about Paris.", text_format=Capital, **ASK) as stream:
        done = [event for event in checked(stream) if event.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert done[0].parsed == final.output_parsed == parsed.output_parsed


@pytest.mark.parametrize("by_id", [True, False])
def test_responses_tool_loop(client, by_id):
    response = client.responses.create(input=ASK_WEATHER, tools=[TOOL], parallel_tool_calls=False, **ASK)
    call = response.output[-1]
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    assert response.output_text == "" and response.parallel_tool_calls is False
    result = {"type": "function_call_output", "call_id": call.call_id, "output": weather(**json.loads(call.arguments))}
    if by_id:
        more = {"input": [result], "previous_response_id": response.id}
    else:
        more = {"input": [*user(ASK_WEATHER), *response.output, result]}
    last = client.responses.create(tools=[TOOL], **more, **ASK)
    assert is_weather_answer(last.output_text) and last.output[-1].type == "message"


def test_responses_tool_streamed_through_the_helper(client):
    class GetWeather(pydantic.BaseModel):
        """Get the current weather for a city."""

        city: str

    # The SDK declares it as strict.
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    tool = {"type": "function", **tool["function"]}
    with client.responses.stream(input=ASK_WEATHER, tools=[tool], **ASK) as stream:
        events = checked(stream)
        final = stream.get_final_response()
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas) == done.arguments == deltas[-1].snapshot
    call = final.output[-1]
    assert (call.name, call.call_id[:5], json.loads(call.arguments)) == ("get_weather", "call_", {"city": "Paris"})
    assert done.item_id == call.id


def test_responses_tool_choice(client):
    none = client.responses.create(input=ASK_WEATHER, tools=[TOOL], tool_choice="none", **ASK)
    assert none.output[-1].type == "message"
    name = {"type": "function", "name": "get_weather"}
    for choice in ("required", name, {"type": "allowed_tools", "mode": "required", "tools": [name]}):
        forced = client.responses.create(input=ASK_WEATHER, tools=[TOOL], tool_choice=choice, **ASK)
        assert forced.output[-1].type == "function_call" and json.loads(forced.output[-1].arguments)
        assert forced.to_dict()["tool_choice"] == choice


def test_responses_are_kept_listed_and_deleted(client):
    response = client.responses.create(input=[*user("Hello!"), *user(CAPITAL)], **ASK)
    assert client.responses.retrieve(response.id) == response
    items = list(client.responses.input_items.list(response.id, order="asc", limit=1))
    assert [item.content[0].text for item in items] == ["Hello!", CAPITAL]
    client.responses.delete(response.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            ask(response.id)
    with pytest.raises(openai.BadRequestError) as gone:
        client.responses.create(input="And?", previous_response_id=response.id, **ASK)
    assert (gone.value.param, gone.value.code) == ("previous_response_id", "previous_response_not_found")


def until_ended(client, response):
    deadline = time.monotonic() + 100
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, response.status
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def test_responses_in_the_background(client):
    queued = client.responses.create(input=CAPITAL, background=True, **ASK)
    assert queued.status in ("queued", "in_progress") and queued.background
    done = until_ended(client, queued)
    assert done.status == "completed" and "Paris" in done.output_text


def test_responses_in_the_background_are_cancelled(client):
    running = client.responses.create(input="Go on.", background=True, **{**ASK, "max_output_tokens": 3000}, **ENDLESS)
    cancelled = client.responses.cancel(running.id)
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(running.id) == cancelled
    whole = client.responses.create(input=CAPITAL, **ASK)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(whole.id)


def test_responses_in_the_background_are_streamed_again_from_anywhere(client):
    stream = client.responses.create(input=CAPITAL, background=True, stream=True, **ASK)
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_item.added":
            break
    stream.close()
    response = seen[0].response
    rest = list(client.responses.retrieve(response.id, stream=True, starting_after=seen[-1].sequence_number))
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed" and "Paris" in rest[-1].response.output_text
    assert client.responses.retrieve(response.id) == rest[-1].response


def test_responses_with_the_async_client():
    async def ask():
        async with AsyncOpenAI(**SETTINGS) as client:
            async with client.responses.stream(input=CAPITAL, **ASK) as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        break
            # Left early: the connection pool is as good as before.
            questions = [CAPITAL, "What is the capital of Japan?", "What is the capital of Italy?"]
            requests = [client.responses.create(input=question, **ASK) for question in questions]
            return [answer.output_text for answer in await asyncio.gather(*requests)]

    for answer, city in zip(asyncio.run(ask()), ["Paris", "Tokyo", "Rome"], strict=True):
        assert city in answer


@pytest.mark.parametrize("stream", [False, True])
def test_responses_errors_have_class_code_and_param(client, stream):
    def error_of(kind, **change):
        with pytest.raises(kind) as raised:
            client.responses.create(**{**ASK, "input": "Hello!", "stream": stream, **change})
        assert raised.value.request_id and raised.value.message
        return raised.value

    assert error_of(openai.NotFoundError, model="gpt-5").code == "model_not_found"
    assert error_of(openai.BadRequestError, temperature=3).param == "temperature"
    role = error_of(openai.BadRequestError, input=[{"role": "robot", "content": "Hello!"}])
    assert role.param == "input[0].role"
    tool = error_of(openai.BadRequestError, tools=[{"type": "file_search", "vector_store_ids": []}])
    assert (tool.param, tool.code) == ("tools[0].type", "unsupported_value")
    unknown = error_of(openai.BadRequestError, extra_body={"frobnicate": 1})
    assert (unknown.param, unknown.code) == ("frobnicate", "unknown_parameter")
    assert error_of(openai.BadRequestError, input="green river " * 70_000).code == "context_length_exceeded"


def test_responses_errors_of_keys(client):
    mine = client.responses.create(input="Hello!", **ASK)
    with OpenAI(**{**SETTINGS, "api_key": WRONG_KEY}) as other:
        with pytest.raises(openai.AuthenticationError):
            other.responses.create(input="Hello!", **ASK)
    with OpenAI(**{**SETTINGS, "api_key": LIMITED_KEY}) as other:
        # The other suites share the key: the first request may be one too many already.
        with pytest.raises((openai.RateLimitError, openai.NotFoundError)):
            other.responses.retrieve(mine.id)
        with pytest.raises(openai.RateLimitError) as limited:
            for _ in range(2):
                other.responses.create(input="Hello!", **ASK)
    assert limited.value.code == "rate_limit_exceeded"
