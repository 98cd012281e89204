"""Many clients at once: same texts as alone, nothing left behind when they go away, and a pool that is far too small."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import sdk
from harness import MODEL, Server, abandon, long_completion, read_until, wait_until

WORDS = ["river", "table", "green", "stone", "seven", "garden"]


def prompts():
    """64 greedy requests of four to about four hundred words."""
    return [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(4 + (i * 37) % 400)) for i in range(64)]


def streamed(client, prompt):
    stream = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=24, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def test_64_streams_give_the_texts_that_they_give_alone(server, client):
    alone = [streamed(client, prompt) for prompt in prompts()]
    with ThreadPoolExecutor(64) as pool:
        crowd = list(pool.map(lambda prompt: streamed(client, prompt), prompts()))
    assert crowd == alone
    server.assert_idle()


def test_the_texts_do_not_depend_on_cache_budget_or_block_size(client):
    """The same prompts on a server that caches nothing and cuts every prompt into small chunks."""
    flags = ["--enable-prefix-caching", "false", "--max-num-batched-tokens", "64", "--block-size", "8"]
    chosen = prompts()[::8]
    alone = [streamed(client, prompt) for prompt in chosen]
    with Server(*flags) as server, ThreadPoolExecutor(8) as pool:
        other = sdk(server)
        assert list(pool.map(lambda prompt: streamed(other, prompt), chosen)) == alone
        server.assert_idle()


@pytest.mark.parametrize("reset", [False, True])
def test_clients_that_go_away_leave_nothing_behind(server, reset):
    body = long_completion("Hello", 1500)
    before = server.metrics()["gossamer_api_requests_cancelled_total"]
    streams = [server.open("/v1/completions", {**body, "stream": True}) for _ in range(32)]
    waiting = [server.open("/v1/completions", body) for _ in range(32)]
    for stream in streams:
        read_until(stream, b"data: ")
    wait_until(lambda: server.busy() == 64, 30, "all accepted")
    for connection in streams + waiting:
        abandon(connection, reset)
    server.assert_idle()
    assert server.metrics()["gossamer_api_requests_cancelled_total"] == before + 64


def test_clients_that_go_away_while_queued_and_in_prefill():
    """One runs, the others never start; a long prompt is cancelled between its chunks."""
    with Server("--max-num-seqs", "1", "--max-num-batched-tokens", "16") as server:
        busy = server.open("/v1/completions", long_completion([13225] * 3000, 100))
        wait_until(lambda: server.busy() == 1, 30, "running")
        queued = [server.open("/v1/completions", long_completion("Hello", 10, stream=i % 2 == 0)) for i in range(8)]
        wait_until(lambda: server.busy() == 9, 10, "queued")
        for connection in queued:
            abandon(connection, reset=True)
        wait_until(lambda: server.busy() == 1, 15, "rid of the queue")
        abandon(busy, reset=True)
        server.assert_idle()


def small_pool(server, blocks, block_size=16):
    """The flags for a pool of so many blocks, by the size of a block on a running server."""
    metrics = server.metrics()
    block_bytes = metrics["gossamer_kv_pool_bytes"] / metrics["gossamer_kv_blocks_capacity"]
    return ["--kv-cache-bytes", str(int(block_bytes * blocks)), "--block-size", str(block_size)]


def test_a_pool_of_a_few_blocks_serves_20_clients_by_preemption(server, client):
    def body(i):
        return long_completion(" ".join(WORDS[(i + j) % len(WORDS)] for j in range(24 + i)), 100)

    alone = [client.post("/completions", body=body(i), cast_to=object)["choices"][0]["text"] for i in range(20)]
    # 256 tokens, each in a block of both KV groups.
    with Server(*small_pool(server, 32)) as small, ThreadPoolExecutor(20) as pool:
        assert small.metrics()["gossamer_kv_blocks_capacity"] == 32
        other = sdk(small)
        crowd = list(pool.map(lambda i: other.post("/completions", body=body(i), cast_to=object), range(20)))
        assert [answer["choices"][0]["text"] for answer in crowd] == alone
        assert all(answer["usage"]["completion_tokens"] == 100 for answer in crowd)
        assert small.metrics()["gossamer_scheduler_preemptions_total"] > 0
        small.assert_idle()


def test_what_can_never_fit_is_refused_at_once_also_when_the_pool_is_full(server):
    with Server(*small_pool(server, 16)) as small:  # 128 tokens: blocks of both KV groups
        runs = small.open("/v1/completions", long_completion("Hello", 120, stream=True))
        read_until(runs, b"data: ")
        for body in (long_completion([13225] * 200, 1), long_completion([13225] * 100, 100)):
            refused = small.post("/v1/completions", body, timeout=5)
            assert refused.status == 400 and "context_length_exceeded" in refused.text
        read_until(runs, b"[DONE]")
        runs.close()
        exact = small.post("/v1/completions", long_completion([13225] * 100, 28))
        assert exact.status == 200, exact.text
        small.assert_idle()
