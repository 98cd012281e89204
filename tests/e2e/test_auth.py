"""Keys, tokens and limits over the real binary: made by its command line, used by the OpenAI SDK."""

import base64
import hashlib
import hmac
import json
import time

import openai
import pytest

from conftest import sdk
from harness import MODEL, Server, gossamer

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
SECRET = "a secret that only this test knows, with more than 32 bytes"


def create(path, *args, name="e2e"):
    """A new key's text."""
    done = gossamer("keys", "create", "--key-file", path, "--name", name, *args)
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert key.startswith("sk-gsm-") and key not in done.stderr
    return key


def key_id(key):
    return key.split("-")[2]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(secret=SECRET, header=None, **claims):
    header = b64(json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode())
    claims = {"sub": "alice", "aud": "gossamer", "exp": int(time.time()) + 600, "scope": "inference", **claims}
    message = f"{header}.{b64(json.dumps(claims).encode())}"
    return f"{message}.{b64(hmac.digest(secret.encode(), message.encode(), hashlib.sha256))}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key file with an operator's key in it."""
    path = str(tmp_path_factory.mktemp("auth") / "keys.json")
    return path, create(path, "--scopes", "inference,models,status,metrics", name="operator")


@pytest.fixture(scope="module")
def guarded(keys, tmp_path_factory):
    path, operator = keys
    secret = tmp_path_factory.mktemp("jwt") / "secret"
    secret.write_text(SECRET + "\n")
    flags = ["--key-file", path, "--jwt-secret-file", str(secret), "--jwt-audience", "gossamer"]
    with Server(*flags, key=operator) as server:
        yield server
        server.assert_idle()
        assert server.stop() == 0, server.log()


def test_a_key_lets_the_sdk_in_and_another_does_not(guarded, keys):
    key = create(keys[0])
    assert sdk(guarded, key).chat.completions.create(**CHAT).choices
    assert sdk(guarded, key).models.list().data[0].id == MODEL
    for wrong in ["unused", key[:-1] + ("A" if key[-1] != "A" else "B"), "sk-" + "x" * 40]:
        with pytest.raises(openai.AuthenticationError) as raised:
            sdk(guarded, wrong).chat.completions.create(**CHAT)
        assert raised.value.code == "invalid_api_key"
        assert raised.value.response.headers["www-authenticate"].startswith("Bearer ")
        assert wrong not in str(raised.value.body)


def test_without_a_key_only_health_answers(guarded):
    server = guarded
    for method, path in [
        ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/ready"),
        ("GET", "/metrics"), ("GET", "/info"), ("GET", "/docs"), ("GET", "/nothing"), ("GET", "/"),
    ]:
        response = server.request(method, path, CHAT if method == "POST" else None, {"authorization": None})
        assert response.status == 401, (path, response.text)
        assert json.loads(response.text)["error"]["code"] == "invalid_api_key"
    assert server.request("GET", "/health", headers={"authorization": None}).status == 200


def test_a_key_without_the_scope_is_told_which(guarded, keys):
    key = create(keys[0], "--scopes", "models")
    with pytest.raises(openai.PermissionDeniedError) as raised:
        sdk(guarded, key).chat.completions.create(**CHAT)
    assert "Missing scopes: inference" in raised.value.message


def test_a_revoked_key_is_refused_at_once(guarded, keys):
    key = create(keys[0])
    client = sdk(guarded, key)
    assert client.models.list()
    assert gossamer("keys", "revoke", key_id(key), "--key-file", keys[0]).returncode == 0
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        client.models.list()


def test_a_key_expires(guarded, keys):
    client = sdk(guarded, create(keys[0], "--expires-in", "1s"))
    time.sleep(1.1)
    with pytest.raises(openai.AuthenticationError, match="expired"):
        client.models.list()


def test_over_the_limit_the_headers_are_true_and_the_sdk_waits_as_told(guarded, keys):
    limit = 40
    key = create(keys[0], "--requests-per-minute", str(limit))
    client = sdk(guarded, key)
    headers = client.chat.completions.with_raw_response.create(**CHAT).headers
    assert headers["x-ratelimit-limit-requests"] == str(limit)
    assert headers["x-ratelimit-remaining-requests"] == str(limit - 1)
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(limit * 4):
            client.chat.completions.create(**CHAT)
    headers = raised.value.response.headers
    assert raised.value.code == "rate_limit_exceeded" and raised.value.type == "requests"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    # One request is given back each minute / limit.
    wait = int(headers["retry-after-ms"]) / 1000
    assert 0 < wait <= 60 / limit and headers["retry-after"] == str(max(1, -int(-wait // 1)))
    time.sleep(wait)
    assert client.chat.completions.create(**CHAT).choices
    # And the SDK does the same by itself.
    assert sdk(guarded, key, max_retries=3).chat.completions.create(**CHAT).choices
    # Another key of the same server has not been touched.
    assert sdk(guarded, create(keys[0])).chat.completions.create(**CHAT).choices


def test_tokens_per_minute_are_those_of_usage(guarded, keys):
    key = create(keys[0], "--tokens-per-minute", "1000")
    raw = sdk(guarded, key).chat.completions.with_raw_response.create(**CHAT)
    used = raw.parse().usage.total_tokens
    remaining = int(raw.headers["x-ratelimit-remaining-tokens"])
    # 17 come back each second.
    assert 1000 - used <= remaining <= 1000 - used + 60


def test_tokens_of_an_identity_provider(guarded):
    assert sdk(guarded, token()).chat.completions.create(**CHAT).choices
    now = int(time.time())
    payload = token().split(".")[1]
    for wrong in [
        token(secret="another secret of more than 32 bytes, surely"),
        token(exp=now - 3600),
        token(nbf=now + 3600),
        token(aud="another"),
        token(header={"alg": "none"}),
        f"{b64(b'{}')}.{payload}.",
        f"{b64(json.dumps({'alg': 'none'}).encode())}.{payload}.",
    ]:
        with pytest.raises(openai.AuthenticationError):
            sdk(guarded, wrong).chat.completions.create(**CHAT)
    with pytest.raises(openai.PermissionDeniedError):
        sdk(guarded, token(scope="models")).chat.completions.create(**CHAT)


def test_no_secret_is_printed_logged_or_counted(guarded, keys, tmp_path):
    key = create(keys[0])
    sdk(guarded, key).chat.completions.create(**CHAT)
    with pytest.raises(openai.AuthenticationError):
        sdk(guarded, key + "x").models.list()
    good = token()
    sdk(guarded, good).chat.completions.create(**CHAT)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    config = gossamer("config", "--key-file", keys[0], "--jwt-secret-file", str(secret))
    assert config.returncode == 0
    listed = gossamer("keys", "list", "--key-file", keys[0]).stdout
    assert key_id(key) in listed
    with open(keys[0]) as file:
        seen = [guarded.log(), guarded.get("/metrics").text, config.stdout, listed, file.read()]
    for text in seen:
        for hidden in [key.split("-")[3], good.split(".")[2], SECRET]:
            assert hidden not in text
    # Who it was is in the log, by what is no secret.
    assert f"key:{key_id(key)}" in guarded.log() and "jwt:alice" in guarded.log()


def test_another_address_needs_keys_or_a_word(keys, tmp_path):
    refused = gossamer("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    for word in ["gossamer keys create", "--key-file", "--insecure"]:
        assert word in refused.stderr, refused.stderr
    with Server("--host", "0.0.0.0", "--insecure") as server:
        assert server.get("/v1/models").status == 200
    with Server("--host", "0.0.0.0", "--key-file", keys[0], key=keys[1]) as server:
        assert server.get("/v1/models").status == 200
        assert server.get("/v1/models", headers={"authorization": None}).status == 401

    missing = gossamer("serve", "--port", "0", "--key-file", str(tmp_path / "none.json"))
    assert missing.returncode == 2 and "gossamer keys create" in missing.stderr


def test_prometheus_needs_no_key_where_that_is_said(keys):
    with Server("--key-file", keys[0], "--anonymous-scopes", "metrics", key=keys[1]) as server:
        assert server.get("/metrics", headers={"authorization": None}).status == 200
        assert server.get("/info", headers={"authorization": None}).status == 401


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["create", "--name", "x"], ["--key-file"]),
        (["create", "--name", "", "--key-file", "FILE"], ["1 to 64 characters"]),
        (["create", "--name", "x", "--scopes", "all", "--key-file", "FILE"], ["no scope \"all\"", "inference"]),
        (["create", "--name", "x", "--expires-in", "1w", "--key-file", "FILE"], ["d, h, m or s"]),
        (["create", "--name", "x", "--requests-per-minute", "0", "--key-file", "FILE"], ["requests-per-minute"]),
        (["revoke", "nobody", "--key-file", "FILE"], ["no key with the id"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_mistakes_on_the_command_line(args, words, keys):
    done = gossamer("keys", *[keys[0] if arg == "FILE" else arg for arg in args])
    assert done.returncode == 2 and done.stdout == "", done.stdout
    for word in words:
        assert word in done.stderr, done.stderr
