"""Scores the tiny model on held-out items, and its free samples against the harmony grammar.

Two backends: the exported folder through transformers (default), or a running server through /v1/chat/completions
(--url). Items come from the same generators as training, restricted to keys training never sees (`tasks.held_out`),
and are the same for both backends, but for the date, which a server sets itself.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import data
import harmony_text
from harmony_text import CALL, RETURN, UNKNOWN_ID, Completion
from tasks import Item, held_out
from tools import named

TASKS = [
    "greeting", "fact", "arithmetic", "repeat", "reverse", "list", "count", "scripts", "json", "memory", "beyond",
    "weather_call", "add_call", "weather_result", "add_result", "no_tool", "thinking", "long",
]  # fmt: skip
LIMIT = 320  # tokens of a completion


@dataclass
class Case:
    task: str
    setting: data.Setting
    messages: list[dict]  # OpenAI-style, instructions first if any
    item: Item


def cases(source: data.Source, per_task: int, seed: int = 11) -> list[Case]:
    """Held-out cases, the same for every caller with the same arguments. `thinking` is one question at all efforts."""
    made = []
    for task in TASKS:
        rng, count = Random(f"{seed} {task}"), 0
        while count < per_task:
            setting = real_words(rng, data.random_setting(rng))
            tool = {"weather_call": "get_weather", "weather_result": "get_weather", "add_call": "add", "add_result": "add"}.get(task)
            if tool and not named(setting.tools, tool) or task == "no_tool" and named(setting.tools, "get_weather"):
                continue
            if not tool and task != "no_tool" and named(setting.tools, "add"):
                setting.tools = []
            if task == "thinking":
                item = source.item(rng, setting, rng.choice(["fact", "greeting", "list", "repeat"]))
            elif task == "long":
                item = source.item(rng, setting, rng.choice(["fact", "arithmetic", "list"]))
                item.user = data.padded(rng, item.user, rng.randrange(12, 40))
            else:
                item = source.item(rng, setting, task)
            item.user = fill(rng, item.user)
            instructions = [{"role": "system", "content": setting.instructions}] if setting.instructions else []
            messages = [*instructions, *item.before, {"role": "user", "content": item.user}, *item.after]
            for effort in range(3) if task == "thinking" else [setting.effort]:
                made.append(Case(task, data.Setting(setting.date, effort, setting.instructions, setting.tools), messages, item))
            count += 1
    return made


STRANGE = "zebra quasar lattice Byzantine entropy mandolin osmosis Fibonacci typhoon kaleidoscope walrus inflation syntax Nietzsche".split()


def fill(rng: Random, text: str) -> str:
    """Real words the model has no rows for, in place of the unknown marks. Training only knows the mark."""
    while harmony_text.UNKNOWN_MARK in text:
        run = text.index(harmony_text.UNKNOWN_MARK)
        end = run
        while end < len(text) and text[end] == harmony_text.UNKNOWN_MARK:
            end += 1
        text = text[:run] + rng.choice(STRANGE) + text[end:]
    return text


def real_words(rng: Random, setting: data.Setting) -> data.Setting:
    """As `fill`, for instructions and declarations. Function names must stay names."""
    tools = json.loads(fill(rng, json.dumps(setting.tools, ensure_ascii=False)))
    return data.Setting(setting.date, setting.effort, setting.instructions and fill(rng, setting.instructions), tools)


def right(case: Case, got: Completion | None) -> bool:
    """Whether a completion answers the case."""
    if got is None or not got.analysis.strip():
        return False
    item = case.item
    if item.call:
        try:
            return got.call is not None and (got.call[0], json.loads(got.call[1])) == item.call
        except ValueError:
            return False
    if got.final is None:
        return False
    if item.members:
        listed = [x.strip() for x in got.final.split(",")]
        return len(listed) == len(set(listed)) == len(item.final.split(",")) and set(listed) <= set(item.members)
    if item.task == "json":
        try:
            return json.loads(got.final) == json.loads(item.final)
        except ValueError:
            return False
    return got.final.strip() == item.final


class Published:
    """The exported folder, through transformers: batched sampling with a KV cache.

    All untrained tokens have one and the same output row (checked here), hence one and the same logit. The output head is
    therefore cut to the trained rows and one last row for all the others, whose logit gets log(how many) added when
    sampling: the same distribution as over 201088 columns, at a seventieth of the work.
    """

    def __init__(self, folder: str, renderer: harmony_text.Renderer, threads: int):
        import torch

        import export

        torch.set_num_threads(threads)
        self.torch, self.renderer = torch, renderer
        self.model = export.load_published(folder)
        head = self.model.lm_head.weight.detach()
        constant = head[199998]  # `<|startoftext|>` is never trained: its row is the row of every untrained token
        trained = (head != constant).any(-1)
        assert (head[~trained] == constant).all() and 1000 < trained.sum() < 10000
        self.full_head = self.model.lm_head
        self.ids = trained.nonzero().flatten().tolist() + [199998]
        self.lump = torch.zeros(len(self.ids))
        self.lump[-1] = (~trained).sum().log()
        self.model.lm_head = torch.nn.Linear(head.shape[1], len(self.ids), bias=False)
        self.model.lm_head.weight.data = head[self.ids].clone()
        self.outside = 0  # sampled tokens without a trained row
        self.highest_outside = -float("inf")  # highest logit an untrained token ever had

    def prompt(self, case: Case) -> list[int]:
        s = case.setting
        ids = self.renderer.root(case.messages, s.tools, data.EFFORTS[s.effort], s.date)
        return [0 if t == UNKNOWN_ID else t for t in ids + self.renderer.dialogue(case.messages)]

    def complete(self, prompts: list[list[int]], temperature: float, generator=None) -> list[list[int]]:
        """Completions with their stop token, in order. Left-padded batches; padding is masked."""
        torch, out = self.torch, [[] for _ in prompts]
        longest = max(map(len, prompts))
        ids = torch.tensor([[199999] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        place = (mask.cumsum(-1) - 1).clamp(min=0)
        cache, rows = None, list(range(len(prompts)))
        with torch.no_grad():
            for _ in range(LIMIT):
                result = self.model(input_ids=ids, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits = result.past_key_values, result.logits[:, -1]
                self.highest_outside = max(self.highest_outside, logits[:, -1].max().item())
                if temperature == 0:
                    column = logits.argmax(-1)
                else:
                    column = torch.multinomial((logits / temperature + self.lump).softmax(-1), 1, generator=generator)[:, 0]
                token = torch.tensor(self.ids)[column]
                for row, t in zip(rows, token.tolist()):
                    if not out[row] or out[row][-1] not in (RETURN, CALL):
                        out[row].append(t)
                        self.outside += t == self.ids[-1]
                if all(o[-1] in (RETURN, CALL) for o in out):
                    break
                ids, place = token[:, None], place[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        return out

    def answers(self, wanted: list[Case]) -> list[Completion | None]:
        prompts = [self.prompt(c) for c in wanted]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        result: list[Completion | None] = [None] * len(prompts)
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            for i, ids in zip(batch, self.complete([prompts[i] for i in batch], 0.0)):
                result[i] = harmony_text.read_completion(self.renderer.encoding, ids)
        return result


class Server:
    """A running server, over plain HTTP."""

    def __init__(self, url: str, model: str | None):
        self.url, self.model = url.rstrip("/"), model
        if self.model is None:
            with urllib.request.urlopen(self.url + "/v1/models", timeout=120) as reply:
                self.model = json.load(reply)["data"][0]["id"]

    def answer(self, case: Case) -> Completion | None:
        s = case.setting
        body = {"model": self.model, "messages": case.messages, "reasoning_effort": data.EFFORTS[s.effort], "temperature": 0, "max_tokens": LIMIT}
        if s.tools:
            body["tools"] = s.tools
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                choice = json.load(reply)["choices"][0]
        except urllib.error.HTTPError as error:
            print(f"{error.code}: {error.read().decode()[:300]}", file=sys.stderr)
            return None
        message = choice["message"]
        calls = message.get("tool_calls") or []
        call = (calls[0]["function"]["name"], calls[0]["function"]["arguments"]) if calls else None
        return Completion(message.get("reasoning") or "", None if call else message.get("content"), call)

    def answers(self, wanted: list[Case]) -> list[Completion | None]:
        return [self.answer(c) for c in wanted]


def score(wanted: list[Case], got: list[Completion | None], show: int):
    """Prints the table; an item of `thinking` is right if all three answers are and each effort thinks longer."""
    table: dict[str, list[bool]] = defaultdict(list)
    lengths, i = defaultdict(list), 0
    while i < len(wanted):
        case, step = wanted[i], 3 if wanted[i].task == "thinking" else 1
        group = list(zip(wanted[i : i + step], got[i : i + step]))
        good = all(right(c, g) for c, g in group)
        if step == 3 and good:
            size = [len(g.analysis) for _, g in group]
            good = size[0] < size[1] < size[2]
            for effort, n in zip(data.EFFORTS, size):
                lengths[effort].append(n)
        table[case.task].append(good)
        if not good and show > 0:
            show -= 1
            print(f"wrong [{case.task}, {data.EFFORTS[case.setting.effort]}] {case.item.user[-160:]!r}\n   want {case.item.call or case.item.final!r}\n   got  {group[-1][1]}")
        i += step
    print(f"{'task':16} {'right':>6} {'of':>5} {'share':>8}")
    for task, goods in table.items():
        print(f"{task:16} {sum(goods):6} {len(goods):5} {sum(goods) / len(goods):8.1%}")
    everything = [g for goods in table.values() for g in goods]
    print(f"{'total':16} {sum(everything):6} {len(everything):5} {sum(everything) / len(everything):8.1%}")
    if lengths:
        print("mean characters of reasoning: " + ", ".join(f"{k} {sum(v) / len(v):.0f}" for k, v in lengths.items()))


def sample(model: Published, wanted: list[Case], count: int, seed: int):
    """`count` completions at temperature 1."""
    generator = model.torch.Generator().manual_seed(seed)
    rng, well, total = Random(seed), 0, 0
    prompts = sorted((model.prompt(rng.choice(wanted)) for _ in range(count)), key=len)
    model.outside, shown = 0, 0
    for start in range(0, count, 50):
        for ids in model.complete(prompts[start : start + 50], 1.0, generator):
            total += len(ids)
            good = harmony_text.read_completion(model.renderer.encoding, ids) is not None
            well += good
            if not good and shown < 5:
                shown += 1
                print("malformed:", model.renderer.encoding.decode(ids))
    print(f"{count} samples at temperature 1, {total} tokens: well-formed {well / count:.2%}, tokens outside the trained vocabulary {model.outside}")


def worst_untrained_logit(model: Published, rounds: int = 40):
    """Random tokens of the whole vocabulary as input: the highest logit of an untrained token, and the lowest best logit."""
    torch, generator = model.torch, model.torch.Generator().manual_seed(5)
    best = float("inf")
    for i in range(rounds):
        high = 200000 if i % 2 else 256  # half of the rounds on a small set, where repetitions are frequent
        logits = model.model(torch.randint(high, (1, 384), generator=generator)).logits[0]
        model.highest_outside = max(model.highest_outside, logits[:, -1].max().item())
        best = min(best, logits.max(-1).values.min().item())
    print(f"untrained tokens: highest logit seen {model.highest_outside:.1f}; lowest best logit on random input {best:.1f}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--vocab", required=True, help="o200k_base.tiktoken")
    args.add_argument("--model", help="exported folder (default: this one), or the model's name for --url (default: the server's first)")
    args.add_argument("--url", help="score a running server instead")
    args.add_argument("--per-task", type=int, default=40)
    args.add_argument("--tasks", help="score only these, separated by commas (none: no scores, only samples)")
    args.add_argument("--samples", type=int, default=0, help="completions at temperature 1 to check (transformers only)")
    args.add_argument("--show", type=int, default=10, help="wrong answers to print")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--seed", type=int, default=11)
    a = args.parse_args()

    renderer = harmony_text.Renderer(harmony_text.load_encoding(a.vocab))
    wanted = cases(data.Source(renderer, evaluation=True), a.per_task, a.seed)
    assert all(held_out(c.item.key) for c in wanted)
    scored = [c for c in wanted if not a.tasks or c.task in a.tasks.split(",")]
    began = time.time()
    backend = Server(a.url, a.model) if a.url else Published(a.model or os.path.dirname(os.path.abspath(__file__)), renderer, a.threads)
    if scored:
        score(scored, backend.answers(scored), a.show)
    if a.samples and not a.url:
        sample(backend, wanted, a.samples, a.seed)
        with backend.torch.no_grad():
            worst_untrained_logit(backend)
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
