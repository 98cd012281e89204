"""Runs programs and watches the machine while they run: wall time, peak memory, and how busy everybody else was.

Knows /proc and nothing of what is measured. Invariant: every process started here has ended when its `with` or call ends.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# Seconds that a server may take to load a model, and a program to measure.
START_LIMIT = 1200
RUN_LIMIT = 7200


def cpu_name() -> str:
    """As /proc/cpuinfo calls it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def memory_gb(field: str) -> float:
    """A line of /proc/meminfo, in GB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise KeyError(field)


def busy_seconds() -> float:
    """CPU seconds that all processes have used since the machine started; steal counts, idle and iowait do not."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / TICKS


def own_seconds(pid: int) -> float:
    """CPU seconds of a process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def peak_rss(pid: int) -> int:
    """Most resident bytes of a process so far, mapped files included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Watch:
    """How much of the machine others used between two moments."""

    def __init__(self):
        self.wall, self.busy = time.monotonic(), busy_seconds()

    def others(self, own: float) -> float:
        """Share of all cores, 0 to 1, used by anybody but us, who used `own` CPU seconds."""
        wall = time.monotonic() - self.wall
        used = busy_seconds() - self.busy - own
        return max(0.0, used / (wall * os.cpu_count())) if wall > 0 else 0.0


@dataclasses.dataclass
class Finished:
    """A program that ran to its end."""

    output: str
    peak_rss: int
    others: float


def run(command: list[str], log: Path) -> Finished:
    """Runs a program; its standard output comes back, its standard error goes to `log`."""
    watch = Watch()
    out = log.with_suffix(".out")
    with log.open("w") as errors, out.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            deadline = time.monotonic() + RUN_LIMIT
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not end within {RUN_LIMIT} s; see {log}")
                time.sleep(0.05)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; see {log}")
    return Finished(out.read_text(), usage.ru_maxrss * 1024, watch.others(usage.ru_utime + usage.ru_stime))


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A server that is up inside `with` and gone after it."""

    def __init__(self, command: list[str], port: int, health: str, log: Path):
        self.command, self.log, self.health = command, log, health
        self.url = f"http://127.0.0.1:{port}"
        self.peak_rss = 0
        self.load_seconds = 0.0

    def __enter__(self) -> "Server":
        start = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        try:
            while True:
                if self.process.poll() is not None:
                    raise SystemExit(f"{self.command[0]} ended with {self.process.returncode}; see {self.log}")
                if time.monotonic() - start > START_LIMIT:
                    raise SystemExit(f"{self.command[0]} was not ready within {START_LIMIT} s; see {self.log}")
                try:
                    self.get(self.health)
                    break
                except OSError:
                    time.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        self.load_seconds = time.monotonic() - start
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Notes the peak memory and ends the process."""
        if self.process.poll() is None:
            self.peak_rss = peak_rss(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def cpu_seconds(self) -> float:
        """CPU seconds so far."""
        return own_seconds(self.process.pid)

    def get(self, path: str) -> str:
        """The text behind a path."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def post(self, path: str, body: dict) -> dict:
        """The JSON answer to a JSON body."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=RUN_LIMIT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path} answered {error.code}: {error.read().decode()}") from None
