"""Raw completions: text, token ids, batches, and the other small routes."""

import json

from harness import BINARY, MODEL, gossamer


def test_token_ids_and_their_text_are_the_same_prompt(client):
    # "Hello" is one token of o200k: 13225.
    more = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    text = client.completions.create(prompt="Hello", **more)
    tokens = client.completions.create(prompt=[13225], **more)
    assert text.usage.prompt_tokens == tokens.usage.prompt_tokens == 1
    assert text.choices[0].text == tokens.choices[0].text


def test_a_batch_answers_every_prompt_in_order(client):
    more = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    prompts = ["Hello", "The capital of", "one two"]
    alone = [client.completions.create(prompt=prompt, **more).choices[0].text for prompt in prompts]
    batch = client.completions.create(prompt=prompts, **more)
    assert [choice.index for choice in batch.choices] == [0, 1, 2]
    assert [choice.text for choice in batch.choices] == alone
    pair = client.completions.create(prompt=[[13225], [13225, 13225]], n=2, **more)
    assert [choice.index for choice in pair.choices] == [0, 1, 2, 3]


def test_a_streamed_completion(client):
    more = {"model": MODEL, "prompt": "Hello", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**more)
    stream = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **more))
    text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == whole.choices[0].text
    assert stream[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_models(client, server):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert server.get("/v1/models/other").status == 404


def test_health_ready_info_metrics(server):
    assert server.get("/health").status == 200
    assert server.get("/ready").status == 200
    assert MODEL in server.get("/info").text
    metrics = server.metrics()
    assert metrics["process_resident_memory_bytes"] > 1e6
    assert metrics["gossamer_kv_blocks_capacity"] > 0
    assert metrics["gossamer_scheduler_generation_tokens_total"] > 0
    assert metrics["gossamer_api_time_to_first_token_seconds_count"] > 0


def test_request_ids_are_in_header_and_log(server):
    given = server.get("/health").getheader("x-request-id")
    assert given and given != server.get("/health").getheader("x-request-id")
    answer = server.post("/v1/completions", {"model": MODEL, "prompt": "Hello", "max_tokens": 2})
    assert answer.status == 200
    assert answer.getheader("x-request-id") in server.log()


def test_the_openapi_document(server):
    printed = gossamer("openapi")
    assert printed.returncode == 0
    document = json.loads(printed.stdout)
    assert "/v1/chat/completions" in document["paths"], BINARY
