"""From rounds to medians, ratios, shares of the bounds; as text and as a chart.

Knows only what `bench_peers.py` has stored. Invariant: a figure printed here is a median of measured ones, and a run beside
which others used the machine is marked.
"""

import statistics
from xml.sax.saxutils import escape

from bounds import Cost
from servers import OURS, PEER, SIDES

# A run is noisy when others used more of the machine than this.
NOISE = 0.05


def medians(rounds: list[dict], part: str) -> dict[str, dict[str, float]]:
    """Tokens per second by side and by column."""
    done = [entry[part] for entry in rounds if part in entry]
    return {
        side: {
            column: statistics.median(entry[side]["rates"][column] for entry in done)
            for column in (done[0][side]["rates"] if done else ())
        }
        for side in SIDES
    }


def bounds_of(rounds: list[dict]) -> dict | None:
    """The median of what the machine could do, round by round: it is not the same every minute."""
    done = [entry["bounds"] for entry in rounds if "bounds" in entry]
    if not done:
        return None
    result = dict(done[0])
    for name in ("read_gb_per_s", "int8_gmac_per_s"):
        if result[name] is not None:
            result[name] = statistics.median(entry[name] for entry in done)
    return result


def limit(cost: Cost, bounds: dict, part: str, column: str) -> tuple[float, str]:
    """Tokens per second that no implementation passes here, and why."""
    tokens = int(column)
    seconds, why = cost.seconds(tokens, tokens if part == "decode" else 1, bounds)
    return tokens / seconds, why


def rows(results: dict, part: str) -> list[dict]:
    """One per column of a part: both sides' medians, their ratio, the bound and the shares of it."""
    rates = medians(results["rounds"], part)
    bounds = bounds_of(results["rounds"])
    cost = Cost(results["config"])
    out = []
    for column, peer in rates[PEER].items():
        ours = rates[OURS][column]
        row = {"column": column, "peer": peer, "ours": ours, "ratio": ours / peer}
        if bounds:
            row["bound"], row["why"] = limit(cost, bounds, part, column)
        out.append(row)
    return out


def table(title: str, head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"\n{title}\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


TITLES = {
    "decode": ("Decode, tokens per second of all sequences together", "sequences"),
    "prefill": ("Prefill, tokens per second", "length of the prompt"),
}


def text(results: dict) -> str:
    """Everything, for people."""
    about = results["machine"]
    out = [f"{about['cpu']}, {about['threads']} threads; model {results['model']}; {len(results['rounds'])} rounds, medians"]
    bounds = bounds_of(results["rounds"])
    if bounds:
        arithmetic = bounds["int8_gmac_per_s"]
        arithmetic = f"{arithmetic:.0f} GMAC/s ({bounds['int8_instruction']})" if arithmetic else "unknown int8 rate"
        out.append(f"bounds: {bounds['read_gb_per_s']:.1f} GB/s reading with prefetch, {arithmetic}")
    for part, (title, first) in TITLES.items():
        body = []
        for row in rows(results, part):
            cells = [row["column"], f"{row['peer']:.2f}", f"{row['ours']:.2f}", f"**{row['ratio']:.2f}**"]
            if bounds:
                shares = [f"{row[side] / row['bound']:.0%}" for side in ("peer", "ours")]
                cells += [f"{row['bound']:.1f} ({row['why']})", *shares]
            body.append(cells)
        if body:
            head = [first, PEER, OURS, "ratio"] + (["bound", f"{PEER}: share", f"{OURS}: share"] if bounds else [])
            out.append(table(title, head, body))
    out += mix_text(results["rounds"])
    out += memory_text(results["rounds"])
    out += ["", *noise(results["rounds"])]
    return "\n".join(out)


MIX_ROWS = [
    ("output tokens/s", lambda run: run["tokens_per_s"], 1.0),
    ("TTFT p50, s", lambda run: run["ttft_ms"]["p50"] / 1e3, -1.0),
    ("TTFT p95, s", lambda run: run["ttft_ms"]["p95"] / 1e3, -1.0),
    ("inter-token latency p50, ms", lambda run: run["itl_ms"]["p50"], -1.0),
    ("inter-token latency p95, ms", lambda run: run["itl_ms"]["p95"], -1.0),
    ("time per output token p95, ms", lambda run: run["tpot_ms"]["p95"], -1.0),
]


def mix_medians(rounds: list[dict]) -> list[tuple[str, float, float, float]]:
    """Name, peer, ours, and how many times better ours is."""
    done = [entry["mix"] for entry in rounds if "mix" in entry]
    out = []
    for name, value, sense in MIX_ROWS if done else ():
        peer, ours = (statistics.median(value(run[side]) for run in done) for side in SIDES)
        out.append((name, peer, ours, (ours / peer) ** sense))
    return out


def mix_text(rounds: list[dict]) -> list[str]:
    """The mix's table."""
    body = [[name, f"{peer:.2f}", f"{ours:.2f}", f"**{ratio:.2f}**"] for name, peer, ours, ratio in mix_medians(rounds)]
    if not body:
        return []
    run = next(entry["mix"][PEER] for entry in rounds if "mix" in entry)
    title = f"Ragged mix over HTTP, {run['rate']:.3f} requests/s, {run['slots']} at a time, {run['completion_tokens']} tokens"
    return [table(title, ["", PEER, OURS, "times better"], body)]


def memory_text(rounds: list[dict]) -> list[str]:
    """Peak resident memory, mapped files included."""
    body = []
    for part in (*TITLES, "mix"):
        done = [entry[part] for entry in rounds if part in entry]
        if done:
            peaks = [max(run[side]["peak_rss"] for run in done) / 1e9 for side in SIDES]
            body.append([part, *(f"{peak:.2f}" for peak in peaks)])
    return [table("Peak resident memory, GB", ["", *SIDES], body)] if body else []


def noise(rounds: list[dict]) -> list[str]:
    """Runs that others disturbed, so that nobody takes them for results."""
    out = []
    for number, entry in enumerate(rounds, 1):
        others = entry["bounds"]["others"] if "bounds" in entry else 0.0
        if others > NOISE:
            out.append(f"NOISE: round {number}, bounds: others used {others:.0%} of the machine; the bounds are too low")
        for part in (*TITLES, "mix"):
            for side in SIDES if part in entry else ():
                others = entry[part][side]["others"]
                if others > NOISE:
                    out.append(f"NOISE: round {number}, {part}, {side}: others used {others:.0%} of the machine")
    return out


# The chart: one panel per part, a pair of bars per column, the bound as a line over both.
WIDTH, PANEL, LEFT, TOP, BOTTOM = 860, 250, 60, 54, 46
COLOURS = {PEER: "#9aa5b1", OURS: "#0b6bcb"}
INK, FAINT = "#1f2933", "#d9dee3"


def svg(results: dict) -> str:
    """A chart of the medians."""
    panels = [(part, rows(results, part)) for part in TITLES]
    panels = [(part, entries) for part, entries in panels if entries]
    height = TOP + len(panels) * PANEL + 10
    about = results["machine"]
    caption = f"{results['model']}, {about['cpu']}, {about['threads']} threads, medians of {len(results['rounds'])} rounds"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        label(LEFT, 20, f"{OURS} and {PEER}: tokens per second", size=16, weight="bold"),
        label(LEFT, 38, caption),
    ]
    for number, side in enumerate(SIDES):
        x = WIDTH - 330 + number * 110
        out += [f'<rect x="{x}" y="10" width="12" height="12" fill="{COLOURS[side]}"/>', label(x + 17, 20, side)]
    if any("bound" in row for _, entries in panels for row in entries):
        x = WIDTH - 110
        out += [line(x, 16, x + 14), label(x + 19, 20, "bound")]
    for number, (part, entries) in enumerate(panels):
        out += panel(part, entries, TOP + number * PANEL)
    return "\n".join([*out, "</svg>\n"])


def panel(part: str, entries: list[dict], top: int) -> list[str]:
    """One part's bars."""
    title = f"{TITLES[part][0]}, by {TITLES[part][1]}"
    base, full = top + PANEL - BOTTOM, PANEL - BOTTOM - 44
    highest = max(max(row["ours"], row["peer"], row.get("bound", 0)) for row in entries)
    step = (WIDTH - LEFT - 20) / len(entries)
    bar = min(46, step / 3)
    out = [label(LEFT, top + 16, title, weight="bold")]
    out.append(f'<path d="M{LEFT} {base}H{WIDTH - 20}" stroke="{FAINT}"/>')
    for number, row in enumerate(entries):
        middle = LEFT + (number + 0.5) * step
        for side, x in ((PEER, middle - bar - 2), (OURS, middle + 2)):
            value = row["ours" if side == OURS else "peer"]
            tall = full * value / highest
            out.append(
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}" fill="{COLOURS[side]}"/>'
            )
            out.append(label(x + bar / 2, base - tall - 4, f"{value:.1f}", anchor="middle"))
        if "bound" in row:
            out.append(line(middle - bar - 8, base - full * row["bound"] / highest, middle + bar + 8))
        out.append(label(middle, base + 16, row["column"], anchor="middle"))
        out.append(label(middle, base + 32, f"{row['ratio']:.2f} times", anchor="middle", weight="bold"))
    return out


def label(x: float, y: float, words: str, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    """Text."""
    # The halo keeps a figure readable where a bound's mark crosses it.
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{INK}"'
    style += ' stroke="white" stroke-width="3" paint-order="stroke"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def line(left: float, y: float, right: float) -> str:
    """The mark of a bound."""
    return f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#c0392b" stroke-width="2" stroke-dasharray="4 2"/>'
