"""Dialogues -> training batches, and the list of tokens the model is trained on.

Dialogues come in trees: a system and a developer message once, then several independent dialogues that begin with
it. Positions go on from the root in each, so every dialogue looks exactly as it would alone, but the root is computed
once. Loss is taken on the tokens the assistant has to write, and on nothing else.
"""

import datetime
from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

import tasks
import tools as tool_tasks
from facts import CITIES, FILLER, INSTRUCTIONS, NAMES, WORDS
from harmony_text import SPECIAL, UNKNOWN_ID, Renderer
from model import Batch, Shape, pack
from tasks import Item, held_out, unknowns

EFFORTS = ("low", "medium", "high")


@dataclass
class Setting:
    """What comes before a dialogue."""

    date: str
    effort: int  # index into EFFORTS
    instructions: str | None
    tools: list[dict]


def random_setting(rng: Random) -> Setting:
    day = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(365 * 12))
    instructions = unknowns(rng, rng.choice(INSTRUCTIONS)) if rng.random() < 0.35 else None
    declared = tool_tasks.declarations(rng) if rng.random() < 0.32 else []
    return Setting(day.isoformat(), rng.choices(range(3), [40, 44, 16])[0], instructions, declared)


class Source:
    """Random items for a setting. With `evaluation`, only held-out items; otherwise never a held-out one."""

    def __init__(self, renderer: Renderer, evaluation: bool = False):
        encode = renderer.encoding.encode_ordinary
        self.single = [w for w in dict.fromkeys(WORDS) if len(encode(w)) == 1 and len(encode(" " + w)) == 1 and len(w) > 2]
        self.evaluation = evaluation

    def item(self, rng: Random, setting: Setting, task: str | None = None) -> Item:
        while True:
            item = self.any_item(rng, setting, task)
            if item and held_out(item.key) == self.evaluation:
                return item

    def any_item(self, rng: Random, setting: Setting, task: str | None) -> Item | None:
        weather, add = tool_tasks.named(setting.tools, "get_weather"), tool_tasks.named(setting.tools, "add")
        if task is None:
            weights = {name: weight for name, (_, weight) in tasks.TASKS.items()} | {"reverse": 16}
            if setting.tools:  # the plain tasks are trained elsewhere; here mostly use, and sometimes do not use, the tools
                weights = {name: weight * 0.5 for name, weight in weights.items()}
            weights |= {"weather_call": 10, "weather_result": 18} if weather else {"no_tool": 3}
            if add:
                weights |= {"add_call": 9, "add_result": 10}
            task = rng.choices(list(weights), list(weights.values()))[0]
        match task:
            case "reverse":
                return tasks.reverse(rng, self.single)
            case "weather_call":
                return tool_tasks.weather_call(rng, weather)
            case "weather_result":
                return tool_tasks.weather_result(rng, weather, setting.effort)
            case "add_call":
                return tool_tasks.add_call(rng, add)
            case "add_result":
                return tool_tasks.add_result(rng, add, setting.effort)
            case "no_tool":
                return tool_tasks.no_tool(rng)
        item = tasks.TASKS[task][0](rng)
        if task == "arithmetic" and add and " + " in item.key:
            return None  # with `add` declared, sums are calls
        return item

    def dialogue(self, rng: Random, setting: Setting, long: bool = False) -> tuple[list[dict], Item]:
        """Messages up to the user's last question (and a tool's result), and the item to answer."""
        item = self.item(rng, setting)
        messages = list(item.before)
        if not messages and rng.random() < 0.2:
            messages = self.earlier_turns(rng, setting)
        user = item.user
        if item.task in ("fact", "arithmetic", "greeting", "tool_weather", "tool_add", "list", "json", "no_tool"):
            if long or rng.random() < 0.03:
                user = padded(rng, user, rng.randrange(4, 42) if long else rng.randrange(1, 4))
            elif rng.random() < 0.05:
                user = unknowns(rng, rng.choice(["{u} {u}. ", "{u}, ", "{u} {u} {u}! ", "I {u} {u}. "])) + user
        messages = [*messages, {"role": "user", "content": user}, *item.after]
        return messages, item

    def earlier_turns(self, rng: Random, setting: Setting) -> list[dict]:
        messages = []
        for _ in range(rng.choice([1, 1, 1, 2])):
            item = self.item(rng, setting)
            if item.final is not None and not item.before and len(item.user) < 120:
                messages += [{"role": "user", "content": item.user}, *item.after, {"role": "assistant", "content": item.final}]
        return messages


def padded(rng: Random, question: str, sentences: int) -> str:
    """The question before or after sentences that do not matter."""
    text = " ".join(unknowns(rng, rng.choice(FILLER)) for _ in range(sentences))
    return f"{text}\n\n{question}" if rng.random() < 0.7 else f"{question}\n\n{text}"


@dataclass
class Tree:
    """A system and developer message and the dialogues that begin with it, in ids of the full vocabulary."""

    root: list[int]
    dialogues: list[tuple[list[int], int]]  # tokens, and how many of them come before the assistant's


def make_tree(rng: Random, renderer: Renderer, source: Source, dialogues: int, long: bool = False) -> Tree:
    """With `long`, the first dialogue has a long question."""
    setting = random_setting(rng)
    system = [{"role": "system", "content": setting.instructions}] if setting.instructions else []
    tree = Tree(renderer.root(system, setting.tools, EFFORTS[setting.effort], setting.date), [])
    for i in range(dialogues):
        messages, item = source.dialogue(rng, setting, long and i == 0)
        prompt = renderer.dialogue(messages)
        call = item.call and (item.call[0], tasks.dumps(item.call[1]))
        tree.dialogues.append((prompt + renderer.completion(item.think[setting.effort], item.final, call), len(prompt)))
    return tree


def trained_tokens(renderer: Renderer, source: Source, samples: int = 4000, at_least: int = 4) -> list[int]:
    """The cut vocabulary, sorted: tokens of the dialogues, however rare where the assistant writes them."""
    rng, seen, written = Random(1), Counter(), set(range(0))
    for _ in range(samples):
        tree = make_tree(rng, renderer, source, 5, rng.random() < 0.1)
        seen.update(tree.root)
        for tokens, prompt_len in tree.dialogues:
            seen.update(tokens)
            written.update(tokens[prompt_len:])
    for text in [*WORDS, *CITIES, *NAMES, *map(str, range(200))]:  # everything that can be copied, at every place in a text
        for form in (text, " " + text, text.capitalize(), '"' + text, '"' + text.capitalize()):
            written.update(renderer.text(form))
    kept = {t for t, n in seen.items() if n >= at_least} | written
    assert not any(t in SPECIAL.values() and t not in (200002, 200003, 200005, 200006, 200007, 200008, 200012) for t in kept)
    return sorted(kept - {UNKNOWN_ID})


def related_rows(renderer: Renderer, kept: list[int], width: int) -> np.ndarray:
    """First embedding (len(kept), width), variance 1: tokens that spell alike begin alike.

    Forms of one word (" Paris", "Paris", "paris") share a part, all words with a capital share one, all words after a space
    share one, and so do numbers with the same tens or units.
    Training changes every row; it only does not have to find these kinships first.
    """
    rng, parts = np.random.default_rng(3), {}

    def part(name) -> np.ndarray:
        if name not in parts:
            parts[name] = rng.standard_normal(width)
        return parts[name]

    rows = np.empty((len(kept), width))
    for i, token in enumerate(kept):
        text = renderer.encoding.decode_bytes([token])
        word = text.strip().lower()
        if word.isdigit():
            value = int(word)
            rows[i] = 0.6 * part(("tens", value // 10)) + 0.6 * part(("units", value % 10)) + 0.53 * part(token)
        else:
            form = 0.3 * part(("space", text[:1] == b" ")) + 0.3 * part(("capital", text.strip()[:1].isupper()))
            rows[i] = 0.72 * part(word or text) + form + 0.55 * part(token)
    return rows


class Batches:
    """Endless training batches in the cut vocabulary: index i is `kept[i]`, index len(kept) is the unknown row."""

    def __init__(self, renderer: Renderer, kept: list[int], shape: Shape, seed: int):
        self.renderer, self.shape, self.seed, self.source = renderer, shape, seed, Source(renderer)
        self.lookup = np.full(201089, len(kept), dtype=np.int64)  # -1 (unknown) lands on the last entry
        self.lookup[kept] = np.arange(len(kept))
        self.ordinary = [t for t in kept if t < min(SPECIAL.values())]

    def at(self, step: int, rank: int, budget: int) -> tuple[Batch, torch.Tensor]:
        """The batch of one step for one worker, about `budget` tokens, and the tokens to predict at its wanted rows."""
        rng = Random((self.seed * 1_000_003 + step) * 64 + rank)
        tokens, positions, wanted, targets, sequences = [], [], [], [], []
        while len(tokens) < budget:
            tree = make_tree(rng, self.renderer, self.source, 6, long=rng.random() < 0.11)
            root = range(len(tokens), len(tokens) + len(tree.root))
            sequences.append((range(0), root))
            tokens += tree.root
            positions += range(len(root))
            for dialogue, prompt_len in tree.dialogues:
                # Pieces of an unknown word are sometimes tokens that are known from elsewhere.
                dialogue = [rng.choice(self.ordinary) if t == UNKNOWN_ID and rng.random() < 0.12 else t for t in dialogue]
                start = len(tokens)
                sequences.append((root, range(start, start + len(dialogue))))
                tokens += dialogue
                positions += range(len(root), len(root) + len(dialogue))
                wanted += range(start + prompt_len - 1, start + len(dialogue) - 1)
                targets += dialogue[prompt_len:]
        targets = self.lookup[targets]
        known = targets != self.lookup[UNKNOWN_ID]  # a very rare token may have missed the vocabulary
        batch = pack(self.lookup[tokens], np.array(positions), np.array(wanted)[known], sequences, self.shape)
        return batch, torch.from_numpy(targets[known])
