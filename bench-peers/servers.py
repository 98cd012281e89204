"""How each side is started: the two servers and the two programs that measure without HTTP.

The only file that knows the command lines of both. Invariant: both sides get the same threads, the same number of
sequences and room for the same number of tokens; everything else is each side's own default.
"""

import dataclasses
from pathlib import Path

import machine
from models import Model

OURS, PEER = "gossamer", "llama.cpp"
SIDES = (PEER, OURS)


@dataclasses.dataclass
class Programs:
    """Where everything is, and what both sides share."""

    gossamer: Path
    loadtest: Path
    speed: Path
    peer: Path
    work: Path
    threads: int
    # More flags for `gossamer serve`, to compare settings.
    serve_flags: tuple[str, ...] = ()

    def log(self, name: str) -> Path:
        """A file for what a program says."""
        folder = self.work / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"


def server(
    programs: Programs, side: str, model: Model, sequences: int, tokens: int, flags: tuple[str, ...] = ()
) -> machine.Server:
    """A server for `sequences` at a time, of at most `tokens` each. The flags are for ours."""
    port = machine.free_port()
    if side == OURS:
        command = [str(programs.gossamer), "serve", "--port", str(port), "--model", str(model.folder)]
        command += ["--threads", str(programs.threads), "--max-num-seqs", str(sequences), "--log-level", "warn"]
        command += ["--kv-cache-bytes", str(kv_bytes(model, sequences * tokens)), "--max-model-len", str(tokens)]
        command += [*programs.serve_flags, *flags]
        return machine.Server(command, port, "/ready", programs.log("gossamer-serve"))
    command = [str(programs.peer / "llama-server"), "--port", str(port), "--model", str(model.gguf)]
    command += ["--threads", str(programs.threads), "--threads-batch", str(programs.threads)]
    command += ["--parallel", str(sequences), "--ctx-size", str(sequences * tokens), "--offline"]
    return machine.Server(command, port, "/health", programs.log("llama-server"))


def kv_bytes(model: Model, tokens: int) -> int:
    """Bytes of bf16 keys and values of that many tokens in every layer."""
    config = model.config()
    row = config["num_key_value_heads"] * config["head_dim"] * 2 * 2
    return config["num_hidden_layers"] * row * tokens


def decode(programs: Programs, side: str, model: Model, batches: list[int], context: int, steps: int) -> list[str]:
    """The command that measures decode steps behind a shared prompt of `context` tokens."""
    counts = ",".join(map(str, batches))
    if side == OURS:
        command = [str(programs.speed), str(model.folder), str(programs.threads), "0", counts]
        return command + ["--context", str(context), "--steps", str(steps), "--json"]
    cells = max(batches) * (context + steps)
    command = peer_bench(programs, model, cells) + ["-npl", counts, "-npp", str(context), "-ntg", str(steps)]
    return command + ["-pps"]


def prefill(programs: Programs, side: str, model: Model, lengths: list[int]) -> list[str]:
    """The command that measures prompts of these lengths."""
    counts = ",".join(map(str, lengths))
    if side == OURS:
        return [str(programs.speed), str(model.folder), str(programs.threads), "0", "0", "--prefill", counts, "--json"]
    return peer_bench(programs, model, max(lengths) + 64) + ["-npl", "1", "-npp", counts, "-ntg", "1"]


def peer_bench(programs: Programs, model: Model, cells: int) -> list[str]:
    """llama-batched-bench with room for `cells` tokens."""
    threads = str(programs.threads)
    command = [str(programs.peer / "llama-batched-bench"), "-m", str(model.gguf), "-c", str(cells), "-t", threads]
    return command + ["-tb", threads, "--output-format", "jsonl"]
