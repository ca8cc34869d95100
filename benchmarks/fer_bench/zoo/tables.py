"""The zoo's one table, for a terminal and for Markdown, and what it says of operations and time."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from fer_bench.markdown import table as markdown_table
from fer_bench.tables import place

if TYPE_CHECKING:
    from rich.table import Table

_WORDS = 2  # columns of words: the others hold figures


def cells(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text. A column that no row fills is left out; what a row has not is "-"."""
    runtimes = _runtimes(content)
    headings = ["backbone", "model", "year", "input", "M parameters", "folded", "M MACs", "model MB", "accuracy"]
    for runtime in runtimes:
        headings += [f"{runtime} p50 ms", "time per MAC"]
    rows = [_row(net, runtimes) for net in content["nets"]]
    kept = [i for i in range(len(headings)) if any(row[i] != "-" for row in rows)]
    return [headings[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _row(net: dict[str, Any], runtimes: list[str]) -> list[str]:
    before, after = net["parameters"], net["parameters_folded"]
    results = {result["runtime"]: result for result in net["results"]}
    sizes = [result["model_bytes"] for result in net["results"] if result["model_bytes"]]
    row = [
        net["name"],
        net["model"],
        str(net["year"]),
        str(net["size"]),
        f"{before / 1e6:.2f}" if before else "-",
        f"{after / 1e6:.2f}" if after != before else "-",
        f"{net['macs'] / 1e6:.1f}" if net["macs"] else "-",
        f"{max(sizes) / 1e6:.1f}" if sizes else "-",
        f"{net['accuracy']:.2%}" if net["accuracy"] is not None else "-",
    ]
    for runtime in runtimes:
        row += _timed(results.get(runtime), net["error"])
    return row


def _timed(result: dict[str, Any] | None, error: str | None) -> list[str]:
    if error or (result and result["error"]):
        return ["failed", "-"]
    p50 = result and (result["latency_ms"] or {}).get("p50")
    if not result or not p50:
        return ["-", "-"]
    reach = f" ±{result['reach']:.0%}" if result["reach"] is not None else ""
    return [f"{p50:.3f}{reach}{' ?' if result['unsure'] else ''}", f"{result['times_best']:.1f}x"]


def facts(content: dict[str, Any]) -> list[str]:
    """What stands under the table, fact by fact."""
    nets = content["nets"]
    groups = max((net["group"] or 0 for net in nets), default=0)
    unsure = sum(bool(result["unsure"]) for net in nets for result in net["results"])
    splits = sorted({net["split"] for net in nets if net["split"]})
    images = sorted({net["parity_images"] for net in nets if net["parity_images"]})
    return [
        *([place(content["environment"])] if "environment" in content else []),
        "random weights but where an accuracy stands",
        *([f"accuracy as its checkpoint records it, on {' or '.join(splits)}"] if splits else []),
        "MACs of convolutions and linear layers for one image, the products within attention apart",
        f"p50 of one image at a time with half its 95 % interval, at least {content['queries']} queries after warm-up, runtimes and nets in turns"
        + (f", in {groups} groups for want of memory" if groups > 1 else ""),
        "time per MAC over the least of its runtime",
        *([f"? marks {unsure} figures that are unsure: --json says why"] if unsure else []),
        *([f"parity checked on {' or '.join(map(str, images))} images a net"] if images else []),
    ]


def said(content: dict[str, Any]) -> list[str]:
    """For each runtime, in one sentence: how often operations order two nets wrongly by time, and where most.

    Only what lies beyond both intervals counts.
    """
    lines = []
    for runtime in _runtimes(content):
        timed = [
            (net["name"], net["macs"], result["latency_ms"]["p50"], _interval(result["latency_ms"]))
            for net in content["nets"]
            for result in net["results"]
            if result["runtime"] == runtime and result["ns_per_mac"]
        ]
        pairs = [(a, b) if a[1] >= b[1] else (b, a) for a, b in combinations(timed, 2)]
        wrong = [(more, less) for more, less in pairs if more[1] > less[1] and more[3][1] < less[3][0]]
        if not wrong:
            continue
        more, less = max(wrong, key=lambda pair: pair[0][1] / pair[1][1])
        lines.append(
            f"On {runtime}, in {len(wrong)} of {len(pairs)} pairs the net with more operations takes less time: "
            f"{more[0]} has {more[1] / less[1]:.1f} times the operations of {less[0]} and takes {more[2] / less[2]:.2f} times as long."
        )
    return lines


def _interval(latency: dict[str, Any]) -> tuple[float, float]:
    low, high = latency["p50_interval"] or (latency["p50"], latency["p50"])
    return low, high


def failures(content: dict[str, Any]) -> list[str]:
    """One line for each net that failed, or runtime of it."""
    return [f"{net['model']}: {net['error']}" for net in content["nets"] if net["error"]] + [
        f"{net['model']} on {result['runtime']}: {result['error']}"
        for net in content["nets"]
        for result in net["results"]
        if result["error"]
    ]


def terminal(content: dict[str, Any]) -> Table:
    """A rich table."""
    from rich.table import Table

    headings, rows = cells(content)
    table = Table(caption="; ".join(facts(content)), caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < _WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(content: dict[str, Any]) -> str:
    """The table, what it says, where it was made, and what failed."""
    lines = [*markdown_table(*cells(content)), ""]
    for line in said(content):
        lines += [line, ""]
    lines.append("; ".join(facts(content)) + ".")
    if failed := failures(content):
        lines += ["", *(f"- {line}" for line in failed)]
    return "\n".join(lines) + "\n"


def _runtimes(content: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(result["runtime"] for net in content["nets"] for result in net["results"]))
