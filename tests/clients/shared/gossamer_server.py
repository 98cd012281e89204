"""Where the server is, and the few things that the embedded model can do, for all Python suites.

Knows no client. The runner (`run.py`) starts the server and sets the variables.
"""

import json
import os
import socket

URL = os.environ["CLIENTS_URL"] + "/v1"
MODEL = os.environ["CLIENTS_MODEL"]
KEY = os.environ["CLIENTS_KEY"]
# Good for one request per minute.
LIMITED_KEY = os.environ["CLIENTS_LIMITED_KEY"]
WRONG_KEY = "sk-gossamer-no-such-key"

CAPITAL = "What is the capital of France?"
ASK_WEATHER = "What is the weather in Paris?"
ASK_SUM = "What is 17 + 25?"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def weather(city: str) -> str:
    """The result that a tool gives to the model."""
    assert city == "Paris", city
    return json.dumps({"temperature": 21, "condition": "sunny"})


def is_weather_answer(text: str) -> bool:
    """Whether the model told what `weather` said, and nothing of harmony leaked."""
    return "21" in text and "sunny" in text and "<|" not in text


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def closed_port_url() -> str:
    """A URL that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
