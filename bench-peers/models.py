"""The models of a comparison, each as a folder in the published layout and as a GGUF file.

Owns what is on disk and when it must be made again. Invariant: a model that is there is complete, and both forms hold the
same weights (the GGUF's matrices outside the experts are rounded to Q8_0).

The peer rounds YaRN's two bounds to whole dimensions, whatever a model says (`ggml_rope_yarn_corr_dims`). GPT-OSS says that
they are not to be rounded. So that both sides compute the same function, the folders here say `"truncate": true`.
"""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import zstandard

import to_gguf

ROOT = Path(__file__).resolve().parent.parent
# Layers of GPT-OSS-20B.
FULL = 24


@dataclasses.dataclass
class Model:
    """Both forms of one model."""

    name: str
    folder: Path
    gguf: Path

    def config(self) -> dict:
        """The folder's config.json."""
        return json.loads((self.folder / "config.json").read_text())


def disk_needed_gb(layers: int) -> float:
    """Bytes of both forms of a random model, in GB: 13.8 and 12.1 at the full shape."""
    outside, per_layer = 2.32 + 1.23, (13.76 - 2.32 + 12.1 - 1.23) / FULL
    return outside + layers * per_layer


def round_yarn(folder: Path) -> None:
    """Asks for what the peer computes; see above."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_scaling"]["truncate"] = True
    path.write_text(json.dumps(config, indent=2) + "\n")


def tiny(work: Path, vocabulary: Path) -> Model:
    """The embedded model, which was trained: its answers are peaked, so equal answers mean something."""
    model = Model("tiny", work / "tiny", work / "tiny.gguf")
    if not model.gguf.exists():
        model.folder.mkdir(exist_ok=True)
        source = ROOT / "models" / "tiny"
        for name in ("config.json", "generation_config.json"):
            shutil.copy(source / name, model.folder / name)
        packed, weights = source / "model.safetensors.zst", model.folder / "model.safetensors"
        with packed.open("rb") as file, weights.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(file, out)
        round_yarn(model.folder)
        to_gguf.convert(model.folder, model.gguf, vocabulary)
    return model


def random(work: Path, layers: int, seed: int, generator: Path, vocabulary: Path) -> Model:
    """A model of GPT-OSS-20B's widths with random weights."""
    name = f"random-{layers}-layers-seed-{seed}"
    model = Model(name, work / name, work / f"{name}.gguf")
    made = model.folder / "made"
    missing = (0 if made.exists() else 13.8) + (0 if model.gguf.exists() else 12.1)
    if missing:
        need = disk_needed_gb(layers) * missing / 25.9
        free = shutil.disk_usage(work).free / 1e9
        if free < need + 1:
            raise SystemExit(f"{name} needs {need:.0f} GB of disk more, {free:.0f} GB are free in {work}")
        print(f"making {name}: {need:.1f} GB in {work}", flush=True)
    if not made.exists():
        command = [str(generator), "--layers", str(layers), "--seed", str(seed), str(model.folder)]
        subprocess.run(command, check=True)
        round_yarn(model.folder)
        made.touch()
    if not model.gguf.exists():
        to_gguf.convert(model.folder, model.gguf, vocabulary)
    return model
