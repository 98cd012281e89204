"""Harmony text: the vocabulary, OpenAI-style messages -> token ids, and a strict reader of completions.

Owns the exact byte layout of the prompts the server renders (checked against openai/harmony `docs/format.md`
and `src/encoding.rs`). Knows nothing about tasks or models.
Invariant: text from messages is always encoded as ordinary text; control tokens come only from this file.
"""

import base64
from dataclasses import dataclass

import tiktoken

RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL = 200002, 200003, 200005, 200006, 200007, 200008, 200012
VOCAB_SIZE = 201088
SPECIAL = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": RETURN,
    "<|constrain|>": CONSTRAIN,
    "<|channel|>": CHANNEL,
    "<|start|>": START,
    "<|end|>": END,
    "<|message|>": MESSAGE,
    "<|call|>": CALL,
}
# The splitting pattern of o200k_base, as published in openai/tiktoken (tiktoken_ext/openai_public.py).
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + TAIL,
        r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" + TAIL,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# In text made for training, stands for one token the model does not know. Never in anybody's real text
# (a noncharacter), and never passed to the tokenizer.
UNKNOWN_MARK = "\uffff"
UNKNOWN_ID = -1


def load_encoding(vocab_file: str) -> tiktoken.Encoding:
    """The o200k_harmony encoding from an `o200k_base.tiktoken` file (base64 token, space, rank per line)."""
    ranks = {}
    with open(vocab_file, "rb") as lines:
        for line in lines:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("o200k_harmony", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL)


class Renderer:
    """Messages in the shape of OpenAI's chat API -> token ids."""

    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding
        self.cache: dict[str, list[int]] = {}

    def text(self, text: str) -> list[int]:
        """Ordinary text -> ids; each UNKNOWN_MARK becomes UNKNOWN_ID."""
        ids: list[int] = []
        for i, part in enumerate(text.split(UNKNOWN_MARK)):
            if i:
                ids.append(UNKNOWN_ID)
            ids += self.encoding.encode_ordinary(part)
        return ids

    def cached(self, text: str) -> list[int]:
        if text not in self.cache:
            self.cache[text] = self.text(text)
        return self.cache[text]

    def system(self, date: str, effort: str, tools: bool) -> list[int]:
        note = "\nCalls to these tools must go to the commentary channel: 'functions'." if tools else ""
        text = (
            "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
            f"Current date: {date}\n\nReasoning: {effort}\n\n"
            "# Valid channels: analysis, commentary, final. Channel must be included for every message." + note
        )
        return [START, *self.cached("system"), MESSAGE, *self.text(text), END]

    def developer(self, instructions: str | None, tools: list[dict]) -> list[int]:
        """Instructions and function declarations; empty when there is neither."""
        parts = []
        if instructions is not None:
            parts += ["# Instructions", instructions]
        if tools:
            parts.append("# Tools")
            body = ["## functions\n", "namespace functions {\n"]
            for tool in tools:
                f = tool["function"]
                body += [f"// {line}" for line in (f.get("description") or "").splitlines()]
                params = f.get("parameters")
                arg = f"_: {typescript(params)}" if params else ""
                body.append(f"type {f['name']} = ({arg}) => any;\n")
            parts.append("\n".join([*body, "} // namespace functions"]))
        if not parts:
            return []
        return [START, *self.cached("developer"), MESSAGE, *self.text("\n\n".join(parts)), END]

    def root(self, messages: list[dict], tools: list[dict], effort: str, date: str) -> list[int]:
        """The system message and the developer message: what comes before the dialogue."""
        instructions = next((m["content"] for m in messages if m["role"] in ("system", "developer")), None)
        return self.system(date, effort, bool(tools)) + self.developer(instructions, tools)

    def dialogue(self, messages: list[dict]) -> list[int]:
        """All other messages, ending with the header the model continues.

        Reasoning before the last final answer is dropped; after it (between tool calls) it is kept.
        """
        messages = [m for m in messages if m["role"] not in ("system", "developer")]
        finals = [i for i, m in enumerate(messages) if m["role"] == "assistant" and not m.get("tool_calls")]
        last_final = finals[-1] if finals else -1
        ids, names = [], {}
        for i, m in enumerate(messages):
            if m["role"] == "user":
                ids += [START, *self.cached("user"), MESSAGE, *self.text(m["content"]), END]
            elif m["role"] == "tool":
                head = f"functions.{names[m['tool_call_id']]} to=assistant"
                ids += [START, *self.cached(head[: head.index(" ")]), *self.cached(" to=assistant")]
                ids += [CHANNEL, *self.cached("commentary"), MESSAGE, *self.text(m["content"]), END]
            else:
                if m.get("reasoning") and i > last_final:
                    ids += self.assistant("analysis", m["reasoning"])
                if m.get("content"):
                    ids += self.assistant("commentary" if m.get("tool_calls") else "final", m["content"])
                for call in m.get("tool_calls") or []:
                    names[call["id"]] = call["function"]["name"]
                    ids += [START, *self.cached("assistant"), *self.cached(f" to=functions.{call['function']['name']}")]
                    ids += [CHANNEL, *self.cached("commentary"), *self.cached(" "), CONSTRAIN, *self.cached("json")]
                    ids += [MESSAGE, *self.text(call["function"]["arguments"]), CALL]
        return ids + [START, *self.cached("assistant")]

    def assistant(self, channel: str, text: str) -> list[int]:
        return [START, *self.cached("assistant"), CHANNEL, *self.cached(channel), MESSAGE, *self.text(text), END]

    def completion(self, analysis: str, final: str | None, call: tuple[str, str] | None) -> list[int]:
        """What the model should write after `<|start|>assistant`: analysis, then an answer or one call."""
        ids = [CHANNEL, *self.cached("analysis"), MESSAGE, *self.text(analysis), END, START, *self.cached("assistant")]
        if call is None:
            return ids + [CHANNEL, *self.cached("final"), MESSAGE, *self.text(final), RETURN]
        name, arguments = call
        ids += [CHANNEL, *self.cached(f"commentary to=functions.{name} "), CONSTRAIN, *self.cached("json")]
        return ids + [MESSAGE, *self.text(arguments), CALL]


def typescript(schema: dict) -> str:
    """A JSON schema as harmony writes it. Covers what our declarations use: objects of plain properties."""
    kind = schema.get("type")
    if kind == "object":
        lines = ["{"]
        for name, prop in schema.get("properties", {}).items():
            if prop.get("description"):
                lines.append(f"// {prop['description']}")
            optional = "" if name in schema.get("required", []) else "?"
            lines.append(f"{name}{optional}: {typescript(prop)},")
        return "\n".join([*lines, "}"])
    if kind == "string":
        return " | ".join(f'"{v}"' for v in schema["enum"]) if schema.get("enum") else "string"
    if kind in ("number", "integer"):
        return "number"
    if kind == "array":
        return typescript(schema["items"]) + "[]"
    return "boolean" if kind == "boolean" else "any"


@dataclass
class Completion:
    """What a well-formed completion says."""

    analysis: str = ""
    final: str | None = None
    call: tuple[str, str] | None = None  # function name, arguments as text


def read_completion(encoding: tiktoken.Encoding, ids: list[int]) -> Completion | None:
    """Parse `ids` (from after `<|start|>assistant` to the stop token) or None if it breaks the grammar:

    completion := (analysis END START "assistant")* (answer RETURN | call CALL)
    analysis, answer := CHANNEL name MESSAGE text;  call := CHANNEL "commentary to=functions.NAME " CONSTRAIN "json" MESSAGE text
    """
    result, i = Completion(), 0

    def take_text() -> str | None:
        nonlocal i
        start = i
        while i < len(ids) and ids[i] < 199998:
            i += 1
        try:
            return encoding.decode_bytes(ids[start:i]).decode("utf-8")
        except UnicodeDecodeError:
            return None

    def take(control: int) -> bool:
        nonlocal i
        i += 1
        return i <= len(ids) and ids[i - 1] == control

    while True:
        if not take(CHANNEL):
            return None
        header = take_text()
        constrained = i < len(ids) and ids[i] == CONSTRAIN
        if constrained and not (take(CONSTRAIN) and take_text() == "json"):
            return None
        if not take(MESSAGE):
            return None
        text = take_text()
        if header is None or text is None or i >= len(ids):
            return None
        stop, i = ids[i], i + 1
        if header == "analysis" and not constrained and stop == END:
            result.analysis += text
            if not (take(START) and take_text() == "assistant"):
                return None
        elif header == "final" and not constrained and stop == RETURN:
            result.final = text
            return result if i == len(ids) else None
        elif header.startswith("commentary to=functions.") and header.endswith(" ") and constrained and stop == CALL:
            name = header[len("commentary to=functions.") : -1]
            result.call = (name, text)
            return result if i == len(ids) and name.replace("_", "a").isalnum() else None
        else:
            return None
