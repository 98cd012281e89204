"""LangChain's `ChatOpenAI`: messages in and out, streams, tool calls and the errors that reach its users."""

import asyncio

import openai
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
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI


def chat_model(**more):
    settings = {"model": MODEL, "base_url": URL, "api_key": KEY, "temperature": 0, "max_retries": 0, "timeout": 120}
    return ChatOpenAI(**{**settings, "max_completion_tokens": 400, **more})


@tool
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return weather(city)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_chat_answers_with_usage():
    answer = chat_model(reasoning_effort="high").invoke([SystemMessage("Be brief."), HumanMessage(CAPITAL)])
    assert isinstance(answer, AIMessage) and "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert 0 < usage["output_token_details"]["reasoning"] < usage["output_tokens"]


def test_chat_in_a_chain_and_a_batch():
    prompt = ChatPromptTemplate.from_messages([("human", "What is the capital of {country}?")])
    chain = prompt | chat_model() | StrOutputParser()
    answers = chain.batch([{"country": "France"}, {"country": "Japan"}])
    assert "Paris" in answers[0] and "Tokyo" in answers[1]


def test_chat_remembers_the_dialogue():
    messages = [HumanMessage("My name is Anna.")]
    messages += [chat_model().invoke(messages), HumanMessage("What is my name?")]
    assert "Anna" in chat_model().invoke(messages).content


def test_chat_completions_of_raw_text():
    text = OpenAI(model=MODEL, base_url=URL, api_key=KEY, temperature=0, max_tokens=4, max_retries=0).invoke("Hello")
    assert isinstance(text, str) and text


def test_stream_is_the_whole_answer_in_pieces():
    model = chat_model(stream_usage=True)
    whole = model.invoke(CAPITAL)
    chunks = list(model.stream(CAPITAL))
    assert len(chunks) > 3
    total = sum(chunks[1:], chunks[0])
    assert total.content == whole.content
    assert total.response_metadata["finish_reason"] == "stop"
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_stream_async():
    async def collect():
        return [chunk.content async for chunk in chat_model().astream(CAPITAL)]

    assert "Paris" in "".join(asyncio.run(collect()))


def test_tools_loop():
    model = chat_model().bind_tools([get_weather])
    messages = [HumanMessage(ASK_WEATHER)]
    called = model.invoke(messages)
    assert called.response_metadata["finish_reason"] == "tool_calls"
    (call,) = called.tool_calls
    assert (call["name"], call["args"], called.invalid_tool_calls) == ("get_weather", {"city": "Paris"}, [])
    messages += [called, get_weather.invoke(call)]
    last = model.invoke(messages)
    assert last.tool_calls == [] and is_weather_answer(last.content)


def test_tools_streamed():
    chunks = list(chat_model().bind_tools([get_weather, add]).stream(ASK_SUM))
    total = sum(chunks[1:], chunks[0])
    assert [(call["name"], call["args"]) for call in total.tool_calls] == [("add", {"a": 17, "b": 25})]
    assert total.response_metadata["finish_reason"] == "tool_calls"


def test_tools_declared_strict():
    called = chat_model().bind_tools([get_weather], strict=True).invoke(ASK_WEATHER)
    assert [call["args"] for call in called.tool_calls] == [{"city": "Paris"}]


def test_errors_are_those_of_the_sdk():
    with pytest.raises(openai.NotFoundError) as missing:
        chat_model(model="gpt-5").invoke("Hello!")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as hot:
        chat_model(temperature=3).invoke("Hello!")
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        list(chat_model().stream("green river " * 70_000))
    assert long.value.code == "context_length_exceeded"


def test_errors_of_keys():
    with pytest.raises(openai.AuthenticationError) as wrong:
        chat_model(api_key=WRONG_KEY).invoke("Hello!")
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.RateLimitError):
        chat_model(api_key=LIMITED_KEY).batch(["Hello!", "Hello!"])


def test_errors_of_the_connection():
    with pytest.raises(openai.APIConnectionError):
        chat_model(base_url=closed_port_url()).invoke("Hello!")
