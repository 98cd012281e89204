"""`gossamer pull` and `serve --model OWNER/NAME` against a hub on this machine that has the embedded model."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import zstandard

from harness import BINARY, Server, clean_env, gossamer
from hub import COMMIT, Hub

REPO = "acme/gpt-oss-tiny"
TINY = Path(__file__).parents[2] / "models" / "tiny"
NEEDED = ["config.json", "generation_config.json", "model.safetensors"]


@pytest.fixture(scope="session")
def files():
    weights = zstandard.ZstdDecompressor().stream_reader((TINY / "model.safetensors.zst").read_bytes()).read()
    return {
        "README.md": b"# Tiny",
        "config.json": (TINY / "config.json").read_bytes(),
        "generation_config.json": (TINY / "generation_config.json").read_bytes(),
        "model.safetensors": weights,
        "metal/model.bin": b"x" * 1000,
        "original/model.safetensors": b"x" * 1000,
        "tokenizer.json": b"{}",
    }


@pytest.fixture
def hub(files):
    with Hub(REPO, dict(files)) as hub:
        yield hub


def environment(hub, home, **more):
    names = ("HF_HOME", "HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT")
    env = {name: value for name, value in clean_env().items() if name not in names}
    return {**env, "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:1", "HF_HOME": str(home), **more}


def pull(env, repo=REPO):
    return subprocess.run([BINARY, "pull", repo], env=env, capture_output=True, text=True, timeout=120)


def folder_of(home):
    return home / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT


def test_a_model_is_pulled_once_and_served_without_a_network(hub, files, tmp_path):
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 0, got.stderr
    folder = folder_of(tmp_path)
    assert got.stdout == f"{folder}\n"
    # What loading does not need is not downloaded.
    assert sorted(path.name for path in folder.iterdir()) == NEEDED
    for name in NEEDED:
        assert (folder / name).read_bytes() == files[name]

    before = len(hub.requests)
    assert pull(environment(hub, tmp_path)).stdout == got.stdout
    assert [path for path, *_ in hub.requests[before:]] == [f"/api/models/{REPO}/revision/main"]

    # Other tools keep no reference by commit.
    (folder.parents[1] / "refs" / COMMIT).unlink()
    before = len(hub.requests)
    assert pull(environment(hub, tmp_path)).stdout == got.stdout
    assert len(hub.requests) == before + 1

    with Server("--model", REPO, "--kv-cache-bytes", "64MiB", env=environment(None, tmp_path, HF_HUB_OFFLINE="1")) as server:
        assert json.loads(server.get(f"/v1/models/{REPO}").text)["id"] == REPO
        body = {"model": REPO, "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
        answer = json.loads(server.post("/v1/chat/completions", body).text)
        assert "Paris" in answer["choices"][0]["message"]["content"], answer


def test_serve_downloads_what_is_not_there(hub, tmp_path):
    with Server("--model", REPO, "--model-name", "mine", env=environment(hub, tmp_path)) as server:
        assert json.loads(server.get("/v1/models").text)["data"][0]["id"] == "mine"
    assert hub.starts("model.safetensors") == [0]


def test_a_cut_connection_goes_on_where_it_was(hub, files, tmp_path):
    hub.cuts["model.safetensors"] = 40 << 20
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 0, got.stderr
    assert (folder_of(tmp_path) / "model.safetensors").read_bytes() == files["model.safetensors"]
    first, second = hub.starts("model.safetensors")
    assert first == 0 and 30 << 20 < second <= 40 << 20


def test_a_killed_download_goes_on_where_it_was(hub, files, tmp_path):
    hub.pause = 0.02
    process = subprocess.Popen([BINARY, "pull", REPO], env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)
    blobs = folder_of(tmp_path).parents[1] / "blobs"
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 20 << 20 for part in blobs.glob("*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What is not complete is not served.
    offline = gossamer("serve", "--port", "0", "--model", REPO, env=environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert offline.returncode == 1 and f"{REPO} is not complete" in offline.stderr, offline.stderr
    hub.pause = 0.0
    assert pull(environment(hub, tmp_path)).returncode == 0
    assert hub.starts("model.safetensors")[1] > 20 << 20
    assert (folder_of(tmp_path) / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_terminal_shows_a_bar(hub, tmp_path):
    hub.pause = 0.02
    leader, follower = pty.openpty()
    process = subprocess.Popen([BINARY, "pull", REPO], env=environment(hub, tmp_path), stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert process.wait() == 0
    counts = re.findall(rb"downloading .*?([\d.]+) MiB of 99\.\d+ MiB", shown)
    assert len(set(counts)) > 2, shown[-2000:]


def test_a_token_opens_what_is_gated(hub, tmp_path):
    hub.token = "hf_right"
    for token, status in (("", 1), ("hf_wrong", 1), ("hf_right", 0)):
        got = pull(environment(hub, tmp_path / (token or "none"), HF_TOKEN=token))
        assert got.returncode == status, got.stderr
        if status:
            assert f"accept them at {hub.url}/{REPO}" in got.stderr and "HF_TOKEN" in got.stderr, got.stderr
    assert hub.requests[-1][2] == "Bearer hf_right"


def test_what_cannot_be_had_is_said_plainly(hub, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    got = pull(environment(hub, tmp_path) | {"HF_ENDPOINT": nowhere})
    assert got.returncode == 1 and f"cannot reach {nowhere}" in got.stderr, got.stderr

    got = pull(environment(hub, tmp_path), "acme/nothing")
    assert got.returncode == 1 and "there is no model acme/nothing" in got.stderr, got.stderr
    got = pull(environment(hub, tmp_path), f"{REPO}@v2")
    assert got.returncode == 1 and "a revision v2" in got.stderr, got.stderr
    served = gossamer("serve", "--port", "0", "--model", "acme/nothing", env=environment(hub, tmp_path))
    assert served.returncode == 1 and "nor is there such a folder here" in served.stderr, served.stderr

    hub.token, hub.private = "hf_right", True
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 1 and "or it is private" in got.stderr, got.stderr
    hub.token = None

    hub.files["config.json"] = b'{"model_type": "llama"}'
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 1 and 'only "gpt_oss" runs here' in got.stderr, got.stderr
    # Known before the weights were asked for.
    assert hub.starts("model.safetensors") == []
    del hub.files["config.json"]
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 1 and "it has no config.json" in got.stderr, got.stderr

    got = pull(environment(hub, tmp_path), "not a name")
    assert got.returncode == 2 and "OWNER/NAME" in got.stderr, got.stderr


def test_a_file_that_is_not_as_long_as_announced_is_not_kept(hub, tmp_path):
    hub.listed["generation_config.json"] = len(hub.files["generation_config.json"]) + 1
    got = pull(environment(hub, tmp_path))
    assert got.returncode == 1 and "was deleted; try again" in got.stderr, got.stderr
    assert not (folder_of(tmp_path) / "generation_config.json").exists()
