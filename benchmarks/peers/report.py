"""The rows as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from fer_bench.markdown import table
from peers.table import PEERS
from peers.views import VIEWS

Row = dict[str, Any]
UNSTEADY = 0.1


def _change(name: str) -> Callable[[Row], str]:
    """A view's change in accuracy against the same images as they are, points."""
    return lambda row: f"{(row['robustness'][name] - row['robustness']['as it is']) * 100:+.1f}"


# heading: how a row's cell is written; a cell whose value is missing becomes "-"
COLUMNS: dict[str, Callable[[Row], str]] = {
    "peer": lambda row: str(row["peer"]),
    "runs on": lambda row: str(row["runs_on"]),
    "accuracy": lambda row: f"{row['accuracy']:.2%}",
    "unseen": lambda row: f"{row['accuracy_unseen']:.2%}",
    "calibration error": lambda row: f"{row['calibration_error']:.3f}",
    **{name: _change(name) for name in VIEWS},
    "p50 ms": lambda row: f"{row['latency_ms']['p50']:.3f}",
    "p99 ms": lambda row: f"{row['latency_ms']['p99']:.3f}",
    "time / ours": lambda row: f"{row['times_ours']:.1f}x",
    "memory MB": lambda row: f"{row['memory_bytes'] / 1e6:.0f}",
    "model MB": lambda row: f"{row['model_bytes'] / 1e6:.2f}",
    "parameters": lambda row: f"{row['parameters'] / 1e6:.2f} M",
    "licence": lambda row: str(row["licence"]),
}


def markdown(results: dict[str, Any]) -> str:
    """A page: the table, how to read it, and the peers that could not be measured with their reasons."""
    measured = [row for row in results["results"] if row["error"] is None]
    with_ratios = [row | {"times_ours": times_ours(row, measured)} for row in measured]
    cells = [[_cell(write, row) for write in COLUMNS.values()] for row in with_ratios]
    lines = [*table(list(COLUMNS), cells), "", caption(results)]
    if failed := [row for row in results["results"] if row["error"]]:
        lines += ["", "Not measured:", "", *(f"- {row['peer']} ({row['runs_on']}): {row['error']}" for row in failed)]
    return "\n".join(lines) + "\n"


def times_ours(row: Row, measured: list[Row]) -> float | None:
    """Median, over the rounds, of a peer's p50 in units of ours in the same round; None where ours was not measured."""
    ours = next((other["latency_ms"]["p50_of_rounds"] for other in measured if other["peer"] == PEERS[0].name), None)
    theirs = row["latency_ms"]["p50_of_rounds"]
    return ours and statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def caption(results: dict[str, Any]) -> str:
    """Where and how the figures were made, and what in them is unsure."""
    place, data, settings = results["environment"], results["data"], results["settings"]
    text = (
        f"{place['cpu']}, {settings['threads']} thread{'s' * (settings['threads'] > 1)} on as many cores; "
        f"{data['images']} images of {data['name']} {data['split']}"
    )
    if data.get("also_in_training"):
        text += f", of which {data['also_in_training']} stand in the training split too (“unseen” leaves them out)"
    text += (
        "; calibration error over 15 bins; zoom and rotation are changes in points of accuracy on "
        f"{settings['varied']} of the images; latency of one 48x48 grey face at a time from host memory, the peer's own resizing and "
        f"preprocessing included, {settings['rounds']} rounds in turn, each in a fresh process, nothing trimmed, no p99 below 662 queries; "
        "memory is the peak over the bare process."
    )
    measured = [row for row in results["results"] if row["error"] is None]
    for row in measured:
        for key, verb in (("missing_classes", "has no class"), ("dropped_classes", "has a further class, left out:")):
            if row[key]:
                text += f" {row['peer']} {verb} {', '.join(row[key])}."
    spread = {row["peer"]: _spread(row["latency_ms"]["p50_of_rounds"]) for row in measured}
    if unsteady := {name: share for name, share in spread.items() if share > UNSTEADY}:
        named = ", ".join(f"{name} by {share:.0%}" for name, share in unsteady.items())
        text += f" Unsteady: p50 differs between rounds, {named}."
    return text


def _spread(values: list[float]) -> float:
    return max(values) / min(values) - 1


def _cell(write: Callable[[Row], str], row: Row) -> str:
    try:
        return write(row)
    except TypeError:  # a figure that this row does not have
        return "-"
