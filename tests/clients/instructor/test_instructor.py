"""Instructor: calls of the model's own choice, forced ones (`Mode.TOOLS`, its default) and schemas of the answer."""

import asyncio
from collections.abc import Iterable

import instructor
import openai
import pytest
from gossamer_server import ASK_SUM, ASK_WEATHER, CAPITAL, KEY, MODEL, URL, WRONG_KEY, closed_port_url, user
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

CHAT = {"model": MODEL, "temperature": 0, "max_completion_tokens": 400}


class get_weather(BaseModel):
    """Get the current weather for a city."""

    city: str


class add(BaseModel):
    """Add two numbers."""

    a: int
    b: int


def client(mode, url=URL, key=KEY):
    return instructor.from_openai(OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120), mode=mode)


def test_chat_without_a_response_model():
    answer = client(instructor.Mode.TOOLS).chat.completions.create(messages=user(CAPITAL), response_model=None, **CHAT)
    assert "Paris" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


def test_chat_with_the_async_client():
    raw = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
    request = instructor.from_openai(raw).chat.completions.create(messages=user(CAPITAL), response_model=None, **CHAT)
    assert "Paris" in asyncio.run(request).choices[0].message.content


def test_stream_without_a_response_model():
    create = client(instructor.Mode.TOOLS).chat.completions.create
    chunks = create(messages=user(CAPITAL), response_model=None, stream=True, **CHAT)
    assert "Paris" in "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_tools_become_typed_objects():
    create = client(instructor.Mode.PARALLEL_TOOLS).chat.completions.create
    assert list(create(messages=user(ASK_WEATHER), response_model=Iterable[get_weather | add], **CHAT)) == [
        get_weather(city="Paris")
    ]
    assert list(create(messages=user(ASK_SUM), response_model=Iterable[get_weather | add], **CHAT)) == [add(a=17, b=25)]


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_tools_and_schemas_that_bind_become_typed_objects(mode):
    found = client(mode).chat.completions.create(
        messages=user(ASK_WEATHER), response_model=get_weather, max_retries=1, **CHAT
    )
    assert isinstance(found, get_weather) and found.city


def test_errors_are_those_of_the_sdk():
    def error_of(kind, url=URL, key=KEY, **change):
        with pytest.raises(kind) as raised:
            create = client(instructor.Mode.TOOLS, url, key).chat.completions.create
            create(**{**CHAT, "messages": user("Hello!"), "response_model": None, **change})
        return raised.value

    assert error_of(openai.NotFoundError, model="gpt-5").code == "model_not_found"
    assert error_of(openai.BadRequestError, temperature=3).param == "temperature"
    error_of(openai.APIConnectionError, url=closed_port_url())
    assert error_of(openai.AuthenticationError, key=WRONG_KEY).code == "invalid_api_key"
