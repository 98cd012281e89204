"""What constraints cost: tokens per second at 16 sequences with and without, and gaps between tokens while schemas compile.

`make bench-constraints`, or `E2E_BINARY=... python tests/e2e/bench_constraints.py [ROUNDS]`. Kinds of requests alternate
within each round, so that whatever else the machine does falls on all of them alike; the medians are compared.
"""

import http.client
import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import MODEL, Server

SEQUENCES = 16
TOKENS = 400

# Every request takes exactly TOKENS tokens: none may stop before.
FREE = {"constrain_headers": False}
WORDS = {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 1000}
NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9999}, "minItems": 1000}
KINDS = {
    "free": FREE,
    # Headers and control tokens are held, which is the default.
    "headers": {"constrain_headers": True},
    # A grammar that the model hardly ever leaves by itself: what asking costs.
    "grammar, followed": {"guided_regex": r"(?s:.*)", "max_reasoning_tokens": 0},
    # Grammars that the embedded model, which has learnt to write short sentences, leaves at every other token.
    "schema, fought: strings": {"guided_json": WORDS, "max_reasoning_tokens": 0},
    "schema, fought: numbers": {"guided_json": NUMBERS, "max_reasoning_tokens": 0},
}


def ask(server, seed, more):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 1,
        "seed": seed,
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,
        **more,
    }
    response = server.post("/v1/chat/completions", body, timeout=600)
    assert response.status == 200, response.text
    return json.loads(response.text)["usage"]["completion_tokens"]


def tokens_per_second(server, round_, more):
    start = time.monotonic()
    with ThreadPoolExecutor(SEQUENCES) as pool:
        tokens = sum(pool.map(lambda i: ask(server, 1000 * round_ + i, more), range(SEQUENCES)))
    return tokens / (time.monotonic() - start)


def draws(server):
    return {
        name.removeprefix("gossamer_constrained_draws_total"): value
        for name, value in server.metrics().items()
        if name.startswith("gossamer_constrained_draws_total")
    }


def throughput(server, rounds):
    rates = {kind: [] for kind in KINDS}
    for more in KINDS.values():
        tokens_per_second(server, 0, more)
    for round_ in range(1, rounds + 1):
        for kind, more in KINDS.items():
            rates[kind].append(tokens_per_second(server, round_, more))
    base = statistics.median(rates["free"])
    for kind, found in rates.items():
        median = statistics.median(found)
        # Round by round: neighbours in time.
        ratio = statistics.median(one / free for one, free in zip(found, rates["free"]))
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"{kind:24} {median:7.0f} tokens/s ({spread}), {100 * (ratio - 1):+5.1f}% of free, round by round")
    assert base > 0
    print("draws:", draws(server))


def gaps(server, seconds, compile_schemas):
    """Gaps between tokens of one stream, in milliseconds, and how many schemas were compiled meanwhile."""
    done = threading.Event()
    compiled = [0]

    def compile_them():
        while not done.is_set():
            compiled[0] += 1
            # A schema that nobody has asked for yet, of some size.
            properties = {f"field_{compiled[0]}_{i}": {"enum": [f"v{compiled[0]}{j}" for j in range(10)]} for i in range(60)}
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 1,
                "guided_json": {"type": "object", "properties": properties, "required": list(properties)},
            }
            assert server.post("/v1/chat/completions", body, timeout=60).status == 200

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": MODEL, "prompt": "The", "max_tokens": 3900, "ignore_eos": True, "stream": True, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    other = threading.Thread(target=compile_them)
    if compile_schemas:
        other.start()
    found, last, end = [], None, time.monotonic() + seconds
    while time.monotonic() < end:
        line = response.readline()
        if line.startswith(b"data: [DONE]") or not line:
            break
        if line.startswith(b"data:"):
            now = time.monotonic()
            if last is not None:
                found.append(1000 * (now - last))
            last = now
    done.set()
    if compile_schemas:
        other.join()
    connection.close()
    return sorted(found), compiled[0]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with Server() as server:
        throughput(server, rounds)
        for compile_schemas in (False, True, False, True):
            found, compiled = gaps(server, 8, compile_schemas)
            at = lambda share: found[int(share * (len(found) - 1))]
            print(
                f"{compiled:4} schemas compiled beside one stream: gap p50 {at(0.5):.2f}, p99 {at(0.99):.2f}, "
                f"max {found[-1]:.2f} ms, {len(found)} tokens"
            )
        metrics = server.metrics()
        total, count = (metrics[f"gossamer_grammar_compile_seconds_{part}"] for part in ("sum", "count"))
        print(f"compiling took {1000 * total / count:.1f} ms on average, {count:.0f} times")


if __name__ == "__main__":
    main()
