"""OpenAI's Agents SDK for Python, on chat completions: runs, streams, its own tool loop, handoffs, errors."""


import openai
import pytest
from agents import (
    MaxTurnsExceeded,
    ModelSettings,
    RunConfig,
    Runner,
    SQLiteSession,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)
from common import LOOP, agent, get_weather, run
from gossamer_server import (
    ASK_WEATHER,
    CAPITAL,
    KEY,
    LIMITED_KEY,
    URL,
    WRONG_KEY,
    closed_port_url,
    is_weather_answer,
    weather,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

set_tracing_disabled(True)


def client(url=URL, key=KEY):
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)


@pytest.fixture(autouse=True)
def default_client():
    set_default_openai_api("chat_completions")
    set_default_openai_client(client(), use_for_tracing=False)


def test_chat_answers_with_reasoning_and_usage():
    settings = ModelSettings(temperature=0, reasoning=Reasoning(effort="high"))
    result = run(agent(model_settings=settings), CAPITAL)
    assert "Paris" in result.final_output
    assert [item.type for item in result.new_items] == ["reasoning_item", "message_output_item"]
    usage = result.context_wrapper.usage
    assert usage.requests == 1 and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens > 0


def test_chat_remembers_the_dialogue_in_a_session():
    async def two_turns():
        session = SQLiteSession("test")
        await Runner.run(agent(), "My name is Anna.", session=session)
        return (await Runner.run(agent(), "What is my name?", session=session)).final_output

    assert "Anna" in LOOP.run(two_turns())


def test_stream_gives_deltas_and_the_final_output():
    async def collect():
        result = Runner.run_streamed(agent(), CAPITAL)
        deltas, kinds = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                kinds.append(event.data.type)
                if event.data.type == "response.output_text.delta":
                    deltas += event.data.delta
        return deltas, kinds, result

    deltas, kinds, result = LOOP.run(collect())
    assert "Paris" in deltas and deltas == result.final_output
    assert kinds.count("response.output_text.delta") > 2 and kinds[-1] == "response.completed"
    assert result.context_wrapper.usage.output_tokens > 0


def test_tools_loop():
    result = run(agent(tools=[get_weather]), ASK_WEATHER)
    assert is_weather_answer(result.final_output)
    assert "tool_call_item" in [item.type for item in result.new_items]
    (output,) = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert output == weather("Paris")
    assert result.context_wrapper.usage.requests == 2


def test_tools_loop_streamed():
    async def collect():
        result = Runner.run_streamed(agent(tools=[get_weather]), ASK_WEATHER)
        names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        return names, result.final_output

    names, answer = LOOP.run(collect())
    assert "tool_called" in names and "tool_output" in names and names[-1] == "message_output_created"
    assert is_weather_answer(answer)


def test_tools_bounded_turns():
    with pytest.raises(MaxTurnsExceeded):
        run(agent(tools=[get_weather]), ASK_WEATHER, max_turns=1)


def test_errors_are_those_of_the_sdk():
    with pytest.raises(openai.NotFoundError) as missing:
        run(agent(model="gpt-5"), "Hello!")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as hot:
        run(agent(), "Hello!", run_config=RunConfig(model_settings=ModelSettings(temperature=3)))
    assert hot.value.param == "temperature"


def test_errors_of_keys():
    set_default_openai_client(client(key=WRONG_KEY), use_for_tracing=False)
    with pytest.raises(openai.AuthenticationError):
        run(agent(), "Hello!")
    set_default_openai_client(client(key=LIMITED_KEY), use_for_tracing=False)
    with pytest.raises(openai.RateLimitError):
        for _ in range(2):
            run(agent(), "Hello!")


def test_errors_of_the_connection():
    set_default_openai_client(client(closed_port_url()), use_for_tracing=False)
    with pytest.raises(openai.APIConnectionError):
        run(agent(), "Hello!")
