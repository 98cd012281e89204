"""Which features `make run` builds, by machine. Programs that describe the machine are stood in for; nothing is built."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = "nvidia-smi"
# Where CUDA_HOME says, and not on the PATH.
COMPILER = "cuda/bin/nvcc"


@pytest.mark.parametrize(
    ("system", "machine", "found", "given", "features"),
    [
        ("Darwin", "arm64", [], [], "metal"),
        ("Darwin", "x86_64", [], [], ""),
        ("Linux", "x86_64", [], [], ""),
        ("Linux", "x86_64", [DRIVER, COMPILER], [], "cuda"),
        ("Linux", "aarch64", [DRIVER, COMPILER], [], "cuda"),
        ("Linux", "x86_64", [DRIVER, "nvcc"], [], "cuda"),
        ("Linux", "x86_64", [COMPILER], [], ""),
        ("Linux", "x86_64", [DRIVER], [], ""),
        ("Darwin", "arm64", [], ["FEATURES="], ""),
        ("Linux", "x86_64", [DRIVER, COMPILER], ["FEATURES="], ""),
        ("Linux", "x86_64", [], ["FEATURES=cuda"], "cuda"),
    ],
)
def test_make_run_builds_what_suits_the_machine(tmp_path, system, machine, found, given, features):
    programs = {"uname": f'[ "$1" = -s ] && echo {system} || echo {machine}'}
    toolkit = tmp_path / "cuda"
    programs.update({name: "true" for name in found})
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
