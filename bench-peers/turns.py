"""One round of measurements: each side in its turn.

Owns how a measurement is taken and what is kept of it. Knows nothing of medians and verdicts. Invariant: the sides take
turns, and never are two models loaded at once.
"""

import json
from pathlib import Path

import machine
import servers
from models import Model
from servers import OURS, PEER, SIDES, Programs

# Tokens of the longest request of the mix, prompt and answer.
MIX_TOKENS = 1024
MIX_MEAN_PROMPT, MIX_MEAN_ANSWER = 310, 108


def offline(programs: Programs, model: Model, commands: dict[str, list[str]], first: str) -> dict:
    """Runs both sides' programs; the side that began the last round comes second."""
    result = {}
    for side in sorted(SIDES, key=lambda side: side != first):
        finished = machine.run(commands[side], programs.log(Path(commands[side][0]).name))
        lines = [json.loads(line) for line in finished.output.splitlines() if line.startswith("{")]
        result[side] = {"peak_rss": finished.peak_rss, "others": finished.others, "rates": rates(side, lines)}
        print(f"  {side:9} {result[side]['rates']} tokens/s, others used {finished.others:.0%} of the machine", flush=True)
    return result


def rates(side: str, lines: list[dict]) -> dict[str, float]:
    """Tokens per second, by number of sequences or by length of the prompt."""
    if side == OURS:
        key = {"decode": "sequences", "prefill": "context"}
        return {str(line[key[line["kind"]]]): line["tokens_per_s"] for line in lines if line["kind"] in key}
    if any(line["is_pp_shared"] for line in lines):
        return {str(line["pl"]): line["speed_tg"] for line in lines}
    return {str(line["pp"]): line["speed_pp"] for line in lines}


def decode(programs: Programs, model: Model, batches: list[int], context: int, steps: int, first: str) -> dict:
    """Tokens per second of all sequences together."""
    commands = {side: servers.decode(programs, side, model, batches, context, steps) for side in SIDES}
    return offline(programs, model, commands, first)


def prefill(programs: Programs, model: Model, lengths: list[int], first: str) -> dict:
    """Tokens per second of one prompt."""
    commands = {side: servers.prefill(programs, side, model, lengths) for side in SIDES}
    return offline(programs, model, commands, first)


def mix(programs: Programs, model: Model, requests: int, slots: int, rate: float, first: str) -> dict:
    """The ragged mix over HTTP."""
    template = Path(__file__).with_name("mix.toml").read_text()
    scenario = programs.work / "mix.toml"
    text = template.replace("requests = 64\n", f"requests = {requests}\n")
    scenario.write_text(text.replace("arrivals_per_s = 1.0\n", f"arrivals_per_s = {rate}\n"))
    result = {}
    for side in sorted(SIDES, key=lambda side: side != first):
        out = programs.work / "mix.json"
        with servers.server(programs, side, model, slots, MIX_TOKENS) as server:
            watch, before = machine.Watch(), server.cpu_seconds()
            command = [str(programs.loadtest), "--url", server.url, "--json", str(out), str(scenario)]
            machine.run(command, programs.log(f"mix-{side}"))
            others = watch.others(server.cpu_seconds() - before)
        (report,) = json.loads(out.read_text())
        result[side] = {
            "peak_rss": server.peak_rss,
            "load_s": server.load_seconds,
            "others": others,
            "rate": rate,
            "slots": slots,
            **{name: report[name] for name in MIX_FIELDS},
        }
        print(f"  {side:9} {report['tokens_per_s']:.1f} tokens/s, TTFT p95 {report['ttft_ms']['p95'] / 1e3:.1f} s", flush=True)
    if result[PEER]["completion_tokens"] != result[OURS]["completion_tokens"]:
        raise SystemExit("the servers answered with different numbers of tokens: the mix is not comparable")
    return result


MIX_FIELDS = ["wall_s", "prompt_tokens", "completion_tokens", "tokens_per_s", "ttft_ms", "itl_ms", "tpot_ms"]
