#!/usr/bin/env python3
"""Gossamer and llama.cpp side by side, at the shape of GPT-OSS-20B: `make bench-peers`, docs/bench-peers.md.

Owns the order of things and the file that keeps what was measured. Knows neither side's command line (servers.py).
Invariant: parts run in the order of PARTS; what a part measured is on disk before the next one starts.
"""

import argparse
import datetime
import json
import os
from pathlib import Path

import agreement
import bounds
import machine
import models
import peer
import report
import turns
import vocabulary
from servers import OURS, SIDES, Programs

PARTS = ["peer", "models", "agree", "bounds", "decode", "prefill", "mix", "report"]
# Layers of the random model that both sides must agree on: with all of them even our own eight bits and bf16 agree at no token.
SHORT = 4
# Share of our own capacity at which the mix arrives, unless --rate says otherwise.
NEAR_SATURATION = 0.9


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure Gossamer beside llama.cpp. The full shape needs about 35 GB of disk and 17 GB of memory."
    )
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for sources, builds, models, logs and results")
    add("--programs", type=Path, required=True, help="folder of release programs: gossamer, gossamer-loadtest, ...")
    add("--only", type=lambda text: text.split(","), default=PARTS, help=f"some of {','.join(PARTS)}")
    add("--layers", type=int, default=models.FULL, help="layers of the model; 24 is GPT-OSS-20B [%(default)s]")
    add("--seed", type=int, default=1, help="decides every weight [%(default)s]")
    add("--threads", type=int, default=os.cpu_count(), help="threads of both sides [%(default)s]")
    add("--rounds", type=int, default=3, help="alternating runs [%(default)s]")
    add("--jobs", type=int, default=os.cpu_count(), help="compilers at the same time for the peer [%(default)s]")
    add("--batches", type=numbers, default=[1, 4, 8, 16, 32], help="sequences that decode [1,4,8,16,32]")
    add("--context", type=int, default=128, help="tokens before the decodes, a multiple of 16 [%(default)s]")
    add("--steps", type=int, default=32, help="decode steps [%(default)s]")
    add("--lengths", type=numbers, default=[128, 512, 2048], help="prompts of the prefill [128,512,2048]")
    add("--requests", type=int, default=64, help="requests of the mix [%(default)s]")
    add("--slots", type=int, default=16, help="sequences at a time in the mix [%(default)s]")
    add("--rate", type=float, help="requests per second of the mix [nine tenths of what Gossamer's measured rates allow]")
    add("--serve-flags", default="", help="more flags for gossamer serve")
    add("--chart", type=Path, help="write the chart there as well")
    args = parser.parse_args()
    unknown = set(args.only) - set(PARTS)
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    smallest = {"layers": 1, "threads": 1, "rounds": 1, "jobs": 1, "steps": 1, "requests": 1, "slots": 1, "context": 16}
    for name, least in smallest.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if args.context % 16 or min(args.batches) < 1 or min(args.lengths) < 1 or (args.rate is not None and args.rate <= 0):
        parser.error("--context must be a multiple of 16, --batches and --lengths at least 1, --rate more than 0")
    return args


def arrival_rate(results: dict, wanted: float | None) -> float:
    """Requests per second that nearly saturate our server, by its measured rates."""
    if wanted is not None:
        return wanted
    decode = report.medians(results["rounds"], "decode")[OURS]
    prefill = report.medians(results["rounds"], "prefill")[OURS]
    if "16" not in decode or "512" not in prefill:
        raise SystemExit("the mix needs --rate, or measurements of 16 sequences and of 512 tokens before it")
    seconds = turns.MIX_MEAN_PROMPT / prefill["512"] + turns.MIX_MEAN_ANSWER / decode["16"]
    return round(NEAR_SATURATION / seconds, 4)


def check_memory(model: models.Model) -> None:
    """One model at a time must fit, or the figures are the disk's."""
    size = model.gguf.stat().st_size / 1e9
    # The folder has bf16 matrices where the GGUF has Q8_0.
    need = 1.15 * size + 1.5
    free = machine.memory_gb("MemAvailable")
    if free < need:
        raise SystemExit(f"{model.name} needs about {need:.0f} GB of memory, {free:.1f} GB are available")


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    tool = lambda name: args.programs / name  # noqa: E731
    built = peer.build(args.work, args.jobs)
    programs = Programs(
        gossamer=tool("gossamer"),
        loadtest=tool("gossamer-loadtest"),
        speed=tool("examples") / "speed",
        peer=built,
        work=args.work,
        threads=args.threads,
        serve_flags=tuple(args.serve_flags.split()),
    )
    if args.only == ["peer"]:
        return
    words = vocabulary.find_vocabulary(Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")))
    generator = tool("gossamer-make-model")
    tiny = models.tiny(args.work, words)
    model = models.random(args.work, args.layers, args.seed, generator, words)

    def fresh() -> dict:
        about = {"cpu": machine.cpu_name(), "threads": args.threads, "memory_gb": round(machine.memory_gb("MemTotal"), 1)}
        when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return {"date": when, "machine": about, "model": model.name, "config": model.config(), "rounds": [], "agreement": []}

    stored = sorted((args.work / "results").glob("*.json"))
    if args.only == ["report"]:
        if not stored:
            raise SystemExit(f"nothing was measured in {args.work} yet")
        store, results = stored[-1], json.loads(stored[-1].read_text())
    else:
        results = fresh()
        store = args.work / "results" / f"{results['date'].replace(':', '')}.json"
        store.parent.mkdir(exist_ok=True)

    def save() -> None:
        store.write_text(json.dumps(results, indent=1) + "\n")

    if "agree" in args.only:
        short = model if args.layers <= SHORT else models.random(args.work, SHORT, args.seed, generator, words)
        check_memory(short)
        for found in (agreement.compare(programs, tiny, True, 0, 64), agreement.compare(programs, short, False, 4, 32)):
            results["agreement"].append(found)
            save()
            print(agreement.sentences(found), flush=True)
        if not all(found["passed"] for found in results["agreement"]):
            raise SystemExit("the two sides do not compute the same function: nothing else is worth measuring")

    measured = [part for part in ("bounds", "decode", "prefill", "mix") if part in args.only]
    for number in range(args.rounds if measured else 0):
        entry = {}
        results["rounds"].append(entry)
        first = SIDES[number % 2]
        for part in measured:
            print(f"round {number + 1} of {args.rounds}: {part}", flush=True)
            if part == "bounds":
                entry[part] = bounds.measure(args.work, args.threads)
            else:
                check_memory(model)
            if part == "decode":
                entry[part] = turns.decode(programs, model, args.batches, args.context, args.steps, first)
            elif part == "prefill":
                entry[part] = turns.prefill(programs, model, args.lengths, first)
            elif part == "mix":
                # Every round gets the same arrivals.
                rate = results.setdefault("rate", arrival_rate(results, args.rate))
                entry[part] = turns.mix(programs, model, args.requests, args.slots, rate, first)
            save()

    if "report" in args.only and results["rounds"]:
        print(report.text(results))
        charts = [args.work / "chart.svg"] + ([args.chart] if args.chart else [])
        for path in charts:
            path.write_text(report.svg(results))
        print(f"\nwrote {store} and {', '.join(map(str, charts))}")


if __name__ == "__main__":
    main()
