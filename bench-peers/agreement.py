"""Whether both servers compute the same function, and how far each is from the weights as published.

Both get the same token ids. The peer continues each prompt greedily and reports the log-probabilities of the likeliest
tokens at every step; ours then reports its own for the same text, once with its default weights and once with
`--weights bf16`, the reference. Knows nothing of speed. Invariant: no view is compared at a place whose past differs.

What separates the sides by design is rounding: Q8_0 and our eight bits against bf16, and eight-bit activations on both.
Where two experts are nearly equal, rounding chooses another one, and a single step moves by much; a wrong layout, window,
sink, rope or bias moves most steps. So the verdict is on shares and means, and the largest gap is only reported.
Random weights are all near ties, and one other expert changes every later step: there the verdict is only that tokens are
the same far more often than by chance, once in the size of the vocabulary. It shows that the shape was converted.
"""

import dataclasses
import math
import random
import statistics

import machine
from models import Model
from servers import OURS, PEER, Programs, server

TOP = 10
# Least share of steps at which both sides' likeliest token is the same, or the other's is within NEAR of it.
MIN_NEAR = 0.98
# Nats.
NEAR = 0.25
# Most nats of divergence over the likeliest tokens, mean over the steps.
MAX_DIVERGENCE = 0.02
# Least share of steps with the same token on random weights; chance would give one in 201088.
MIN_SAME_RANDOM = 0.05

START, MESSAGE, END = 200_006, 200_008, 200_007
QUESTIONS = [
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is 3 + 4?",
    "What is 12 - 5?",
    "Repeat: green river",
    "Repeat: the old bridge",
    "Reverse the word: table",
    "Reverse the word: winter",
    "Hello!",
    "Who are you?",
    "What comes after seven?",
    "Tell a long story.",
    "Count from one to ten.",
    "Größe, 漢字 and 12345: whose vocabulary is this?",
]

# Log-probabilities of the likeliest tokens at one place, by token id.
Tops = dict[int, float]


@dataclasses.dataclass
class Answer:
    """The peer's greedy tokens and what it thought of the likeliest at each step."""

    tokens: list[int]
    tops: list[Tops]


def text_prompts(peer: machine.Server, ours: machine.Server) -> list[list[int]]:
    """Harmony conversations; the last is longer than the sliding window. Also compares the two vocabularies."""
    prompts = []
    for text in [*QUESTIONS, " ".join(QUESTIONS * 3)]:
        tokens = peer.post("/tokenize", {"content": text})["tokens"]
        expected = ours.post("/tokenize", {"prompt": text})["tokens"]
        if tokens != expected:
            raise SystemExit(f"the vocabularies differ: {text!r} is {tokens} to the peer and {expected} to us")
        user, assistant = (peer.post("/tokenize", {"content": role})["tokens"] for role in ("user", "assistant"))
        prompts.append([START, *user, MESSAGE, *tokens, END, START, *assistant])
    return prompts


def random_prompts(vocabulary: int, count: int, seed: int) -> list[list[int]]:
    """Token ids for a model of random weights."""
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary) for _ in range(draw.randint(20, 300))] for _ in range(count)]


def greedy(peer: machine.Server, prompt: list[int], steps: int) -> Answer:
    """The peer's continuation."""
    body = {"prompt": prompt, "n_predict": steps, "temperature": 0, "n_probs": TOP, "cache_prompt": False}
    found = peer.post("/completion", body)["completion_probabilities"]
    tops = [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in found]
    return Answer([step["id"] for step in found], tops)


def view(ours: machine.Server, model: str, prompt: list[int], answer: Answer) -> list[Tops]:
    """What our server thinks at each step of the same text; the peer's token is always among it."""
    body = {"model": model, "prompt": prompt + answer.tokens, "max_tokens": 1, "temperature": 0}
    found = ours.post("/v1/completions", {**body, "prompt_logprobs": TOP})
    places = found["choices"][0]["prompt_logprobs"][len(prompt) :]
    return [{int(token): entry["logprob"] for token, entry in place.items()} for place in places]


def distance(views: list[list[Tops]], reference: list[list[Tops]]) -> dict:
    """How far the first side is from the second."""
    same, gaps, divergences = 0, [], []
    steps = [pair for mine, theirs in zip(views, reference, strict=True) for pair in zip(mine, theirs, strict=True)]
    for mine, theirs in steps:
        first, other = max(mine, key=mine.get), max(theirs, key=theirs.get)
        same += first == other
        # A token that the reference does not list is no likelier than the last that it does.
        floor = min(theirs.values())
        gaps.append(theirs[other] - theirs.get(first, floor))
        divergences.append(sum(math.exp(mine[token]) * (mine[token] - theirs.get(token, floor)) for token in mine))
    return {
        "steps": len(steps),
        "same": same,
        "near": sum(gap <= NEAR for gap in gaps),
        "max_gap": max(gaps),
        "mean_divergence": statistics.fmean(divergences),
        "max_divergence": max(divergences),
    }


def compare(programs: Programs, model: Model, trained: bool, prompts: int, steps: int) -> dict:
    """Asks all three, never two at a time where the model is large."""
    if trained:
        with server(programs, PEER, model, 1, 2048) as peer, server(programs, OURS, model, 1, 2048) as ours:
            asked = text_prompts(peer, ours)
    else:
        asked = random_prompts(model.config()["vocab_size"], prompts, 7)
    with server(programs, PEER, model, 1, 2048) as peer:
        answers = [greedy(peer, prompt, steps) for prompt in asked]
    views = {PEER: [answer.tops for answer in answers]}
    for weights in ("default", "bf16"):
        flags = () if weights == "default" else ("--weights", weights)
        with server(programs, OURS, model, 1, 2048, flags) as ours:
            name = model.folder.name
            views[weights] = [view(ours, name, prompt, answer) for prompt, answer in zip(asked, answers)]
    result = {
        "model": model.name,
        "prompts": len(asked),
        "peer from us": distance(views[PEER], views["default"]),
        "peer from bf16": distance(views[PEER], views["bf16"]),
        "us from bf16": distance(views["default"], views["bf16"]),
    }
    between = result["peer from us"]
    if trained:
        near = between["near"] / between["steps"]
        result["passed"] = near >= MIN_NEAR and between["mean_divergence"] <= MAX_DIVERGENCE
    else:
        result["passed"] = between["same"] >= MIN_SAME_RANDOM * between["steps"]
    return result


def sentences(result: dict) -> str:
    """For people."""
    verdict = "the same function" if result["passed"] else "NOT THE SAME FUNCTION"
    lines = [f"{result['model']}, {result['prompts']} prompts: {verdict}"]
    for name in ("peer from us", "peer from bf16", "us from bf16"):
        found = result[name]
        lines.append(
            f"  {name:14}: {found['same']} of {found['steps']} greedy tokens the same, {found['near']} within {NEAR} nats, "
            f"largest gap {found['max_gap']:.3f}; divergence mean {found['mean_divergence']:.5f}, "
            f"largest {found['max_divergence']:.4f} nats"
        )
    return "\n".join(lines)
