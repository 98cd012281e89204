"""Starting and stopping: what is refused, what is said, and what a signal does to running requests."""

import json
import os
import signal
import socket
import time

import pytest

from harness import MODEL, Server, gossamer, long_completion, read_until


def test_the_banner_says_what_was_loaded(server):
    banner = "".join(server.stdout)
    for text in ("GptOssForCausalLM", "parameters", "kernels", "threads", "KV cache", "sequences of", server.url):
        assert text in banner, banner


def test_sigterm_lets_a_running_stream_finish_and_exits_0():
    with Server() as server:
        stream = server.open("/v1/completions", long_completion("Hello", 400, stream=True))
        head = read_until(stream, b"data: ")
        server.signal()
        body = head + read_until(stream, b"data: [DONE]")
        assert b'"error"' not in body
        stream.close()
        assert server.wait(30) == 0, server.log()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_after_the_timeout_a_stream_ends_with_an_error_and_the_exit_is_0():
    with Server("--shutdown-timeout-ms", "300", "--max-num-batched-tokens", "64") as server:
        stream = server.open("/v1/completions", long_completion("Hello", 100_000, stream=True))
        read_until(stream, b"data: ")
        start = time.monotonic()
        server.signal()
        rest = b""
        while part := stream.recv(65536):
            rest += part
        assert server.wait(30) == 0, server.log()
        assert time.monotonic() - start < 15
        assert b'"error"' in rest and b"[DONE]" not in rest


def test_a_second_signal_stops_at_once():
    with Server("--shutdown-timeout-ms", "600000") as server:
        stream = server.open("/v1/completions", long_completion("Hello", 100_000, stream=True))
        read_until(stream, b"data: ")
        server.signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.signal(signal.SIGINT)
        assert server.wait(15) != 0
        stream.close()


def test_an_idle_server_stops_quickly():
    with Server() as server:
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 10


def test_a_taken_port_is_an_error_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = gossamer("serve", "--port", str(port))
        assert result.returncode == 1
        assert str(port) in result.stderr and "panicked" not in result.stderr


def write_model(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))
    # A weight file that cannot be read: the refusal has to come before anybody tries.
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    return str(folder)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, "Qwen3ForCausalLM"),
    ],
)
def test_a_folder_that_is_not_gpt_oss_is_refused_by_name(tmp_path, config, found):
    result = gossamer("serve", "--port", "0", "--model", write_model(tmp_path, **config))
    assert result.returncode == 1
    assert found in result.stderr and "GptOssForCausalLM" in result.stderr, result.stderr
    assert "panicked" not in result.stderr and "RUST_BACKTRACE" not in result.stderr


def test_an_engine_that_is_not_in_this_build_says_how_to_build_it(tmp_path):
    run = gossamer("serve", "--port", "0", "--engine", "mistralrs", "--model", str(tmp_path))
    assert run.returncode == 2
    assert "cargo build --release -p gossamer-gateway --features mistralrs" in run.stderr


def test_a_folder_that_is_not_there(tmp_path):
    missing = str(tmp_path / "nothing")
    result = gossamer("serve", "--port", "0", "--model", missing)
    assert result.returncode == 1 and missing in result.stderr and "panicked" not in result.stderr


def test_testing_never_loads_anything_but_the_tiny_model(tmp_path):
    folder = write_model(tmp_path, architectures=["GptOssForCausalLM"], model_type="gpt_oss")
    result = gossamer("serve", "--port", "0", "--model", folder, env={"GOSSAMER_ENV": "testing"})
    assert result.returncode == 2
    assert "testing" in result.stderr and folder in result.stderr
    result = gossamer("serve", env={"GOSSAMER_ENV": "testing", "GOSSAMER_MODEL": folder})
    assert result.returncode == 2 and "GOSSAMER_MODEL" in result.stderr
    with Server(env={"GOSSAMER_ENV": "testing"}) as server:
        assert server.post("/v1/completions", {"model": MODEL, "prompt": "Hello"}).status == 200


def test_configuration_comes_from_file_then_environment_then_flags(tmp_path):
    file = tmp_path / "gossamer.toml"
    file.write_text('[scheduler]\nmax_num_seqs = 5\nmax_waiting = 6\n\n[model]\nname = "from-file"\n')
    env = {"GOSSAMER_CONFIG": str(file), "GOSSAMER_MAX_WAITING": "7", "GOSSAMER_MAX_NUM_SEQS": "8"}
    result = gossamer("config", "--max-num-seqs", "9", env=env)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["scheduler.max_num_seqs", "=", "9", "#", "flag", "--max-num-seqs"] in lines
    assert ["scheduler.max_waiting", "=", "7", "#", "environment", "GOSSAMER_MAX_WAITING"] in lines
    assert ["model.name", "=", '"from-file"', "#", f"{file}:6"] in lines
    with Server("--config", str(file), "--model-aliases", "gpt-oss-20b,other") as server:
        for name in ("from-file", "gpt-oss-20b", "other"):
            assert server.post("/v1/completions", {"model": name, "prompt": "Hello"}).status == 200
        assert server.post("/v1/completions", {"model": MODEL, "prompt": "Hello"}).status == 404


@pytest.mark.parametrize(
    ("args", "file", "env", "words"),
    [
        (["--port", "99999"], None, {}, ["--port", "99999", "65535"]),
        ([], "[scheduler]\nmax_num_seq = 3\n", {}, [":2", "max_num_seq", "scheduler.max_num_seqs"]),
        ([], "[engine]\nkv_cache_bytes = true\n", {}, [":2", "engine.kv_cache_bytes", "GiB"]),
        ([], "port = \n", {}, ["TOML"]),
        ([], None, {"GOSSAMER_PROT": "1"}, ["GOSSAMER_PROT", "GOSSAMER_PORT"]),
        ([], None, {"GOSSAMER_LOG_FORMAT": "xml"}, ["GOSSAMER_LOG_FORMAT", "xml", "json"]),
        ([], None, {"GOSSAMER_ENV": "prod"}, ["GOSSAMER_ENV", "prod", "production"]),
        (["--config", "no/such/file.toml"], None, {}, ["no/such/file.toml"]),
    ],
)
@pytest.mark.parametrize("verb", ["serve", "config"])
def test_a_bad_configuration_is_one_message_that_names_it(tmp_path, verb, args, file, env, words):
    if file is not None:
        path = tmp_path / "bad.toml"
        path.write_text(file)
        args = ["--config", str(path), *args]
    result = gossamer(verb, *args, env=env)
    assert result.returncode == 2 and not result.stdout
    assert all(word in result.stderr for word in words), result.stderr
    assert "panicked" not in result.stderr


def test_the_committed_configuration_serves():
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "config")
    for name in ("gossamer.toml", "testing.toml"):
        with Server("--config", os.path.join(folder, name)) as server:
            assert server.get("/ready").status == 200


def test_logs_are_json_when_asked_for():
    with Server("--log-format", "json") as server:
        answer = server.post("/v1/completions", {"model": MODEL, "prompt": "Hello", "max_tokens": 2})
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.stderr]
        assert any(answer.getheader("x-request-id") in json.dumps(line) for line in lines)
