"""What the tests of both APIs share: one loop, one tool, one agent."""

import asyncio

from agents import Agent, ModelSettings, Runner, function_tool
from gossamer_server import MODEL, weather

# One loop for all tests, because the SDK keeps one client, and the client its connections.
LOOP = asyncio.Runner()


# As users write it: the SDK makes it strict.
@function_tool
def get_weather(city: str) -> str:
    """Get the current weather for a city."""
    return weather(city)


def agent(**more):
    # Only chat completions are asked for the usage of streams; responses always say it.
    settings = ModelSettings(temperature=0, max_tokens=400, include_usage=True)
    return Agent(
        **{"name": "Assistant", "instructions": "Be brief.", "model": MODEL, "model_settings": settings, **more}
    )


def run(agent, text, **more):
    return LOOP.run(Runner.run(agent, text, **more))
