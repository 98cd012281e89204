"""Writes a very small Qwen3 of random weights: a model that mistral.rs loads like any other, in under a megabyte.

The standard library only, and the same bytes for the same seed. What it says is noise of ASCII letters and of the words
that its tokenizer has learned; what matters is that it is loaded, templated, tokenized and sampled like a real one.

    python tests/mistralrs/make_model.py FOLDER [--seed 0] [--architecture GptOssForCausalLM]

writes a folder in Hugging Face's layout, and into it the same model once more as model.gguf.

Formats: config.json and names of tensors as in transformers' Qwen3ForCausalLM; tokenizer.json of the tokenizers library,
byte-level BPE as in GPT-2; safetensors (a length, a JSON header, the numbers); GGUF version 3 as ggml's docs/gguf.md has it,
with llama.cpp's names of tensors.
"""

import argparse
import array
import collections
import json
import math
import pathlib
import random
import struct
import sys

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 64, 2, 4, 2, 16, 128
MAX_LEN = 2048
MERGES = 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# What the merges are learned from.
TEXT = """
The weather in Paris is fine and the river is high. What is the capital of France? The capital of France is Paris.
Hello, world! Tell me a story about a small model that runs on a small machine and answers every question it is asked.
One two three four five six seven eight nine ten. You are a helpful assistant. The answer is in the question.
"""

TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}{{ tool | tojson }}
{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if loop.first and message.role == 'assistant' %}
{{- raise_exception('A conversation begins with its user.') }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def byte_letters():
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return letters


def learn_merges(letters):
    """The most frequent pairs of the text's words, one after the other."""
    words = collections.Counter()
    for i, word in enumerate(TEXT.split()):
        spelled = (" " if i else "") + word
        words[tuple(letters[byte] for byte in spelled.encode())] += 1
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        # Ties by the pair itself, so that the result does not depend on the order of anything.
        pair = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(pair)
        words = collections.Counter({merged(word, pair): count for word, count in words.items()})
    return merges


def merged(word, pair):
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def tokenizer():
    """tokenizer.json, and the ids of tokens that the model may say."""
    letters = byte_letters()
    merges = learn_merges(letters)
    vocab = {letters[byte]: byte for byte in range(256)}
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    first_special = len(vocab)
    sayable = [vocab[letters[byte]] for byte in [*range(0x20, 0x7F), 0x0A]]
    sayable += range(256, first_special)
    added = [
        {
            "id": first_special + i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [f"{a} {b}" for a, b in merges],
        },
    }
    return document, sayable, first_special


if sys.byteorder != "little":
    sys.exit("this writes the numbers as they lie in memory, which must be little-endian")


def tensors(seed, vocab_size, sayable, end):
    """Names, shapes and numbers. Logits of what the model may say are spread by about 4, all others are 0, so that nearly
    everything it says is ASCII and its end comes now and then."""
    rng = random.Random(seed)

    def normal(rows, columns, deviation):
        return (rows, columns), array.array("f", (rng.gauss(0, deviation) for _ in range(rows * columns)))

    def ones(length):
        return (length,), array.array("f", [1.0] * length)

    yield "model.embed_tokens.weight", *normal(vocab_size, HIDDEN, 1)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        fan_in = 1 / math.sqrt(HIDDEN)
        yield at + "input_layernorm.weight", *ones(HIDDEN)
        yield at + "post_attention_layernorm.weight", *ones(HIDDEN)
        yield at + "self_attn.q_norm.weight", *ones(HEAD_DIM)
        yield at + "self_attn.k_norm.weight", *ones(HEAD_DIM)
        yield at + "self_attn.q_proj.weight", *normal(HEADS * HEAD_DIM, HIDDEN, fan_in)
        yield at + "self_attn.k_proj.weight", *normal(KV_HEADS * HEAD_DIM, HIDDEN, fan_in)
        yield at + "self_attn.v_proj.weight", *normal(KV_HEADS * HEAD_DIM, HIDDEN, fan_in)
        yield at + "self_attn.o_proj.weight", *normal(HIDDEN, HEADS * HEAD_DIM, fan_in)
        yield at + "mlp.gate_proj.weight", *normal(INTERMEDIATE, HIDDEN, fan_in)
        yield at + "mlp.up_proj.weight", *normal(INTERMEDIATE, HIDDEN, fan_in)
        yield at + "mlp.down_proj.weight", *normal(HIDDEN, INTERMEDIATE, 1 / math.sqrt(INTERMEDIATE))
    yield "model.norm.weight", *ones(HIDDEN)
    shape, numbers = normal(vocab_size, HIDDEN, 4 / math.sqrt(HIDDEN))
    silent = set(range(vocab_size)) - set(sayable) - {end}
    for token in silent:
        numbers[token * HIDDEN : (token + 1) * HIDDEN] = array.array("f", [0.0] * HIDDEN)
    yield "lm_head.weight", shape, numbers


def write_safetensors(path, tensors):
    header, blocks, offset = {}, [], 0
    for name, shape, numbers in tensors:
        block = numbers.tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + len(block)]}
        blocks.append(block)
        offset += len(block)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blocks))


# llama.cpp's names for the same tensors.
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path, tensors, document, end):
    tokens = sorted(document["model"]["vocab"], key=document["model"]["vocab"].get)
    kinds = [1] * len(tokens) + [3] * len(SPECIAL)
    metadata = {
        "general.architecture": "qwen3",
        "general.name": "tiny",
        "qwen3.block_count": LAYERS,
        "qwen3.context_length": MAX_LEN,
        "qwen3.embedding_length": HIDDEN,
        "qwen3.feed_forward_length": INTERMEDIATE,
        "qwen3.attention.head_count": HEADS,
        "qwen3.attention.head_count_kv": KV_HEADS,
        "qwen3.attention.key_length": HEAD_DIM,
        "qwen3.attention.value_length": HEAD_DIM,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens + SPECIAL,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": document["model"]["merges"],
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.chat_template": TEMPLATE,
    }

    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    def value(item):
        """The type's number, and the bytes."""
        match item:
            case str():
                return 8, string(item)
            case float():
                return 6, struct.pack("<f", item)
            case list() if isinstance(item[0], str):
                return 9, struct.pack("<IQ", 8, len(item)) + b"".join(map(string, item))
            case list():
                return 9, struct.pack("<IQ", 5, len(item)) + struct.pack(f"<{len(item)}i", *item)
        return 4, struct.pack("<I", item)

    entries = b"".join(string(key) + struct.pack("<I", kind) + data for key, (kind, data) in (
        (key, value(item)) for key, item in metadata.items()
    ))
    infos, blocks, offset = [], [], 0
    for name, shape, numbers in tensors:
        for long, short in GGUF_NAMES.items():
            name = name.replace(long, short)
        block = numbers.tobytes()
        block += b"\0" * (-len(block) % 32)
        # The dimension that changes fastest comes first; type 0 is f32.
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(string(name) + dimensions + struct.pack("<IQ", 0, offset))
        blocks.append(block)
        offset += len(block)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(metadata)) + entries + b"".join(infos)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + b"".join(blocks))


def make(folder, seed=0, architecture="Qwen3ForCausalLM"):
    """Writes the model."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document, sayable, first_special = tokenizer()
    ids = {text: first_special + i for i, text in enumerate(SPECIAL)}
    vocab_size, end = first_special + len(SPECIAL), ids["<|im_end|>"]
    files = {
        "config.json": {
            "architectures": [architecture],
            "model_type": "qwen3",
            "vocab_size": vocab_size,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_LEN,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "sliding_window": None,
            "use_sliding_window": False,
            "max_window_layers": LAYERS,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": end,
        },
        "generation_config.json": {"eos_token_id": end, "bos_token_id": ids["<|endoftext|>"]},
        "tokenizer.json": document,
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "add_bos_token": False,
            "model_max_length": MAX_LEN,
            "chat_template": TEMPLATE,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    numbers = list(tensors(seed, vocab_size, sayable, end))
    write_safetensors(folder / "model.safetensors", numbers)
    write_gguf(folder / "model.gguf", numbers, document, end)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--architecture", default="Qwen3ForCausalLM")
    arguments = parser.parse_args()
    print(make(arguments.folder, arguments.seed, arguments.architecture))
