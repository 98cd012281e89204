"""The peer: llama.cpp from the sources inside a PyPI package, built for this machine.

Owns where it comes from and how it is built. Knows nothing of models and measurements. Invariant: a finished build is
marked by a file that names version and options; anything else is built again.

The package `llama-cpp-python` carries llama.cpp's whole source tree, so that one pinned archive with a known digest is
all that is downloaded.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.3.36"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TARGETS = ["llama-server", "llama-batched-bench"]
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # GCC 12 tells its own optimizer that `_tile_loadconfig` reads 8 of the 64 bytes, and the rest of the peer's tile
    # configuration is never stored: on a processor with AMX the first product then ends with a general protection fault.
    "-DCMAKE_CXX_FLAGS=-fno-dse -fno-tree-dse",
]


def fetch(work: Path) -> Path:
    """The archive, downloaded if it is not there. Its digest is checked either way."""
    archive = work / ARCHIVE
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", "llama-cpp-python", "--dest", str(work), f"llama-cpp-python=={VERSION}"]
        subprocess.run(command, check=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{archive} has SHA-256 {digest}, expected {SHA256}")
    return archive


def build(work: Path, jobs: int) -> Path:
    """The folder of the peer's programs, built if they are not there."""
    folder = work / "build-llama"
    mark = folder / "built"
    programs = folder / "bin"
    wanted = "\n".join([VERSION, *OPTIONS, *TARGETS])
    if mark.exists() and mark.read_text() == wanted and all((programs / name).exists() for name in TARGETS):
        return programs
    source = work / ARCHIVE.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not (source / "CMakeLists.txt").exists():
        with tarfile.open(fetch(work)) as archive:
            archive.extractall(work, filter="data")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    print(f"building llama.cpp ({', '.join(TARGETS)}; minutes)", flush=True)
    configure = ["cmake", "-S", str(source), "-B", str(folder), "-G", "Ninja", *OPTIONS]
    compile_ = ["cmake", "--build", str(folder), "--parallel", str(jobs), "--target", *TARGETS]
    log = work / "build-llama.log"
    with log.open("w") as out:
        for command in (configure, compile_):
            if subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode:
                raise SystemExit(f"the peer's build failed; see {log}")
    mark.write_text(wanted)
    return programs
