"""A real `gossamer` process on a free loopback port, and the little HTTP that the OpenAI SDK hides.

Knows the binary's command line, its banner and the names of the metrics; nothing of how the server works.
Invariant: no process outlives its `Server`, and every wait has a bound.
"""

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

BINARY = os.path.abspath(os.environ.get("E2E_BINARY", "target/release/gossamer"))
START_TIMEOUT = 120
MODEL = "gossamer-tiny"


def clean_env(**extra):
    """The environment without anybody's own Gossamer settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GOSSAMER_")}
    env.update(extra)
    return env


def gossamer(*args, env=None, timeout=60):
    """Runs the binary to its end."""
    return subprocess.run(
        [BINARY, *args], env=clean_env(**(env or {})), capture_output=True, text=True, timeout=timeout
    )


class Server:
    """`gossamer serve` with these flags, ready to answer."""

    def __init__(self, *flags, env=None, key=None):
        # Sent with every request; the port may need one, even to say that it is ready.
        self.key = key
        # A process group of its own, so that a Ctrl-C at the terminal reaches only pytest, which then stops us.
        self.process = subprocess.Popen(
            [BINARY, "serve", "--port", "0", *flags],
            env=clean_env(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stdout, self.stderr = [], []
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.port = self._wait_for_port()
            wait_until(lambda: self.get("/ready").status == 200, START_TIMEOUT, "ready")
        except BaseException:
            self.kill()
            raise

    def _read(self, pipe, lines):
        for line in pipe:
            lines.append(line)

    def _wait_for_port(self):
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            found = re.search(r"http://[\d.]+:(\d+)", "".join(self.stdout))
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}: {self.log()}")
            time.sleep(0.02)
        raise AssertionError(f"no address within {START_TIMEOUT} s: {self.log()}")

    def log(self):
        return "".join(self.stdout + self.stderr)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"content-type": "application/json", **(headers or {})}
        if self.key:
            headers.setdefault("authorization", f"Bearer {self.key}")
        # None leaves a header out.
        headers = {name: value for name, value in headers.items() if value is not None}
        try:
            if isinstance(body, dict):
                body = json.dumps(body)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            response.text = response.read().decode()
            return response
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def open(self, path, body):
        """Sends a request on a raw connection and leaves it open."""
        raw = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        connection.sendall(head.encode() + raw)
        return connection

    def metrics(self):
        """Every series of /metrics: its name with labels, and its value."""
        response = self.get("/metrics")
        assert response.status == 200, response.text
        lines = [line for line in response.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def busy(self):
        """Sequences that run or wait."""
        metrics = self.metrics()
        return metrics["gossamer_scheduler_sequences_running"] + metrics["gossamer_scheduler_requests_waiting"]

    def assert_idle(self, within=15):
        """Nothing runs or waits, and every block is free or cached."""

        def nothing_held():
            m = self.metrics()
            return (
                m["gossamer_scheduler_sequences_running"] == 0
                and m["gossamer_scheduler_requests_waiting"] == 0
                and m['gossamer_kv_blocks{state="used"}'] == 0
            )

        wait_until(nothing_held, within, "idle")
        m = self.metrics()
        reusable = m['gossamer_kv_blocks{state="free"}'] + m['gossamer_kv_blocks{state="cached"}']
        assert reusable == m["gossamer_kv_blocks_capacity"]

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=60):
        """The exit code."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return code

    def stop(self, timeout=60):
        self.signal()
        return self.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def wait_until(condition, timeout, what):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {timeout} s"
        time.sleep(0.02)


def read_until(connection, marker, limit=1 << 20):
    """What a raw connection sends, up to and including this marker."""
    data = b""
    while marker not in data:
        part = connection.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
        assert len(data) < limit
    return data


def abandon(connection, reset):
    """Closes a connection as a client does that goes away: politely, or as a killed process."""
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def long_completion(prompt, max_tokens, **more):
    """A completion that takes exactly `max_tokens` tokens, whatever the model would rather do."""
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        **more,
    }
