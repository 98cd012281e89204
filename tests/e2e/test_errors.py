"""Every mistake is answered in OpenAI's shape, before the first byte of a stream."""

import json

import openai
import pytest

from conftest import sdk
from harness import MODEL, Server, long_completion, read_until, wait_until

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}


def error(response, status):
    assert response.status == status, response.text
    assert response.getheader("content-type").startswith("application/json")
    assert response.getheader("x-request-id")
    body = json.loads(response.text)
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_an_unknown_model_is_404(client, server):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-5", messages=CHAT["messages"])
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_field_is_400_and_named(server, change, param, stream):
    body = {**CHAT, **change} if "stream_options" in change else {**CHAT, "stream": stream, **change}
    found = error(server.post("/v1/chat/completions", body), 400)
    assert found["type"] == "invalid_request_error"
    assert found["param"].startswith(param), found


def test_bad_json_and_bad_routes(server):
    assert error(server.post("/v1/chat/completions", "{"), 400)["message"]
    assert error(server.get("/v1/nothing"), 404)
    assert error(server.get("/v1/chat/completions"), 405)
    assert error(server.post("/v1/chat/completions", "[" * 100_000), 400)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_400_before_any_event(server, stream):
    body = {"model": MODEL, "prompt": [13225] * 300_000, "stream": stream}
    found = error(server.post("/v1/completions", body), 400)
    assert found["code"] == "context_length_exceeded"


def test_a_body_over_the_limit_is_413():
    with Server("--max-body-bytes", "4KiB") as server:
        found = error(server.post("/v1/completions", {"model": MODEL, "prompt": "a" * 10_000}), 413)
        assert found["message"]


def test_a_full_queue_is_429_with_retry_after():
    with Server("--max-num-seqs", "1", "--max-waiting", "1") as server:
        body = long_completion("Hello", 2000, stream=True)
        running = server.open("/v1/completions", body)
        read_until(running, b"data: ")
        waiting = server.open("/v1/completions", body)
        wait_until(lambda: server.busy() == 2, 10, "queued")
        refused = server.post("/v1/completions", body)
        assert error(refused, 429) and int(refused.getheader("retry-after")) >= 1
        with pytest.raises(openai.RateLimitError):
            sdk(server).chat.completions.create(**CHAT)
        running.close()
        waiting.close()
        server.assert_idle()
        assert server.post("/v1/completions", {**body, "max_tokens": 2, "stream": False}).status == 200
