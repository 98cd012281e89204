"""The o200k_harmony vocabulary as a GGUF tokenizer: tokens, their types, merges.

Owns the way from tiktoken's file (bytes and rank of every token) to what GGUF stores: GPT-2's spelling of bytes, and the
list of merges that a rank stands for. Knows nothing of models. Invariant: token id i stands at place i, and every merge
joins two tokens into the token of its rank.
"""

import base64
from pathlib import Path

import gguf

SIZE = 201_088
# Named tokens of o200k_harmony; the other ids from 199998 on are reserved (openai/gpt-oss, tokenizer section of its README).
NAMED = {
    199_998: "<|startoftext|>",
    199_999: "<|endoftext|>",
    200_002: "<|return|>",
    200_003: "<|constrain|>",
    200_005: "<|channel|>",
    200_006: "<|start|>",
    200_007: "<|end|>",
    200_008: "<|message|>",
    200_012: "<|call|>",
    200_018: "<|endofprompt|>",
}
FIRST_SPECIAL = 199_998


def find_vocabulary(cargo_home: Path) -> Path:
    """`o200k_base.tiktoken` inside the sources of the tiktoken-rs crate, which `cargo fetch` has put there."""
    found = sorted(cargo_home.glob("registry/src/*/tiktoken-rs-*/assets/o200k_base.tiktoken"))
    if not found:
        raise SystemExit(f"no tiktoken-rs-*/assets/o200k_base.tiktoken under {cargo_home}: run cargo fetch --locked")
    return found[-1]


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes to rank; a rank is a token id."""
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the rest for letters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge makes `token`: what is left of it when only earlier merges are done."""
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = limit, -1
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1], limit)
            if rank < best:
                best, at = rank, i
        if at < 0:
            raise ValueError(f"token {limit} is no merge of two others")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """Writes the tokenizer's keys."""
    ranks = read_ranks(path)
    letters = byte_letters()
    spelled = {rank: "".join(letters[byte] for byte in token) for token, rank in ranks.items()}
    tokens, types = [], []
    for number in range(SIZE):
        if number in spelled:
            tokens.append(spelled[number])
            types.append(gguf.TokenType.NORMAL)
        else:
            tokens.append(NAMED.get(number, f"<|reserved_{number}|>"))
            types.append(gguf.TokenType.CONTROL)
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = halves(token, ranks)
            merges.append(f"{spelled[ranks[left]]} {spelled[ranks[right]]}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(199_998)
    writer.add_eos_token_id(200_002)
    writer.add_pad_token_id(199_999)
    writer.add_add_bos_token(False)
