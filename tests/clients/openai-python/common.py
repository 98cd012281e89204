"""How a client is set up in all tests."""

from gossamer_server import KEY, URL

# Without retries, so that a test sees the first answer; strict, so that a missing or mistyped field is an exception.
SETTINGS = {"base_url": URL, "api_key": KEY, "max_retries": 0, "timeout": 120, "_strict_response_validation": True}
