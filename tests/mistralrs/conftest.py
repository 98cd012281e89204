"""Fixtures: a very small Qwen3 of random weights, made for the session, and a server with `--engine mistralrs` over it.

The process and the raw connections are those of the other end-to-end tests (`tests/e2e/harness.py`).
"""

import pathlib
import sys

import pytest
from openai import OpenAI

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "e2e"))

from harness import Server  # noqa: E402
from make_model import make  # noqa: E402


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "tiny-qwen3")


def flags(model, *more):
    return ["--engine", "mistralrs", "--model", str(model), *more]


@pytest.fixture(scope="session")
def server(model):
    with Server(*flags(model)) as server:
        yield server
        server.assert_idle()
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="session")
def client(server):
    return sdk(server)


def sdk(server):
    # No retries: a test should see the first answer.
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120)
