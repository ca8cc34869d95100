"""Accuracy against latency, a point a peer: what a user gives up for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_bench.plotting import COLOURS, MARKERS, new_figure, styled
from fer_runtimes.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS = "fer-edge"


def plot(results: dict[str, Any]) -> Figure:
    """p50 on a logarithmic axis, accuracy on the data of ``results``. Raises BadInput where no peer has both."""
    from matplotlib.ticker import ScalarFormatter

    rows = [row for row in results["results"] if row["error"] is None and row["accuracy"] is not None]
    points = sorted((row["latency_ms"]["p50"], row["accuracy"] * 100, row["peer"]) for row in rows if row["latency_ms"])
    if not points:
        raise BadInput("no peer was both scored and timed, so there is nothing to plot")
    data, settings = results["data"], results["settings"]
    figure = new_figure(8.0, 4.8)
    with styled():
        axes = figure.subplots()
        for number, (label, chosen) in enumerate(
            (
                ("ours", [one for one in points if one[2].startswith(OURS)]),
                ("others", [one for one in points if not one[2].startswith(OURS)]),
            )
        ):
            times, accuracies = [one[0] for one in chosen], [one[1] for one in chosen]
            axes.plot(times, accuracies, MARKERS[number], color=COLOURS[number], markersize=8, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.margins(0.08, 0.1)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.4 * (high - low))  # room for the names
        for p50, accuracy, name in points:  # on the slant, so that names of neighbours do not meet
            axes.annotate(name, (p50, accuracy), (3, 6), textcoords="offset points", fontsize=8, rotation=60)
        axes.set_xlabel(f"p50 of one face, milliseconds, {settings['threads']} thread{'s' * (settings['threads'] > 1)}")
        axes.set_ylabel(f"accuracy, %, {data['name']} {data['split']}")
        axes.set_title("Up and to the left is better", fontsize=10)
        axes.grid(which="major")
        axes.legend(loc="lower left")
    return figure
