"""Responses through the OpenAI SDK over the real binary, and what a killed server leaves of them."""

import json
import signal
import time

import openai
import pytest
from conftest import sdk
from harness import MODEL, Server, gossamer

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def ask(client, text, **more):
    return client.responses.create(model=MODEL, input=text, temperature=0, max_output_tokens=400, **more)


def test_a_response_survives_a_killed_server(tmp_path):
    store = ["--response-store", str(tmp_path / "responses.db"), "--date", "2026-01-01"]
    with Server(*store) as server:
        client = sdk(server)
        whole = ask(client, "My name is Anna.")
        events = list(ask(client, "What is the weather in Paris?", tools=[WEATHER], stream=True))
        assert events[-1].type == "response.completed"
        streamed = events[-1].response
        running = ask(client, "Say something very long.", background=True, extra_body={"logit_bias": {"200002": -100}})
        # At once: the last event was the promise.
        server.signal(signal.SIGKILL)
        server.wait()
    with Server(*store) as server:
        client = sdk(server)
        assert client.responses.retrieve(whole.id) == whole
        assert client.responses.retrieve(streamed.id) == streamed
        lost = client.responses.retrieve(running.id)
        assert lost.status == "failed" and lost.error.code == "server_error"
        assert "Anna" in ask(client, "What is my name?", previous_response_id=whole.id).output_text
        (call,) = [item for item in streamed.output if item.type == "function_call"]
        result = json.dumps({"temperature": 21, "condition": "sunny"})
        output = [{"type": "function_call_output", "call_id": call.call_id, "output": result}]
        answer = ask(client, output, tools=[WEATHER], previous_response_id=streamed.id)
        assert "21" in answer.output_text and "sunny" in answer.output_text
        client.responses.delete(whole.id)
        server.signal(signal.SIGKILL)
        server.wait()
    with Server(*store) as server:
        with pytest.raises(openai.NotFoundError):
            sdk(server).responses.retrieve(whole.id)
        assert server.metrics()["gossamer_responses_stored"] == 4


def test_a_response_of_the_background_is_finished_at_shutdown(tmp_path):
    store = ["--response-store", str(tmp_path / "responses.db")]
    with Server(*store) as server:
        # Nothing but the bound ends it.
        body = {"logit_bias": {str(token): -100 for token in (200002, 200007, 200012, 199999)}}
        running = ask(sdk(server), "Go on.", background=True, extra_body=body)
        assert server.stop() == 0, server.log()
    with Server(*store) as server:
        ended = sdk(server).responses.retrieve(running.id)
        assert ended.status == "incomplete" and ended.usage.output_tokens == 400


def test_a_file_is_for_one_server_at_a_time(tmp_path):
    store = ["--response-store", str(tmp_path / "responses.db")]
    with Server(*store):
        began = time.monotonic()
        second = gossamer("serve", "--port", "0", *store)
        assert second.returncode != 0 and "in use by another process" in second.stderr
        assert time.monotonic() - began < 30
    missing = gossamer("serve", "--port", "0", "--response-store", str(tmp_path / "no" / "folder.db"))
    assert missing.returncode != 0 and "folder.db" in missing.stderr and "panicked" not in missing.stderr


def test_the_stream_is_the_response(client):
    events = list(ask(client, "What is the capital of France?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    response = events[-1].response
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert said == response.output_text and "Paris" in said
    assert thought == response.output[0].content[0].text
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
