"""What constraints cost: tokens per second at 16 sequences with and without, and gaps between tokens while schemas compile.

`make bench-constraints`, or `E2E_BINARY=... python tests/e2e/bench_constraints.py [ROUNDS]`. Both ways alternate,
so that whatever else the machine does falls on both alike. What counts is the median of the rounds' ratios, with the
interval that holds it 19 times out of 20: single rounds differ by a third on a shared machine.
"""

import http.client
import json
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import MODEL, Server

SEQUENCES = 16
# Requests of one measurement.
REQUESTS = 96
# Of a text that may not end before.
TOKENS = 400

LONG = {"max_reasoning_tokens": 0, "min_tokens": TOKENS, "max_tokens": TOKENS}
WORDS = {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 1000}
CITY = {"type": "object", "properties": {"country": {"type": "string"}, "city": {"type": "string"}}}
CITY |= {"required": list(CITY["properties"]), "additionalProperties": False}


def weather(strict):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
    function = {"name": "get_weather", "description": "The weather of a city.", "parameters": parameters, "strict": strict}
    return {"tools": [{"type": "function", "function": function}]}


FRANCE = "What is the capital of France?"
IN_JSON = f"Answer in JSON with the keys country and city. {FRANCE}"
# What is asked, how many times, without and with what is measured. All but the last are turns as the model writes them by
# itself, so that both ways write the same text, but for a turn in a hundred.
PAIRS = {
    "headers of short turns": (FRANCE, REQUESTS, {"constrain_headers": False}, {}),
    "headers, tools": ("What is the weather in Paris?", REQUESTS, weather(False) | {"constrain_headers": False}, weather(False)),
    "a strict tool": ("What is the weather in Paris?", REQUESTS, weather(False), weather(True)),
    "a JSON schema": (IN_JSON, REQUESTS, {}, {"guided_json": CITY}),
    "a regex, 400 tokens": (FRANCE, SEQUENCES, LONG, LONG | {"guided_regex": "(?s:.*)"}),
    # A grammar that the embedded model, which has learnt to write short sentences, leaves at every eighth token.
    "fought: a schema of strings": (FRANCE, SEQUENCES, LONG, LONG | {"guided_json": WORDS}),
}


def ask(server, prompt, seed, more):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 1,
        "seed": seed,
        "max_tokens": TOKENS,
        "reasoning_effort": "high",
        **more,
    }
    response = server.post("/v1/chat/completions", body, timeout=600)
    assert response.status == 200, response.text
    answer = json.loads(response.text)
    return answer["usage"]["completion_tokens"], answer["choices"][0]["message"]


def measure(server, prompt, count, more, round_):
    """Tokens per second, the server's CPU time in seconds per token, and what was answered."""
    start, cpu = time.monotonic(), cpu_seconds(server)
    with ThreadPoolExecutor(SEQUENCES) as pool:
        answers = list(pool.map(lambda i: ask(server, prompt, count * round_ + i, more), range(count)))
    tokens = sum(tokens for tokens, _ in answers)
    texts = [{**message, "tool_calls": [call["function"] for call in message.get("tool_calls") or []]} for _, message in answers]
    return tokens / (time.monotonic() - start), (cpu_seconds(server) - cpu) / tokens, texts


def cpu_seconds(server):
    """What the server has computed so far, on all cores."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median_within(values):
    """The median, and order statistics around it which hold the true one with a probability of 95%."""
    values, n = sorted(values), len(values)
    below = max(0, int((n - 1.96 * n**0.5) / 2))
    return statistics.median(values), values[below], values[n - 1 - below]


def draws(server):
    return {
        name.removeprefix("gossamer_constrained_draws_total"): value
        for name, value in server.metrics().items()
        if name.startswith("gossamer_constrained_draws_total")
    }


def throughput(server, rounds):
    for name, (prompt, count, without, held) in PAIRS.items():
        measure(server, prompt, count, without, 0), measure(server, prompt, count, held, 0)
        rates, work, same, all_rates = [], [], 0, []
        for round_ in range(1, rounds + 1):
            # In turns: who comes first changes.
            ways = [without, held] if round_ % 2 else [held, without]
            found = [measure(server, prompt, count, way, round_) for way in ways]
            (rate, cpu, texts), (rate_held, cpu_held, texts_held) = found if round_ % 2 else found[::-1]
            rates.append(100 * (rate_held / rate - 1))
            work.append(100 * (cpu_held / cpu - 1))
            all_rates.append(rate)
            same += sum(one == other for one, other in zip(texts, texts_held))
        print(
            f"{name:28} {statistics.median(all_rates):6.0f} tokens/s without; with: "
            "{:+5.1f}% ({:+.1f} to {:+.1f}); CPU time {:+5.1f}% ({:+.1f} to {:+.1f}); "
            "{:.0f}% of the texts the same".format(
                *median_within(rates), *median_within(work), 100 * same / (rounds * count)
            ),
            flush=True,
        )
    print("draws:", draws(server))


def ask_for_schemas(port, done, asked, new):
    """Asks for answers by a schema of some size, 30 times in a second: one that nobody has asked for yet, or always the same.
    In a process of its own: two threads of Python wait for each other for longer than what is measured."""
    first = int(1000 * time.time())
    while not done.is_set():
        number = first + asked.value if new else 0
        asked.value += 1
        properties = {f"field_{number}_{i}": {"enum": [f"v{number}{j}" for j in range(10)]} for i in range(60)}
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
            "guided_json": {"type": "object", "properties": properties, "required": list(properties)},
        }
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
        connection.close()
        time.sleep(max(0, 1 / 30 - (time.time() - first / 1000) % (1 / 30)))


def gaps(server, seconds, beside):
    """Gaps between tokens of one stream, in milliseconds, and how many requests there were beside it."""
    done, asked = multiprocessing.Event(), multiprocessing.Value("i", 0)
    other = multiprocessing.Process(target=ask_for_schemas, args=(server.port, done, asked, beside == "new schemas"))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": MODEL, "prompt": "The", "max_tokens": 3900, "ignore_eos": True, "stream": True, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if beside != "nothing":
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
    if beside != "nothing":
        other.join()
    connection.close()
    return found, asked.value


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with Server() as server:
        throughput(server, rounds)
        # The same requests with a schema that is known already show what the requests themselves cost.
        kinds = ("nothing", "a known schema", "new schemas")
        found, asked = {kind: [] for kind in kinds}, dict.fromkeys(kinds, 0)
        for _ in range(8):
            for kind in kinds:
                some, count = gaps(server, 8, kind)
                found[kind] += some
                asked[kind] += count
        for kind in kinds:
            values = sorted(found[kind])
            shares = ((name, values[int(share * (len(values) - 1))]) for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)))
            print(
                f"one stream beside {kind} ({asked[kind]} requests): gaps between {len(values)} tokens "
                + ", ".join(f"{name} {value:.2f}" for name, value in shares)
                + f", mean {statistics.mean(values):.3f} ms"
            )
        metrics = server.metrics()
        total, count = (metrics[f"gossamer_grammar_compile_seconds_{part}"] for part in ("sum", "count"))
        print(f"compiling took {1000 * total / count:.1f} ms on average, {count:.0f} times")


if __name__ == "__main__":
    main()
