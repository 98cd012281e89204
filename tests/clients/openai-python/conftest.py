"""A client as the tests of both APIs use it."""

import pytest
from common import SETTINGS
from openai import OpenAI


@pytest.fixture
def client():
    with OpenAI(**SETTINGS) as client:
        yield client
