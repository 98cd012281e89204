"""What a request holds the model to, it is held to: forced calls, JSON answers, headers; by chance and many times.

At temperature 1 and above, where the embedded model, left alone, writes nothing that a parser would take. Every answer is
checked by an implementation of JSON schemas that has nothing to do with the server's. The numbers of requests are short
ones; `CONSTRAINED=500,500,2000` sends as many forced calls, JSON answers and free turns as that.
"""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest

from harness import MODEL, Server

CALLS, ANSWERS, TURNS = (int(count) for count in os.environ.get("CONSTRAINED", "40,40,60").split(","))


def obj(properties, **more):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more}


WORD = {"type": "string", "maxLength": 24}
# Bounded: the embedded model, off its way, repeats a digit or a word for as long as it may.
INTEGER = {"type": "integer", "minimum": -9999, "maximum": 9999}
POINT = obj({"x": INTEGER, "y": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 99}})
# Nested objects, enumerations, arrays, references, names and values beyond ASCII.
SCHEMAS = [
    obj({"city": WORD}),
    obj({"city": WORD, "unit": {"enum": ["celsius", "fahrenheit"]}}),
    obj({"a": INTEGER, "b": INTEGER}),
    obj({"n": {"type": "integer", "minimum": -20, "maximum": 20}}),
    obj({"ok": {"type": "boolean"}, "why": {"type": ["string", "null"], "maxLength": 10}}),
    obj({"point": POINT}),
    obj({"line": {"type": "array", "items": POINT, "minItems": 2, "maxItems": 2}}),
    obj({"tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4}}),
    obj({"matrix": {"type": "array", "items": {"type": "array", "items": INTEGER, "maxItems": 2}, "maxItems": 2}}),
    obj({"größe": {"enum": ["klein", "groß"]}, "名前": {"enum": ["東京", "大阪"]}}),
    obj({"mood": {"enum": ["🙂", "🙁", "\"quoted\"", "back\\slash", "new\nline"]}}),
    obj({"v": {"const": {"deep": [1, "ü", None]}}}),
    obj({"date": {"type": "string", "pattern": "^[0-9]{4}-[0-1][0-9]$"}}),
    obj({"id": {"type": "string", "minLength": 2, "maxLength": 8}}),
    obj({"either": {"anyOf": [INTEGER, {"type": "boolean"}, POINT]}}),
    obj({"tree": {"$ref": "#/$defs/tree"}}, **{"$defs": {"tree": obj({
        "value": INTEGER,
        "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2},
    }), "leaf": obj({"leaf": {"type": "boolean"}})}}),
    obj({"pairs": {"$ref": "#/$defs/pairs"}}, **{"$defs": {
        "pairs": {"type": "array", "items": {"$ref": "#/$defs/pair"}, "minItems": 1, "maxItems": 2},
        "pair": obj({"head": {"type": "boolean"}, "tail": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/end"}]}}),
        "end": {"enum": ["left", "right"]},
    }}),
    obj({"a": obj({"b": obj({"c": obj({"d": {"enum": [1, 2, 3]}})})})}),
    {"type": "object", "properties": {"p": INTEGER, "q": WORD}, "required": ["p"], "additionalProperties": False},
    obj({"pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x", "y"]}], "items": False, "minItems": 2}}),
]
PROMPTS = [
    "What is the weather in Paris?",
    "What is 12 + 30?",
    "Hello!",
    "What is the capital of France?",
    "Tell me something in JSON.",
]
# Reasoning is free text, and at temperature 1 the embedded model now and then counts to infinity in it. Whoever must have an
# answer bounds it.
THINKING = {"max_reasoning_tokens": 400}
HEADER_REPAIRS = "gossamer_harmony_repairs_total"


@pytest.fixture(scope="module")
def held():
    """A server of its own, whose metrics say what these tests did."""
    with Server("--date", "2026-01-01") as server:
        yield server
        server.assert_idle()
        for part in ("header", "body", "text"):
            assert any(f'part="{part}"' in name for name in server.metrics()), part
        assert server.stop() == 0, server.log()


def tool(index):
    return {
        "type": "function",
        "function": {"name": f"tool_{index}", "parameters": SCHEMAS[index], "strict": index % 2 == 0},
    }


def ask(server, number, **more):
    """One answer, its texts put together if it is a stream: every other one is."""
    stream = number % 2 == 1
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        "temperature": 1,
        "seed": number,
        "max_tokens": 2000,
        "stream": stream,
        **more,
    }
    response = server.post("/v1/chat/completions", body, timeout=300)
    assert response.status == 200, response.text
    if not stream:
        choice = json.loads(response.text)["choices"][0]
        message = choice["message"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
        return message["content"], message.get("reasoning") or "", calls, choice["finish_reason"]
    content, reasoning, calls, finish = "", "", [], None
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], events[-3:]
    for event in events[:-2]:
        if event.startswith(":"):
            continue
        choice = json.loads(event.removeprefix("data: "))["choices"][0]
        delta, finish = choice["delta"], choice["finish_reason"] or finish
        content += delta.get("content") or ""
        reasoning += delta.get("reasoning") or ""
        for part in delta.get("tool_calls") or []:
            function = part["function"]
            if "id" in part:
                assert part["index"] == len(calls) and part["type"] == "function"
                calls.append([function["name"], ""])
            calls[part["index"]][1] += function["arguments"]
    return content, reasoning, [tuple(call) for call in calls], finish


def all_of(count, work):
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(work, range(count)))


def no_control_token(*texts):
    for text in texts:
        assert not re.search(r"<\|[a-z_0-9]+\|>", text or ""), text


def test_every_forced_call_is_valid(held):
    def one(number):
        index = number % len(SCHEMAS)
        others = [tool(other) for other in range(len(SCHEMAS)) if other != index][: number % 3]
        named = {"type": "function", "function": {"name": f"tool_{index}"}}
        choice = [named, "required"][number // 2 % 2]
        content, reasoning, calls, finish = ask(held, number, tools=[tool(index), *others], tool_choice=choice, **THINKING)
        assert finish == "tool_calls", (number, finish, content, calls)
        ((name, arguments),) = calls
        no_control_token(content, reasoning, name, arguments)
        assert name == f"tool_{index}" or choice == "required"
        jsonschema.validate(json.loads(arguments), SCHEMAS[int(name.removeprefix("tool_"))])

    all_of(CALLS, one)


def test_every_json_answer_is_valid(held):
    def one(number):
        schema = SCHEMAS[number % len(SCHEMAS)]
        schema = {"name": "answer", "schema": schema, "strict": number % 3 == 0}
        content, reasoning, calls, finish = ask(
            held, number, response_format={"type": "json_schema", "json_schema": schema}, **THINKING
        )
        assert finish == "stop" and not calls, (number, finish, content)
        no_control_token(content, reasoning)
        jsonschema.validate(json.loads(content), schema["schema"])

    all_of(ANSWERS, one)


def test_responses_and_messages_are_held_too(held):
    """The same rules behind the other two doors."""

    def answer(path, number, more):
        body = {"model": MODEL, "temperature": 1, "stream": False} | more
        response = held.post(path, body, timeout=300)
        assert response.status == 200, response.text
        return json.loads(response.text)

    def one(number):
        index = number % len(SCHEMAS)
        schema, prompt = SCHEMAS[index], PROMPTS[number % len(PROMPTS)]
        function = {"type": "function", "name": "f", "parameters": schema, "strict": False}
        asked = {"input": prompt, "max_output_tokens": 2000, **THINKING}
        choice = ["required", {"type": "function", "name": "f"}][number % 2]
        called = answer("/v1/responses", number, asked | {"tools": [function], "tool_choice": choice})
        (call,) = [item for item in called["output"] if item["type"] == "function_call"]
        jsonschema.validate(json.loads(call["arguments"]), schema)
        form = {"type": "json_schema", "name": "answer", "schema": schema}
        said = answer("/v1/responses", number, asked | {"text": {"format": form}})
        (message,) = [item for item in said["output"] if item["type"] == "message"]
        jsonschema.validate(json.loads(message["content"][0]["text"]), schema)

        asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 4000}
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        choice = [{"type": "any"}, {"type": "tool", "name": "f"}][number % 2]
        tools = {"tools": [{"name": "f", "input_schema": schema}], "tool_choice": choice}
        called = answer("/v1/messages", number, asked | tools)
        assert called["stop_reason"] == "tool_use", called
        (call,) = [block for block in called["content"] if block["type"] == "tool_use"]
        jsonschema.validate(call["input"], schema)
        form = {"format": {"type": "json_schema", "schema": schema}}
        said = answer("/v1/messages", number, asked | {"output_config": form})
        assert said["stop_reason"] == "end_turn", said
        (text,) = [block for block in said["content"] if block["type"] == "text"]
        jsonschema.validate(json.loads(text["text"]), schema)

    all_of(len(SCHEMAS), one)


def test_free_turns_have_headers_that_need_no_repair(held):
    tools = [tool(0), tool(1), tool(2)]
    before = repairs(held)

    def one(number):
        content, reasoning, calls, finish = ask(held, number, tools=tools, temperature=1.3)
        no_control_token(content, reasoning, *(part for call in calls for part in call))
        assert all(name in ("tool_0", "tool_1", "tool_2") for name, _ in calls)
        return finish

    finishes = all_of(TURNS, one)
    after = repairs(held)
    assert after == before, (before, after)
    assert set(finishes) <= {"stop", "tool_calls", "length"}


def test_without_the_automaton_the_parser_has_work_to_do(held):
    """What the others assert is not true by chance."""
    before = repairs(held)
    all_of(40, lambda number: ask(held, number, tools=[tool(0)], temperature=1.3, constrain_headers=False))
    assert sum(repairs(held).values()) > sum(before.values())


def repairs(server):
    """Repairs by kind, without those that are no fault of a header: characters that were never finished, and turns that
    `max_tokens` cut in the middle of one."""
    return {
        name: count
        for name, count in server.metrics().items()
        if name.startswith(HEADER_REPAIRS) and "invalid_utf8" not in name and "truncated_header" not in name
    }


@pytest.mark.parametrize(
    "field, value, pattern",
    [
        ("guided_regex", r"[A-F]{3}-\d{2}", r"[A-F]{3}-[0-9]{2}"),
        ("guided_choice", ["Paris", "Zürich", "東京"], "Paris|Zürich|東京"),
        ("guided_grammar", 'start: "yes" | "no" REASON\nREASON: /, because [a-z ]{5,20}/', "yes|no, because [a-z ]{5,20}"),
        ("structured_outputs", {"regex": "x{2,4}"}, "x{2,4}"),
    ],
)
def test_other_grammars(held, field, value, pattern):
    for number in range(4):
        content, _, _, finish = ask(held, number, **{field: value})
        assert finish == "stop" and re.fullmatch(pattern, content), content


def test_a_json_object(held):
    for number in range(6):
        content, _, _, finish = ask(held, number, response_format={"type": "json_object"}, max_tokens=3000)
        assert finish == "length" or isinstance(json.loads(content), dict), content


def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(held):
    schema = {"name": "x", "schema": {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}}
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    response = held.post("/v1/chat/completions", body)
    error = json.loads(response.text)["error"]
    assert response.status == 400 and error["param"] == "response_format.json_schema.schema"
    assert "cannot be enforced" in error["message"] and "none" in error["message"], error


def test_a_budget_for_reasoning_leads_to_the_call(held):
    for number in range(4):
        _, reasoning, calls, finish = ask(
            held, number, tools=[tool(1), tool(2)], tool_choice="required", max_reasoning_tokens=2
        )
        assert finish == "tool_calls" and len(calls) == 1
