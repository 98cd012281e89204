"""Whether both servers compute the same function: the peer's greedy tokens, judged by ours.

Both get the same token ids. The peer continues each prompt greedily and reports the log-probabilities of the likeliest
tokens at every step; ours then reports its own for the same text. Knows nothing of speed. Invariant: a step passes only if
the peer's token is ours as well, or lies within a tolerance below it.

The tolerances are for what separates the two by design: Q8_0 against what our server does with bf16 matrices, and int8
activations. A wrong layout, window, sink, rope or bias moves log-probabilities by whole numbers.
"""

import dataclasses
import random
import statistics

import machine
from models import Model
from servers import OURS, PEER, Programs, server

TOP = 10
# Nats. A token of the peer's that is not our first may be this much less likely by our count.
MAX_GAP = 0.5
# Nats, mean over all steps of the divergence over the shared likeliest tokens.
MAX_MEAN_DIVERGENCE = 0.02

START, MESSAGE, END, CHANNEL, RETURN = 200_006, 200_008, 200_007, 200_005, 200_002
QUESTIONS = [
    "What is the capital of France?",
    "What is 3 + 4?",
    "Repeat: green river",
    "Reverse the word: table",
    "Hello!",
    "Größe, 漢字 and 12345 — whose vocabulary is this?",
]


@dataclasses.dataclass
class Step:
    """One greedy token of the peer's."""

    same: bool
    # Our log-probability of our likeliest token less that of the peer's.
    gap: float
    # Between the two sides' log-probabilities of the peer's token.
    difference: float
    # Of ours from the peer's, over the tokens that both list.
    divergence: float


def text_prompts(peer: machine.Server, ours: machine.Server) -> list[list[int]]:
    """Harmony conversations; the last is longer than the sliding window. Also compares the two vocabularies."""
    prompts = []
    for text in [*QUESTIONS, " ".join(QUESTIONS * 8)]:
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


def greedy(peer: machine.Server, prompt: list[int], steps: int) -> list[tuple[int, float, dict[int, float]]]:
    """The peer's tokens, each with its log-probability and those of the likeliest tokens."""
    body = {"prompt": prompt, "n_predict": steps, "temperature": 0, "n_probs": TOP, "cache_prompt": False}
    answer = peer.post("/completion", body)
    return [
        (step["id"], step["logprob"], {top["id"]: top["logprob"] for top in step["top_logprobs"]})
        for step in answer["completion_probabilities"]
    ]


def judge(ours: machine.Server, model: str, prompt: list[int], steps: list) -> list[Step]:
    """Our view of the same tokens."""
    body = {"model": model, "prompt": prompt + [token for token, _, _ in steps], "max_tokens": 1, "temperature": 0}
    answer = ours.post("/v1/completions", {**body, "prompt_logprobs": TOP})
    places = answer["choices"][0]["prompt_logprobs"][len(prompt) :]
    judged = []
    for (token, logprob, tops), place in zip(steps, places, strict=True):
        mine = {int(other): entry["logprob"] for other, entry in place.items()}
        best = max(mine.values())
        shared = [other for other in tops if other in mine]
        divergence = sum(2.718281828**tops[other] * (tops[other] - mine[other]) for other in shared)
        judged.append(Step(mine[token] == best, best - mine[token], abs(mine[token] - logprob), divergence))
    return judged


def compare(programs: Programs, model: Model, trained: bool, prompts: int, steps: int) -> dict:
    """Runs both servers, one after the other where memory is short, and returns the findings."""
    peer_server = server(programs, PEER, model, 1, 2048)
    ours_server = server(programs, OURS, model, 1, 2048)
    name = model.folder.name
    if trained:
        with peer_server as peer, ours_server as ours:
            asked = text_prompts(peer, ours)
            answers = [greedy(peer, prompt, steps) for prompt in asked]
            judged = [judge(ours, name, prompt, answer) for prompt, answer in zip(asked, answers)]
    else:
        asked = random_prompts(model.config()["vocab_size"], prompts, 7)
        with peer_server as peer:
            answers = [greedy(peer, prompt, steps) for prompt in asked]
        with ours_server as ours:
            judged = [judge(ours, name, prompt, answer) for prompt, answer in zip(asked, answers)]
    flat = [step for one in judged for step in one]
    differences = sorted(step.difference for step in flat)
    result = {
        "model": model.name,
        "prompts": len(asked),
        "steps": len(flat),
        "same": sum(step.same for step in flat),
        "texts_same": sum(all(step.same for step in one) for one in judged),
        "max_gap": max(step.gap for step in flat),
        "median_difference": statistics.median(differences),
        "p95_difference": differences[int(0.95 * (len(differences) - 1))],
        "mean_divergence": statistics.fmean(step.divergence for step in flat),
    }
    result["passed"] = result["max_gap"] <= MAX_GAP and result["mean_divergence"] <= MAX_MEAN_DIVERGENCE
    return result


def sentence(result: dict) -> str:
    """For people."""
    return (
        f"{result['model']}: {result['same']} of {result['steps']} greedy tokens are the same, "
        f"{result['texts_same']} of {result['prompts']} texts entirely; the others lie at most {result['max_gap']:.3f} nats "
        f"below ours (limit {MAX_GAP}); log-probabilities differ by {result['median_difference']:.4f} (median), "
        f"{result['p95_difference']:.4f} (p95); divergence {result['mean_divergence']:.5f} nats (limit {MAX_MEAN_DIVERGENCE}): "
        + ("the same function" if result["passed"] else "NOT THE SAME FUNCTION")
    )
