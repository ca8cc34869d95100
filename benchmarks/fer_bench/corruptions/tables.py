"""The corruption tables, as text for a terminal and for Markdown, and the plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_bench import plotting
from fer_bench.markdown import table as markdown_table
from fer_bench.plotting import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, Any]
Table = tuple[str, list[str], list[list[str]]]
_COLUMNS = 3
_SEVERITIES = [f"severity {severity}" for severity in range(1, 6)]


def tables(results: Results) -> list[Table]:
    """Title, headings and rows: accuracy and change of each net, and with several the nets side by side."""
    found = [made for model in results["models"] for made in (_accuracies(results, model), _changes(model))]
    return found + ([_side_by_side(results)] if len(results["models"]) > 1 else [])


def _accuracies(results: Results, model: dict[str, Any]) -> Table:
    rows = []
    for name, made in results["corruptions"].items():
        row = model["corruptions"][name]
        cells = zip(made["levels"], row["severities"], strict=True)
        shown = [f"{level:g}: {cell['accuracy']:.1%}" for level, cell in cells]
        rows.append([f"{name} ({made['unit']})", *shown, f"{row['mean']:.1%}"])
    every = [row["severities"] for row in model["corruptions"].values()]
    means = [sum(row[i]["accuracy"] for row in every) / len(every) for i in range(5)]
    rows.append(["mean", *(f"{mean:.1%}" for mean in means), f"{model['mean']:.1%}"])
    interval = " [{:.1%}, {:.1%}]".format(*model["mean_interval"]) if model["mean_interval"] else ""
    title = (
        f"{model['name']}: {model['clean']:.1%} as the faces are, {model['mean']:.1%}{interval} over all corruptions"
    )
    return title, ["corruption", *_SEVERITIES, "mean"], rows


def _changes(model: dict[str, Any]) -> Table:
    rows = [
        [name, *(_signed(-cell["drop"], *_turned(cell["interval"])) for cell in row["severities"])]
        for name, row in model["corruptions"].items()
    ]
    return (
        f"{model['name']}: change in points against the faces as they are, with its 95 % interval",
        ["corruption", *_SEVERITIES],
        rows,
    )


def _side_by_side(results: Results) -> Table:
    first, *others = results["models"]
    headings = ["mean over severities", first["name"]]
    for model in others:
        headings += [model["name"], "change, 95 %"]
    rows = [["as the faces are", f"{first['clean']:.1%}"]]
    for model in others:
        rows[0] += [f"{model['clean']:.1%}", f"{100 * (model['clean'] - first['clean']):+.1f}"]
    for name in [*results["corruptions"], None]:
        row = ["all corruptions" if name is None else name, f"{_mean(first, name):.1%}"]
        for model in others:
            change = model["to_first"] if name is None else model["to_first"]["corruptions"][name]
            row += [f"{_mean(model, name):.1%}", _signed(change["mean"], *(change["interval"] or ()))]
        rows.append(row)
    return f"Side by side, on the same pictures; change in points from {first['name']}", headings, rows


def _mean(model: dict[str, Any], name: str | None) -> float:
    return float(model["mean"] if name is None else model["corruptions"][name]["mean"])


def _turned(interval: list[float]) -> tuple[float, float]:
    return -interval[1], -interval[0]


def _signed(value: float, *interval: float) -> str:
    """Points with their sign; minus nothing is nothing."""
    points = [round(100 * one, 1) + 0.0 for one in (value, *interval)]
    return f"{points[0]:+.1f}" + ("" if not interval else " [{:+.1f}, {:+.1f}]".format(*points[1:]))


def caption(results: Results) -> str:
    """On what the figures were made."""
    data, place = results["data"], results["environment"]
    copies = data.get("also_in_training")
    return (
        f"{results['images']} of {data['images']} images of {data['name']} {data['split']}"
        + (f" (of which {copies} stand in the training split too)" if copies else "")
        + f", seed {results['seed']}; changes are against the same images as they are, in pairs; {place['cpu']}"
    )


def markdown(results: Results) -> str:
    """A Markdown page."""
    lines: list[str] = []
    for title, headings, rows in tables(results):
        lines += [f"{title}:", "", *markdown_table(headings, rows), ""]
    return "\n".join([*lines, caption(results) + "."]) + "\n"


def plot(results: Results) -> Figure:
    """A panel for each corruption: accuracy by severity, a line for each net, dashed where faces are as they are."""
    from matplotlib.ticker import PercentFormatter

    names = list(results["corruptions"])
    height = -(-len(names) // _COLUMNS)
    drawn = plotting.new_figure(8.5, 2.1 * height + 0.3 * len(results["models"]))
    with plotting.styled():
        panels = drawn.subplots(height, _COLUMNS, sharey=True, squeeze=False)
        for axes, name in zip(panels.flat, names, strict=False):
            made = results["corruptions"][name]
            for i, model in enumerate(results["models"]):
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                accuracies = [cell["accuracy"] for cell in model["corruptions"][name]["severities"]]
                axes.axhline(model["clean"], color=colour, linestyle="--", linewidth=0.8)
                axes.plot(range(1, 6), accuracies, color=colour, marker=marker, markersize=4, label=model["name"])
            axes.set_title(f"{name}\n{made['unit']}", fontsize=9)
            axes.set_xticks(range(1, 6), [f"{level:g}" for level in made["levels"]])
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.grid(axis="y")
        for axes in list(panels.flat)[len(names) :]:
            axes.set_visible(False)
        handles, labels = panels[0][0].get_legend_handles_labels()
        drawn.legend(handles, [label.replace("$", r"\$") for label in labels], loc="outside lower left")
    return drawn
