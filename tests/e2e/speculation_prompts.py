"""Prompts for `crates/engine/examples/speculation.rs`, as tokens: conversations with the embedded model, some of which
make it say again what stands before.

    python tests/e2e/speculation_prompts.py http://127.0.0.1:8000 > prompts.tsv

A running server renders them (`POST /tokenize`). Kinds: `repeat` a text word by word; `count` the same numbers a second
time; `json` objects of one form, turn after turn; `tools` one function, call after call; `plain` questions whose answers
stand nowhere.
"""

import json
import sys
import urllib.request

TEXTS = [
    "the cat and the dog play in the garden and the bird sings in the tree near the house by the river",
    "one red apple two green pears three yellow lemons four blue flowers five white birds",
    "water fire earth wind sun moon star tree river mountain sea sky rain snow cloud",
    "we go to the market and we buy bread milk cheese and fish and then we go home",
]
CITIES = ["Paris", "Rome", "Berlin", "Madrid", "London", "Tokyo", "Lisbon", "Vienna"]
NAMES = ["Anna", "Tom", "Maria", "Peter", "Lisa", "Paul", "Emma", "Max"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def repeat():
    for text in TEXTS:
        yield {"messages": [user(f"Repeat after me: {text}")], "reasoning_effort": "low"}


def count():
    for start in (1, 11, 21, 41):
        numbers = ", ".join(str(number) for number in range(start, start + 40))
        ask = user(f"Count from {start} to {start + 39}.")
        yield {"messages": [ask, assistant(numbers), ask], "reasoning_effort": "low"}


def json_turns():
    for turn in range(4):
        messages = []
        for name, age in zip(NAMES[turn : turn + 4], range(20, 60, 7)):
            messages += [user(f"Reply in JSON with the keys name and age: {name} is {age} years old.")]
            messages += [assistant(json.dumps({"name": name, "age": age}, separators=(",", ":")))]
        yield {"messages": messages[:-1]}


def tools():
    for turn in range(4):
        messages = []
        for number, city in enumerate(CITIES[turn : turn + 4]):
            call = {"name": "get_weather", "arguments": json.dumps({"city": city}, separators=(",", ":"))}
            messages += [user(f"What is the weather in {city}?")]
            messages += [{"role": "assistant", "tool_calls": [{"id": f"call_{number}", "type": "function", "function": call}]}]
            messages += [{"role": "tool", "tool_call_id": f"call_{number}", "content": '{"temperature":21,"sky":"sunny"}'}]
            messages += [assistant(f"It is sunny in {city}, 21 degrees.")]
        yield {"messages": messages + [user(f"What is the weather in {CITIES[turn + 4]}?")], "tools": [WEATHER]}


def plain():
    for question in ("What is 47 + 38?", "What is the capital of Italy?", "List five fruits.", "Who are you?"):
        yield {"messages": [user(question)], "reasoning_effort": "high"}


def main():
    url = sys.argv[1] + "/tokenize"
    for kind in (repeat, count, json_turns, tools, plain):
        for body in kind():
            request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                print(kind.__name__.split("_")[0], json.dumps(json.load(response)["tokens"]), sep="\t")


main()
