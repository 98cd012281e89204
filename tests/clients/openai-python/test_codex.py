"""The requests of Codex in their recorded shape: what it sends is answered as it reads answers, or refused by name.

Knows no SDK: Codex has its own client. Sources of the shape, in openai/codex: `codex-rs/codex-api/src/common.rs` has the
bodies, `codex-rs/tools/src/tool_spec.rs` the tools, `codex-rs/protocol/src/models.rs` the items.
"""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from gossamer_server import ASK_WEATHER, KEY, MODEL, URL, WEATHER, is_weather_answer, weather

LOG = [json.loads(line) for line in (Path(__file__).parent / "codex.jsonl").read_text().splitlines()]
ENTRIES = pytest.mark.parametrize("entry", LOG, ids=[entry["what"] for entry in LOG])


def send(body):
    """Status and text of the answer to one request."""
    session = "00000000-0000-7000-8000-000000000001"
    headers = {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "originator": "codex_cli_rs",
        "user-agent": "codex_cli_rs/0.154.0 (Debian 13; x86_64) unknown",
        "session-id": session,
        "thread-id": session,
        "x-codex-window-id": f"{session}:0",
    }
    request = urllib.request.Request(f"{URL}/responses", json.dumps({**body, "model": MODEL}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


def read(text):
    """The items that Codex keeps of a stream, and the response of its last event; only what it reads."""
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created" and events[0]["response"]["id"].startswith("resp_")
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    last = events[-1]
    assert last["type"] in ("response.completed", "response.incomplete"), last
    usage = last["response"]["usage"]
    counts = [usage[name] for name in ("input_tokens", "output_tokens", "total_tokens")]
    counts += [usage["input_tokens_details"]["cached_tokens"], usage["output_tokens_details"]["reasoning_tokens"]]
    assert all(isinstance(count, int) for count in counts)
    assert last["response"]["output"] == done
    return done, last["response"]


def sent_back(item):
    """An item as Codex sends it in the next request: without what it does not know."""
    known = {
        "reasoning": ("type", "summary", "content", "encrypted_content"),
        "message": ("type", "role", "content", "phase"),
        "function_call": ("type", "name", "namespace", "arguments", "call_id"),
    }[item["type"]]
    kept = {name: item[name] for name in known if name in item}
    if item["type"] == "reasoning":
        kept["encrypted_content"] = None
    if item["type"] == "message":
        kept["content"] = [{"type": "output_text", "text": part["text"]} for part in item["content"]]
    return kept


@ENTRIES
def test_responses_of_codex(entry):
    # Bounded, so that no test waits for a small model that has lost its thread. Codex itself sends no bound.
    bound = {"max_output_tokens": 60, "temperature": 0}
    status, kind, text = send({**entry["body"], **bound})
    if refused := entry.get("refused"):
        assert (status, kind) == (400, "application/json"), text
        error = json.loads(text)["error"]
        assert {name: error[name] for name in refused} == refused
        assert refused["param"] in error["message"]
        return
    assert (status, kind) == (200, "text/event-stream; charset=utf-8"), text
    items, response = read(text)
    assert items and "<|" not in json.dumps(items)
    assert response["store"] is False
    # The model is told of functions and of nothing else; the response says so.
    declared = [tool for tool in entry["body"]["tools"] if tool["type"] != "web_search"]
    assert [tool["type"] for tool in response["tools"]] == [tool["type"] for tool in declared]


@pytest.mark.parametrize("forgetful", [False, True])
def test_responses_of_codex_in_its_loop(forgetful):
    first = LOG[0]["body"]
    tool = {"type": "function", "strict": False, **WEATHER["function"]}
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASK_WEATHER}]}
    search = next(tool for tool in first["tools"] if tool["type"] == "web_search")
    body = {**first, "instructions": "Be brief.", "tools": [tool, search], "input": [question], "temperature": 0}
    status, _, text = send(body)
    assert status == 200, text
    items, before = read(text)
    call = items[-1]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    back = [sent_back(item) for item in items if not (forgetful and item["type"] == "reasoning")]
    result = weather(**json.loads(call["arguments"]))
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": result}
    items, after = read(send({**body, "input": [question, *back, output]})[2])
    assert is_weather_answer(items[-1]["content"][0]["text"])
    # All that the first turn had computed was found again, in whole blocks of 16 tokens, but for the token drawn last.
    computed = before["usage"]["total_tokens"] - 1
    assert after["usage"]["input_tokens_details"]["cached_tokens"] >= computed // 16 * 16
