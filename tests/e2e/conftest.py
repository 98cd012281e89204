"""Fixtures: one server for the tests that leave it as they found it, and an SDK client for it."""

import pytest
from openai import OpenAI

from harness import Server


@pytest.fixture(scope="session")
def server():
    # A fixed date, so that a greedy text is the same before and after midnight.
    with Server("--date", "2026-01-01") as server:
        yield server
        server.assert_idle()
        assert server.stop() == 0, server.log()


@pytest.fixture(scope="session")
def client(server):
    return sdk(server)


def sdk(server, key="unused", max_retries=0):
    # No retries, unless a test is about them: it should see the first answer.
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=max_retries, timeout=120)
