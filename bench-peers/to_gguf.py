"""A GPT-OSS folder in the published layout to one GGUF file for llama.cpp.

    python3 bench-peers/to_gguf.py FOLDER FILE [--vocabulary o200k_base.tiktoken] [--dense q8_0|bf16|f32]

Owns the mapping of names, the order of nibbles in MXFP4 blocks, and the choice of types: experts stay MXFP4 bit by bit,
matrices become Q8_0 (or what --dense says), vectors and the router F32, as in the files the peer's project publishes.
Knows nothing of how the files are used. Invariant: memory stays below 1 GB whatever the model's size.

Facts from llama.cpp's convert_hf_to_gguf.py (which needs PyTorch and a Hugging Face tokenizer): names, keys and layouts.
"""

import argparse
import json
import math
import os
import struct
from pathlib import Path
from typing import Iterator

import gguf
import numpy as np

import vocabulary

F32 = gguf.GGMLQuantizationType.F32
BF16 = gguf.GGMLQuantizationType.BF16
Q8_0 = gguf.GGMLQuantizationType.Q8_0
MXFP4 = gguf.GGMLQuantizationType.MXFP4
DENSE = {"q8_0": Q8_0, "bf16": BF16, "f32": F32}
# Elements converted at a time.
CHUNK = 1 << 24

# Published name inside a layer, GGUF name, whether it is a matrix.
LAYER = [
    ("input_layernorm.weight", "attn_norm.weight", False),
    ("self_attn.q_proj.weight", "attn_q.weight", True),
    ("self_attn.q_proj.bias", "attn_q.bias", False),
    ("self_attn.k_proj.weight", "attn_k.weight", True),
    ("self_attn.k_proj.bias", "attn_k.bias", False),
    ("self_attn.v_proj.weight", "attn_v.weight", True),
    ("self_attn.v_proj.bias", "attn_v.bias", False),
    ("self_attn.o_proj.weight", "attn_output.weight", True),
    ("self_attn.o_proj.bias", "attn_output.bias", False),
    ("self_attn.sinks", "attn_sinks.weight", False),
    ("post_attention_layernorm.weight", "post_attention_norm.weight", False),
    ("mlp.router.weight", "ffn_gate_inp.weight", False),
    ("mlp.router.bias", "ffn_gate_inp.bias", False),
]
# Published projection, GGUF name, which of its rows: gate and up stand in turns.
EXPERTS = [
    ("gate_up_proj", "ffn_gate_exps", slice(0, None, 2)),
    ("gate_up_proj", "ffn_up_exps", slice(1, None, 2)),
    ("down_proj", "ffn_down_exps", slice(None)),
]


class Checkpoint:
    """The tensors of a folder's safetensors files, mapped."""

    def __init__(self, folder: Path):
        self.tensors = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise SystemExit(f"no *.safetensors in {folder}")
        for path in files:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                self.tensors[name] = (path, 8 + length + entry["data_offsets"][0], entry["dtype"], entry["shape"])

    def array(self, name: str) -> np.ndarray:
        """Bytes as uint8, bf16 as uint16, f32 as float32."""
        if name not in self.tensors:
            raise SystemExit(f"the folder has no tensor {name}")
        path, offset, dtype, shape = self.tensors[name]
        kinds = {"U8": np.uint8, "BF16": np.uint16, "F32": np.float32}
        if dtype not in kinds:
            raise SystemExit(f"{name} is {dtype}; known are {', '.join(kinds)}")
        return np.memmap(path, kinds[dtype], "r", offset, tuple(shape))


def widened(array: np.ndarray) -> np.ndarray:
    """bf16 bits (or f32) to f32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def dense_rows(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> Iterator[np.ndarray]:
    """A matrix or vector in the type asked for, some rows at a time."""
    rows = array.reshape(-1, array.shape[-1])
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if kind == F32:
            yield widened(part)
        elif kind == BF16 and part.dtype == np.uint16:
            yield part
        else:
            yield gguf.quantize(widened(part), kind)


def expert_rows(blocks: np.ndarray, scales: np.ndarray, which: slice) -> Iterator[np.ndarray]:
    """One expert at a time: the scale, then 16 bytes of nibbles.

    Published: byte j holds elements 2j and 2j + 1. GGUF: elements j and j + 16. The low nibble is the first of the two.
    """
    for blocks_of_one, scales_of_one in zip(blocks, scales):
        source = blocks_of_one[which]
        first, second = source[..., :8], source[..., 8:]
        out = np.empty((*source.shape[:-1], 17), np.uint8)
        out[..., 0] = scales_of_one[which]
        out[..., 1::2] = (first & 0x0F) | (second << 4)
        out[..., 2::2] = (first >> 4) | (second & 0xF0)
        yield out


def add_keys(writer: gguf.GGUFWriter, config: dict) -> None:
    """The keys that llama.cpp reads for this architecture."""
    rope = config["rope_scaling"]
    writer.add_name("GPT-OSS shape for bench-peers")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def convert(folder: Path, out: Path, vocabulary_file: Path, dense: str = "q8_0") -> None:
    """Writes `out`, by way of a file beside it: an interrupted run leaves no half model under its name."""
    config = json.loads((folder / "config.json").read_text())
    if config["vocab_size"] != vocabulary.SIZE:
        raise SystemExit(f"vocab_size is {config['vocab_size']}: llama-server needs the whole vocabulary, {vocabulary.SIZE}")
    checkpoint = Checkpoint(folder)
    partial = out.with_name(out.name + ".partial")
    writer = gguf.GGUFWriter(partial, "gpt-oss")
    add_keys(writer, config)
    vocabulary.add_tokenizer(writer, vocabulary_file)

    plan = []

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType, parts: Iterator[np.ndarray]) -> None:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = math.prod(shape) // block * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
        plan.append((name, nbytes, parts))

    def add_dense(source: str, name: str, kind: gguf.GGMLQuantizationType) -> None:
        array = checkpoint.array(source)
        add(name, array.shape, kind, dense_rows(array, kind))

    add_dense("model.embed_tokens.weight", "token_embd.weight", DENSE[dense])
    for layer in range(config["num_hidden_layers"]):
        for source, name, matrix in LAYER:
            add_dense(f"model.layers.{layer}.{source}", f"blk.{layer}.{name}", DENSE[dense] if matrix else F32)
        for source, name, which in EXPERTS:
            source = f"model.layers.{layer}.mlp.experts.{source}"
            blocks, scales = checkpoint.array(f"{source}_blocks"), checkpoint.array(f"{source}_scales")
            experts, rows, columns, _ = blocks[:, which].shape
            add(f"blk.{layer}.{name}.weight", (experts, rows, columns * 32), MXFP4, expert_rows(blocks, scales, which))
            bias = checkpoint.array(f"{source}_bias")[:, which]
            add(f"blk.{layer}.{name}.bias", bias.shape, F32, dense_rows(bias, F32))
    add_dense("model.norm.weight", "output_norm.weight", F32)
    add_dense("lm_head.weight", "output.weight", DENSE[dense])

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    writer.write_padding(file, file.tell())
    for name, nbytes, parts in plan:
        start = file.tell()
        for part in parts:
            part.tofile(file)
        if file.tell() - start != nbytes:
            raise SystemExit(f"{name}: wrote {file.tell() - start} bytes of {nbytes}")
        writer.write_padding(file, nbytes)
    writer.close()
    os.replace(partial, out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert a GPT-OSS folder to GGUF.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path, help="o200k_base.tiktoken (default: the tiktoken-rs crate's)")
    parser.add_argument("--dense", choices=DENSE, default="q8_0", help="type of the matrices that are not experts")
    args = parser.parse_args()
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    convert(args.folder, args.out, args.vocabulary or vocabulary.find_vocabulary(cargo_home), args.dense)


if __name__ == "__main__":
    main()
