"""The machine's bounds: measured, and what they allow this model.

Owns the arithmetic of a roofline: bytes that a step must read, multiply-adds that it must do. Knows nothing of either
side's kernels. Invariant: a bound counts only what no implementation can avoid, so nobody passes it.

Bytes: MXFP4 experts as they are (17 bytes for 32 weights), all other matrices at 8 bits with a scale for each 32 (34 bytes).
Experts are counted as if every token chose its own at random, which random weights come close to. Keys and values, norms and
the arithmetic of attention itself are left out: together they are small at these lengths.
"""

import json
import subprocess
from pathlib import Path

import machine

MXFP4_BYTES, INT8_BYTES = 17 / 32, 34 / 32


def measure(work: Path, threads: int) -> dict:
    """Builds and runs bounds.c."""
    source, program = Path(__file__).with_name("bounds.c"), work / "bounds"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O3", "-march=native", "-pthread", str(source), "-o", str(program)], check=True)
    finished = machine.run([str(program), str(threads)], work / "bounds.log")
    return {**json.loads(finished.output), "others": finished.others}


class Cost:
    """What the shape of a model costs."""

    def __init__(self, config: dict):
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        q = config["num_attention_heads"] * config["head_dim"]
        kv = config["num_key_value_heads"] * config["head_dim"]
        self.layers = config["num_hidden_layers"]
        self.experts, self.chosen = config["num_local_experts"], config["num_experts_per_tok"]
        # Weights, each one multiply-add per token.
        self.attention = 2 * hidden * q + 2 * hidden * kv + hidden * self.experts
        self.expert = 3 * hidden * inner
        self.head = hidden * config["vocab_size"]

    def bytes(self, tokens: int) -> float:
        """Read by a step of so many tokens, with logits."""
        touched = self.experts * (1 - (1 - self.chosen / self.experts) ** tokens)
        layer = self.attention * INT8_BYTES + touched * self.expert * MXFP4_BYTES
        return self.layers * layer + self.head * INT8_BYTES

    def multiplications(self, tokens: int, logits: int) -> float:
        """Done by a step of so many tokens, of which some need logits."""
        return tokens * self.layers * (self.attention + self.chosen * self.expert) + logits * self.head

    def seconds(self, tokens: int, logits: int, bounds: dict) -> tuple[float, str]:
        """The least that a step can take on this machine, and what bounds it."""
        reading = self.bytes(tokens) / (bounds["read_gb_per_s"] * 1e9)
        if bounds["int8_gmac_per_s"] is None:
            return reading, "memory"
        arithmetic = self.multiplications(tokens, logits) / (bounds["int8_gmac_per_s"] * 1e9)
        return max((reading, "memory"), (arithmetic, "arithmetic"))
