"""Which features `make run` builds, by machine. Programs that describe the machine are stood in for; nothing is built."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("system", "machine", "nvcc", "given", "features"),
    [
        ("Darwin", "arm64", False, [], "metal"),
        ("Darwin", "x86_64", False, [], ""),
        ("Linux", "x86_64", False, [], ""),
        ("Linux", "x86_64", True, [], "cuda"),
        ("Linux", "aarch64", True, [], "cuda"),
        ("Darwin", "arm64", False, ["FEATURES="], ""),
        ("Linux", "x86_64", True, ["FEATURES="], ""),
        ("Linux", "x86_64", False, ["FEATURES=cuda"], "cuda"),
    ],
)
def test_make_run_builds_what_suits_the_machine(tmp_path, system, machine, nvcc, given, features):
    programs = {"uname": f'[ "$1" = -s ] && echo {system} || echo {machine}'}
    toolkit = tmp_path / "cuda"
    if nvcc:
        programs["cuda/bin/nvcc"] = "true"
    for name, text in programs.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    # The PATH of the tests may have a compiler of CUDA's; the system's own folders have not.
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_HOME": str(toolkit)}
    done = subprocess.run(
        ["make", "--dry-run", "--silent", "run", *given],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )
    assert f'--features "{features}" -- serve' in done.stdout, done.stdout
