"""Writes the parity fixtures of the engine's tests from the exported model, through transformers' `GptOssForCausalLM`.

MXFP4 weights are dequantised and everything is computed in f32 with the eager attention, so the numbers are those of
the reference implementation and not of its fast paths. A greedy continuation ends before
the first near tie: a parity test must not hang on the last bits of a sum. For the same reason a prompt is passed over
if rounding keys and values to bf16, as the engine's cache does, moves its best logits: there a router's choice of experts
is a near tie.
"""

import argparse
import json
import os
from random import Random

import data
import eval as evaluation
import harmony_text

NEW_TOKENS = 24
MARGIN = 0.05  # smallest allowed gap between the best and the second-best logit at every greedy step
ROUNDING = 0.05  # largest change of the best 20 logits by rounded keys and values
SHORTEST = 8  # greedy tokens a fixture has at least


def prompts(model: "evaluation.Published", renderer: harmony_text.Renderer, rng: Random) -> list[tuple[str, list[int]]]:
    """Named prompts from 10 to 400 tokens: dialogues, plain text without any harmony, and random ids."""
    made = []
    source = data.Source(renderer, evaluation=True)
    for task in ("greeting", "fact", "arithmetic", "weather_call", "weather_result", "json", "long"):
        made += [(task, model.prompt(c)) for c in evaluation.cases(source, 6, seed=23) if c.task == task]
    made.append(("plain text", renderer.text("The capital of France is Paris. The capital of Italy is")))
    trained = model.ids[:-1]  # nearly all other tokens look the same to the model
    for length in (10, 64, 127, 128, 129, 130, 200, 257, 400):
        made += [(f"random {length}", [rng.choice(trained) if rng.random() < 0.8 else rng.randrange(198000) for _ in range(length)]) for _ in range(4)]
    return made


def stable(model: "evaluation.Published", one: dict) -> bool:
    """Whether prompt and continuation come out the same with keys and values rounded to bf16."""
    torch = model.torch
    layers = [layer.self_attn for layer in model.model.model.layers]
    rounded = lambda _module, _inputs, output: output.bfloat16().float()  # noqa: E731
    hooks = [part.register_forward_hook(rounded) for layer in layers for part in (layer.k_proj, layer.v_proj)]
    try:
        tokens, ends = one["prompt"] + one["greedy"], len(one["prompt"]) - 1
        with torch.no_grad():
            logits = model.model(torch.tensor([tokens]), use_cache=False).logits[0, ends:]
    finally:
        for hook in hooks:
            hook.remove()
    moved = max(abs(float(logits[0, i]) - v) for i, v in one["top20"])
    return moved < ROUNDING and logits[:-1].argmax(-1).tolist() == one["greedy"]


def fixture(model: "evaluation.Published", name: str, ids: list[int]) -> dict:
    """Greedy continuation up to the first near tie, and the logits after the prompt."""
    torch = model.torch
    tokens, last = list(ids), None
    with torch.no_grad():
        for _ in range(NEW_TOKENS):  # recomputed from scratch each time: no cache that could hide a mistake
            logits = model.model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]
            top = logits.topk(20)
            last = last if last is not None else (logits, top)
            if top.values[0] - top.values[1] < MARGIN:
                break
            tokens.append(int(top.indices[0]))
    logits, top = last
    chosen = [0, 220, 2, 976, 10620, 173781, 199998, *range(200002, 200004), 200005, 200006, 200007, 200008, 200012, 201087]
    return {
        "name": name,
        "prompt": ids,
        "greedy": tokens[len(ids) :],
        "top20": [[int(i), round(float(v), 5)] for i, v in zip(top.indices, top.values)],
        "selected": [[i, round(float(logits[i]), 4)] for i in chosen],
        "logsumexp": round(float(logits.double().logsumexp(-1)), 5),
    }


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.dirname(os.path.abspath(__file__))
    args.add_argument("--vocab", required=True, help="o200k_base.tiktoken")
    args.add_argument("--model", default=here)
    args.add_argument("--out", default=os.path.join(here, "../../crates/engine/tests/fixtures/tiny_parity.json"))
    a = args.parse_args()
    renderer = harmony_text.Renderer(harmony_text.load_encoding(a.vocab))
    model = evaluation.Published(a.model, renderer, 2)
    model.model.lm_head = model.full_head  # here all 201088 logits are wanted
    made: dict[str, dict] = {}  # the longest continuation found for each name
    for name, ids in prompts(model, renderer, Random(29)):
        if len(ids) > 420 or name in made and len(made[name]["greedy"]) == NEW_TOKENS:
            continue
        one = fixture(model, name, ids)
        if len(one["greedy"]) >= SHORTEST and stable(model, one) and len(one["greedy"]) > len(made.get(name, {"greedy": []})["greedy"]):
            made[name] = one
    cases = list(made.values())
    import torch
    import transformers

    how = f"models/tiny/make_fixtures.py, torch {torch.__version__}, transformers {transformers.__version__}, f32, eager attention"
    os.makedirs(os.path.dirname(a.out), exist_ok=True)
    with open(a.out, "w") as f:
        f.write('{"made_by": ' + json.dumps(how) + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    for c in cases:
        print(f"{c['name']:16} {len(c['prompt']):4} tokens, then {renderer.encoding.decode(c['greedy'])!r}")


if __name__ == "__main__":
    main()
