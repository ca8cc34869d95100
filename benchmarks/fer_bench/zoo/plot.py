"""Operations against time, both on logarithmic axes: were the one the other, all nets would lie on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_bench.plotting import COLOURS, MARKERS, new_figure, styled
from fer_runtimes.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(content: dict[str, Any]) -> Figure:
    """A point for each net and runtime, named at the first. Raises BadInput where nothing was timed."""
    points: dict[str, list[tuple[str, float, float]]] = {}
    for net in content["nets"]:
        for result in net["results"]:
            if result["ns_per_mac"]:
                point = (net["name"], net["macs"] / 1e6, result["latency_ms"]["p50"])
                points.setdefault(result["runtime"], []).append(point)
    if not points:
        raise BadInput("no net was timed, so there is nothing to plot")
    figure = new_figure(9.0, 6.5)
    with styled():
        axes = figure.subplots()
        for i, (runtime, found) in enumerate(points.items()):
            _, macs, times = zip(*found, strict=True)
            axes.plot(macs, times, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=runtime)
        for name, macs_of_one, p50 in next(iter(points.values())):
            axes.annotate(name, (macs_of_one, p50), (4, 3), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.set_yscale("log")
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        for decade in range(-6, 7):  # equal time per MAC
            axes.plot([left, right], [left * 10.0**decade, right * 10.0**decade], color="#999999", linewidth=0.5)
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        axes.set_xlabel("million multiply-accumulates for one image")
        axes.set_ylabel("p50, milliseconds")
        axes.set_title("Operations are not time (grey: equal time per operation)", fontsize=10)
        axes.grid(which="major")
        axes.legend()
    return figure
