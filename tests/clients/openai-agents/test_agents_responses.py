"""OpenAI's Agents SDK for Python on the Responses API, its default: runs, streams, tools, handoffs, typed outputs."""

from typing import Literal

import openai
import pydantic
import pytest
from agents import (
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    handoff,
    set_default_openai_api,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.extensions.handoff_filters import remove_all_tools
from common import LOOP, agent, get_weather, run
from gossamer_server import ASK_WEATHER, CAPITAL, KEY, MODEL, URL, WRONG_KEY, is_weather_answer, weather
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

set_tracing_disabled(True)


def client(key=KEY):
    return AsyncOpenAI(base_url=URL, api_key=key, max_retries=0, timeout=120, _strict_response_validation=True)


@pytest.fixture(autouse=True)
def default_client():
    set_default_openai_api("responses")
    set_default_openai_client(client(), use_for_tracing=False)


def test_responses_answer_with_reasoning_and_usage():
    settings = ModelSettings(temperature=0, reasoning=Reasoning(effort="high", summary="auto"))
    result = run(agent(model_settings=settings), CAPITAL)
    assert "Paris" in result.final_output
    assert [item.type for item in result.new_items] == ["reasoning_item", "message_output_item"]
    assert result.last_response_id.startswith("resp_")
    usage = result.context_wrapper.usage
    assert usage.requests == 1 and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens > 0


def test_responses_remember_the_dialogue_in_each_way():
    async def by_session():
        session = SQLiteSession("test")
        await Runner.run(agent(), "My name is Anna.", session=session)
        return await Runner.run(agent(), "What is my name?", session=session)

    async def by_id():
        first = await Runner.run(agent(), "My name is Anna.")
        return await Runner.run(agent(), "What is my name?", previous_response_id=first.last_response_id)

    async def by_list():
        first = await Runner.run(agent(), "My name is Anna.")
        return await Runner.run(agent(), [*first.to_input_list(), {"role": "user", "content": "What is my name?"}])

    for way in (by_session, by_id, by_list):
        assert "Anna" in LOOP.run(way()).final_output, way.__name__


def test_responses_stream_deltas_and_the_final_output():
    async def collect():
        result = Runner.run_streamed(agent(), CAPITAL)
        deltas, events = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                events.append(event.data)
                if event.data.type == "response.output_text.delta":
                    deltas += event.data.delta
        return deltas, events, result

    deltas, events, result = LOOP.run(collect())
    assert "Paris" in deltas and deltas == result.final_output
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert result.context_wrapper.usage.output_tokens > 0


@pytest.mark.parametrize("by_id", [False, True])
def test_responses_tool_loop(by_id):
    result = run(agent(tools=[get_weather]), ASK_WEATHER, auto_previous_response_id=by_id)
    assert is_weather_answer(result.final_output)
    kinds = [item.type for item in result.new_items]
    assert "tool_call_item" in kinds and kinds[-1] == "message_output_item"
    (output,) = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert output == weather("Paris")
    usage = result.context_wrapper.usage
    assert usage.requests == 2 and usage.input_tokens_details.cached_tokens > 0


def test_responses_tool_loop_streamed():
    async def collect():
        result = Runner.run_streamed(agent(tools=[get_weather]), ASK_WEATHER)
        names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        return names, result.final_output

    names, answer = LOOP.run(collect())
    assert "tool_called" in names and "tool_output" in names and names[-1] == "message_output_created"
    assert is_weather_answer(answer)


def test_responses_are_handed_to_another_agent():
    expert = agent(name="Expert", tools=[get_weather])
    # The handoff is a function like any other; the model is made to call it, and the expert reads the question alone.
    settings = ModelSettings(temperature=0, max_tokens=400, tool_choice="transfer_to_expert")
    triage = agent(name="Triage", handoffs=[handoff(expert, input_filter=remove_all_tools)], model_settings=settings)
    result = run(triage, ASK_WEATHER)
    assert result.last_agent.name == "Expert"
    assert result.context_wrapper.usage.requests == 3
    assert is_weather_answer(result.final_output)


def test_responses_with_a_typed_output():
    class Capital(pydantic.BaseModel):
        city: Literal["Paris", "Rome"]
        in_europe: bool

    result = run(agent(output_type=Capital), CAPITAL)
    assert isinstance(result.final_output, Capital)


def test_responses_of_the_model_class_and_its_settings():
    model = OpenAIResponsesModel(model=MODEL, openai_client=client())
    settings = ModelSettings(
        temperature=0,
        max_tokens=400,
        store=False,
        truncation="auto",
        metadata={"a": "b"},
        response_include=["reasoning.encrypted_content"],
        parallel_tool_calls=False,
    )
    result = run(agent(model=model, model_settings=settings, tools=[get_weather]), ASK_WEATHER)
    assert is_weather_answer(result.final_output)


def test_responses_errors_are_those_of_the_sdk():
    with pytest.raises(openai.NotFoundError) as missing:
        run(agent(model="gpt-5"), "Hello!")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as hot:
        run(agent(), "Hello!", run_config=RunConfig(model_settings=ModelSettings(temperature=3)))
    assert hot.value.param == "temperature"
    # Conversations that OpenAI keeps are another API.
    with pytest.raises(openai.NotFoundError):
        run(agent(), "Hello!", session=OpenAIConversationsSession(openai_client=client()))


def test_responses_errors_of_keys():
    set_default_openai_client(client(key=WRONG_KEY), use_for_tracing=False)
    with pytest.raises(openai.AuthenticationError):
        run(agent(), "Hello!")
