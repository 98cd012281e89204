"""Every body, chunk and error against two descriptions of OpenAI's API, both strict.

1. The types of the official Python SDK (pydantic, strict mode: no conversions, literals held).
2. `SHAPES`: what OpenAI's OpenAPI document (github.com/openai/openai-openapi, of August 2026) says of the same objects:
   which fields are required, which may be null, which words there are. Unlike the types it knows that a field must be
   there even if it is null, and we allow no field besides the document's and those listed as ours.

Known differences, where the document's schema and its own examples disagree or say nothing:
- `finish_reason` of a completions chunk is null until the last one, as in the document's example of a streamed
  completion; its schema (shared with whole answers) and the SDK's type have no null there. A text that is not at its end
  has no other truthful value.
- `token_logprobs` and `top_logprobs` begin with null when a prompt is echoed: nothing is known of a first token.
"""

import copy
import json

import jsonschema
import openai
import pydantic
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from conftest import sdk
from harness import MODEL
from test_chat import WEATHER

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def null_or(schema):
    return {"anyOf": [schema, {"type": "null"}]}


def array(schema):
    return {"type": "array", "items": schema}


def only(*words):
    return {"enum": list(words)}


def shape(required=None, optional=None):
    """An object with these fields and no others."""
    fields = {**(required or {}), **(optional or {})}
    return {
        "type": "object",
        "properties": fields,
        "required": list(required or {}),
        "additionalProperties": False,
    }


TOP = shape({"token": STRING, "logprob": NUMBER, "bytes": null_or(array(INTEGER))})
TOKEN = shape({**TOP["properties"], "top_logprobs": array(TOP)})
CHAT_LOGPROBS = shape({"content": null_or(array(TOKEN)), "refusal": null_or(array(TOKEN))})
# vLLM's shape; not in OpenAI's API.
PROMPT_LOGPROBS = array(
    null_or(
        {
            "type": "object",
            "additionalProperties": shape({"logprob": NUMBER, "rank": INTEGER, "decoded_token": STRING}),
        }
    )
)
USAGE = shape(
    {"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER},
    {
        "prompt_tokens_details": shape(optional={"cached_tokens": INTEGER}),
        "completion_tokens_details": shape(optional={"reasoning_tokens": INTEGER}),
    },
)
CHAT_END = only("stop", "length", "tool_calls", "content_filter", "function_call")
TEXT_END = only("stop", "length", "content_filter")
# Ours, beside the document's fields.
REASONING = {"reasoning": STRING, "reasoning_content": STRING}


def head(object_name, choice):
    return {
        "id": STRING,
        "object": only(object_name),
        "created": INTEGER,
        "model": STRING,
        "choices": array(choice),
    }


TAIL = {"system_fingerprint": STRING, "service_tier": only("auto", "default", "flex", "scale", "priority", "fast")}
CALL = shape(
    {"id": STRING, "type": only("function"), "function": shape({"name": STRING, "arguments": STRING})}
)
DELTA_CALL = shape(
    {"index": INTEGER},
    {
        "id": STRING,
        "type": only("function"),
        "function": shape(optional={"name": STRING, "arguments": STRING}),
    },
)
MESSAGE = shape(
    {"role": only("assistant"), "content": null_or(STRING), "refusal": null_or(STRING)},
    {"tool_calls": array(CALL), **REASONING},
)
DELTA = shape(
    optional={
        "role": only("assistant"),
        "content": null_or(STRING),
        "refusal": null_or(STRING),
        "tool_calls": array(DELTA_CALL),
        **REASONING,
    }
)
COLUMNS = shape(
    {
        "tokens": array(STRING),
        "text_offset": array(INTEGER),
        "token_logprobs": array(NUMBER),
        "top_logprobs": array({"type": "object", "additionalProperties": NUMBER}),
    }
)
TEXT_CHOICE = {"index": INTEGER, "text": STRING, "logprobs": null_or(COLUMNS), "finish_reason": TEXT_END}
SHAPES = {
    "chat": shape(
        head(
            "chat.completion",
            shape(
                {
                    "index": INTEGER,
                    "message": MESSAGE,
                    "logprobs": null_or(CHAT_LOGPROBS),
                    "finish_reason": CHAT_END,
                }
            ),
        ),
        {"usage": USAGE, "prompt_logprobs": PROMPT_LOGPROBS, **TAIL},
    ),
    "chat chunk": shape(
        head(
            "chat.completion.chunk",
            shape(
                {"index": INTEGER, "delta": DELTA, "finish_reason": null_or(CHAT_END)},
                {"logprobs": null_or(CHAT_LOGPROBS)},
            ),
        ),
        {"usage": null_or(USAGE), **TAIL},
    ),
    "text": shape(
        head("text_completion", shape(TEXT_CHOICE, {"prompt_logprobs": PROMPT_LOGPROBS})),
        {"usage": USAGE, "system_fingerprint": STRING},
    ),
    "text chunk": shape(
        head("text_completion", shape({**TEXT_CHOICE, "finish_reason": null_or(TEXT_END)})),
        {"usage": null_or(USAGE), "system_fingerprint": STRING},
    ),
    "model": shape(
        {"id": STRING, "object": only("model"), "created": INTEGER, "owned_by": STRING},
        # Ours: the model of an alias, and how long a sequence may be.
        {"parent": STRING, "max_model_len": INTEGER},
    ),
    "error": shape(
        {"error": shape({"message": STRING, "type": STRING, "param": null_or(STRING), "code": null_or(STRING)})}
    ),
}
TYPES = {"chat": ChatCompletion, "chat chunk": ChatCompletionChunk, "text": Completion, "text chunk": Completion, "model": Model}


def check(kind, value):
    jsonschema.validate(value, SHAPES[kind])
    if kind in TYPES:
        TYPES[kind].model_validate_json(json.dumps(without_known_nulls(kind, value)), strict=True)


def without_known_nulls(kind, value):
    value = copy.deepcopy(value)
    for choice in value.get("choices", []):
        if kind == "text chunk" and choice["finish_reason"] is None:
            choice["finish_reason"] = "stop"
    return value


def drop_echoed_first(value):
    """Takes the first token of an echoed prompt away, of which nothing is known."""
    for choice in value["choices"]:
        if columns := choice["logprobs"]:
            assert columns["token_logprobs"].pop(0) is None and columns["top_logprobs"].pop(0) is None
    return value


QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
CHATS = [
    QUESTION,
    {**QUESTION, "logprobs": True, "top_logprobs": 3, "n": 2},
    {**QUESTION, "logprobs": True, "service_tier": "auto", "max_tokens": 3},
    {**QUESTION, "include_reasoning": False, "stop": "Paris"},
    {**QUESTION, "max_reasoning_tokens": 2},
    {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": [WEATHER]},
]
TEXTS = [
    {"prompt": "Hello"},
    {"prompt": ["Hello", [13225, 13225]], "n": 2, "logprobs": 2},
    {"prompt": "Hello", "max_tokens": 0},
    {"prompt": "Hello", "echo": True, "stop": "e"},
]


def ask(server, path, body):
    body = {"model": MODEL, "temperature": 0, "max_tokens": 200, **body}
    response = server.post(path, body)
    assert response.status == 200, response.text
    return json.loads(response.text)


def chunks_of(server, path, body):
    body = {"model": MODEL, "temperature": 0, "max_tokens": 200, "stream": True, **body}
    response = server.post(path, body)
    assert response.status == 200, response.text
    events = [line[len("data: ") :] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.mark.parametrize("body", CHATS)
def test_chats(server, body):
    answer = ask(server, "/v1/chat/completions", body)
    check("chat", answer)
    if "tools" in body:
        assert answer["choices"][0]["message"]["tool_calls"]


@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"continuous_usage_stats": True}])
@pytest.mark.parametrize("body", CHATS)
def test_streamed_chats(server, body, options):
    for chunk in chunks_of(server, "/v1/chat/completions", {**body, "stream_options": options}):
        check("chat chunk", chunk)


@pytest.mark.parametrize("body", TEXTS)
def test_texts(server, body):
    check("text", ask(server, "/v1/completions", body))
    if isinstance(body["prompt"], str):
        check("text", ask(server, "/v1/completions", {**body, "best_of": 3}))


@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"continuous_usage_stats": True}])
@pytest.mark.parametrize("body", TEXTS)
def test_streamed_texts(server, body, options):
    for chunk in chunks_of(server, "/v1/completions", {**body, "stream_options": options}):
        check("text chunk", chunk)


def test_what_is_said_of_prompts(server):
    # The model's own probabilities of a prompt, whole and as the beginning of a longer one: the same numbers.
    body = {"prompt": "Hello there, what is", "echo": True, "logprobs": 2, "prompt_logprobs": 1, "max_tokens": 0}
    short = ask(server, "/v1/completions", body)
    choice = short["choices"][0]
    columns = copy.deepcopy(choice["logprobs"])
    assert len(columns["tokens"]) == len(choice["prompt_logprobs"]) == short["usage"]["prompt_tokens"]
    assert "".join(columns["tokens"]) == choice["text"] == body["prompt"]
    for logprob, entry in list(zip(columns["token_logprobs"], choice["prompt_logprobs"]))[1:]:
        ranks = {found["rank"]: found["logprob"] for found in entry.values()}
        assert logprob in ranks.values() and logprob <= ranks[1] < 0
    check("text", drop_echoed_first(short))

    longer = ask(server, "/v1/completions", {**body, "prompt": body["prompt"] + " the capital"})
    known = longer["choices"][0]["logprobs"]["token_logprobs"]
    assert known[: len(columns["tokens"])] == columns["token_logprobs"]

    answer = ask(server, "/v1/chat/completions", {**QUESTION, "prompt_logprobs": 1})
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    check("chat", answer)


def test_reasoning_hands_over_to_the_answer(server):
    free = ask(server, "/v1/chat/completions", QUESTION)
    thought = free["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert thought > 3
    for budget in (0, 2, thought - 1):
        answer = ask(server, "/v1/chat/completions", {**QUESTION, "max_reasoning_tokens": budget})
        message = answer["choices"][0]["message"]
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == budget
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert message["content"] and "<|" not in message["content"]
        assert free["choices"][0]["message"]["reasoning"].startswith(message.get("reasoning", ""))
    assert ask(server, "/v1/chat/completions", {**QUESTION, "max_reasoning_tokens": thought})["choices"] == free["choices"]


def test_models_and_errors(server):
    for model in json.loads(server.get("/v1/models").text)["data"]:
        check("model", model)
    check("model", json.loads(server.get(f"/v1/models/{MODEL}").text))
    for path, body in [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"model": MODEL, **QUESTION, "temperature": 3}),
        ("/v1/chat/completions", {"model": "x", **QUESTION}),
        ("/v1/completions", {"model": MODEL, "prompt": "x", "suffix": "y"}),
        ("/v1/nothing", {}),
    ]:
        check("error", json.loads(server.post(path, body).text))
    check("error", json.loads(server.get("/v1/completions").text))


def test_the_sdk_validates_what_it_gets(server):
    client = openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120, _strict_response_validation=True
    )
    more = {"model": MODEL, "temperature": 0, "max_tokens": 100, **QUESTION}
    assert client.chat.completions.create(**more).choices[0].message.content
    assert len(list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **more))) > 3
    assert client.completions.create(model=MODEL, prompt="Hello", logprobs=2).choices
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**{**more, "temperature": 3})
    assert (raised.value.param, raised.value.code) == ("temperature", "decimal_above_max_value")
    # The one place where the SDK's type knows less than the API's own example: see this file's header.
    with pytest.raises((openai.APIResponseValidationError, pydantic.ValidationError)):
        list(client.completions.create(model=MODEL, prompt="Hello", stream=True))
    assert list(sdk(server).completions.create(model=MODEL, prompt="Hello", stream=True))
