"""Pydantic AI: runs, streams, its own tool loop, its errors. Typed outputs force a tool: refused by name."""

import asyncio

import pytest
from gossamer_server import (
    ASK_SUM,
    ASK_WEATHER,
    CAPITAL,
    KEY,
    LIMITED_KEY,
    MODEL,
    URL,
    WRONG_KEY,
    closed_port_url,
    is_weather_answer,
    weather,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ModelAPIError,
    ModelHTTPError,
    ToolCallPart,
    ToolReturnPart,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.messages import TextPart, ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

# One loop for all tests, because a model keeps its connections.
LOOP = asyncio.Runner()


def agent(name=MODEL, url=URL, key=KEY, **more):
    client = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)
    model = OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))
    settings = {"temperature": 0, "max_tokens": 400, **more.pop("settings", {})}
    return Agent(model, instructions="Be brief.", model_settings=settings, **more)


def run(agent, text, **more):
    return LOOP.run(agent.run(text, **more))


def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return weather(city)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_chat_answers_with_reasoning_and_usage():
    result = run(agent(settings={"openai_reasoning_effort": "high"}), CAPITAL)
    assert "Paris" in result.output
    response = result.response
    assert [type(part) for part in response.parts] == [ThinkingPart, TextPart]
    assert response.finish_reason == "stop" and response.model_name == MODEL
    usage = result.usage
    assert usage.requests == 1 and usage.input_tokens > 0
    assert 0 < usage.details["reasoning_tokens"] < usage.output_tokens


def test_chat_remembers_the_dialogue():
    first = run(agent(), "My name is Anna.")
    # The thinking goes back with the history, as Pydantic AI sends it.
    assert "Anna" in run(agent(), "What is my name?", message_history=first.all_messages()).output


def test_stream_is_the_whole_answer_in_pieces():
    async def collect():
        async with agent().run_stream(CAPITAL) as result:
            deltas = [delta async for delta in result.stream_text(delta=True, debounce_by=None)]
            return deltas, await result.get_output(), result.usage

    deltas, output, usage = LOOP.run(collect())
    assert len(deltas) > 3 and "".join(deltas) == output and "Paris" in output
    assert usage.output_tokens > 0


def test_tools_loop():
    result = run(agent(tools=[get_weather]), ASK_WEATHER)
    assert is_weather_answer(result.output)
    parts = [part for message in result.all_messages() for part in message.parts]
    (call,) = [part for part in parts if isinstance(part, ToolCallPart)]
    (returned,) = [part for part in parts if isinstance(part, ToolReturnPart)]
    assert (call.tool_name, call.args_as_dict()) == ("get_weather", {"city": "Paris"})
    assert returned.tool_call_id == call.tool_call_id and returned.content == weather("Paris")
    assert result.usage.requests == 2 and result.usage.tool_calls == 1


def test_tools_loop_streamed():
    async def collect():
        async with agent(tools=[get_weather, add]).run_stream(ASK_WEATHER) as result:
            return await result.get_output()

    assert is_weather_answer(LOOP.run(collect()))


def test_tools_bounded_requests():
    with pytest.raises(UsageLimitExceeded):
        run(agent(tools=[add]), ASK_SUM, usage_limits=UsageLimits(request_limit=1))


def test_errors_have_status_and_body():
    def error_of(agent, text="Hello!", **more):
        with pytest.raises(ModelHTTPError) as raised:
            run(agent, text, **more)
        return raised.value

    missing = error_of(agent(name="no-such-model"))
    assert missing.status_code == 404 and missing.body["code"] == "model_not_found"
    assert error_of(agent(key=WRONG_KEY)).status_code == 401
    hot = error_of(agent(settings={"temperature": 3}))
    assert hot.status_code == 400 and hot.body["param"] == "temperature"
    long = error_of(agent(), "green river " * 70_000)
    assert long.status_code == 400 and long.body["code"] == "context_length_exceeded"


def test_tools_give_typed_outputs():
    class City(BaseModel):
        name: str

    # A call is forced, and its arguments are held to the type.
    assert isinstance(run(agent(output_type=City), CAPITAL).output, City)


def test_errors_of_a_key_over_its_limit():
    with pytest.raises(ModelHTTPError) as limited:
        for _ in range(2):
            run(agent(key=LIMITED_KEY), "Hello!")
    assert limited.value.status_code == 429


def test_errors_of_the_connection():
    with pytest.raises(ModelAPIError) as raised:
        run(agent(url=closed_port_url()), "Hello!")
    assert not isinstance(raised.value, ModelHTTPError)
