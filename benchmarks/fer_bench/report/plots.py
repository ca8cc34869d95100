"""The plots of a result file: accuracy against latency, latency distributions, confusion tables, reliability."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import plotting
from fer_bench.plotting import COLOURS, MARKERS
from fer_bench.report.answer import figure, names, pareto, stands
from fer_bench.tables import Row
from fer_runtimes.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches: as wide as a phone, so that its text is readable there
_SLOWEST = 20  # queries of a row that are drawn one by one
_LONGEST = 44  # characters of a name inside a plot
_PERCENTILES = (("p50", "o"), ("p90", "^"), ("p99", "s"))


@dataclass(frozen=True)
class Plot:
    """name: of its files; title, says: heading and caption, plain text; alt: what it shows, for who cannot see it."""

    name: str
    title: str
    says: str
    alt: str
    figure: Figure


def plots(results: dict[str, Any]) -> list[Plot]:
    """Every plot that the results have data for. Raises NotAvailable without matplotlib."""
    rows = results["results"]
    with _drawing():
        return [plot for draw in _DRAWN for plot in draw(rows, names(rows))]


def save_plots(drawn: Sequence[Plot], folder: Path) -> None:
    """Each plot as a .png and as an .svg in the folder, under its title, which a page writes itself."""
    for plot in drawn:
        with _drawing():
            plot.figure.suptitle(_plain(plot.title), fontsize=10)
            for suffix in (".png", ".svg"):
                plotting.save(plot.figure, folder / (plot.name + suffix))


def svg(plot: Plot) -> str:
    """The plot as an ``<svg>`` element for a page."""
    with _drawing():
        return plotting.inline_svg(plot.figure)


@contextmanager
def _drawing() -> Iterator[None]:
    plotting.new_figure()  # says what is missing where matplotlib is
    import matplotlib

    with plotting.styled(), matplotlib.rc_context({"font.size": 9}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a host may be named in any script
        yield


def _plain(text: str) -> str:
    """A name as matplotlib shows it letter by letter: no formula, not hidden, not endless."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 + 1 :]}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _look(i: int) -> dict[str, Any]:
    """Colour and marker of row i, the same in every plot; the two together repeat after 49 rows."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]}


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A log x axis in milliseconds, wide enough to hold two labelled ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    margin = max(1.25, (5 * low / high) ** 0.5)
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    decades = np.log10(high * margin * margin / low)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.3 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x")


def _legend(drawn: Figure, axes: Axes, columns: int = 1) -> None:
    """Below everything, where long names have room on a phone too."""
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(
        handles, labels, loc="outside lower left", ncols=columns, borderaxespad=0.2, handletextpad=0.6, labelspacing=0.3
    )


# --- accuracy against latency ------------------------------------------------------------------


def _trade_off(rows: Sequence[Row], called: Sequence[str]) -> Iterator[Plot]:
    points = {
        i: (p50, accuracy)
        for i, row in enumerate(rows)
        if (p50 := figure(row, "latency_ms", "p50")) is not None
        and p50 > 0
        and (accuracy := figure(row, "accuracy")) is not None
    }
    if not points:
        return
    from matplotlib.ticker import PercentFormatter

    drawn = plotting.new_figure(WIDTH, 2.5 + 0.19 * (len(points) + 1))
    axes = drawn.subplots()
    _logarithmic(axes, [p50 for p50, _ in points.values()])
    accuracies = [accuracy for _, accuracy in points.values()]
    pad = max(0.01, 0.15 * (max(accuracies) - min(accuracies)))
    axes.set_ylim(min(accuracies) - pad, max(accuracies) + pad)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(axis="y")
    axes.set_xlabel("p50 of one image, ms (log)")
    axes.set_ylabel("accuracy")
    for i, (p50, accuracy) in points.items():
        empty: dict[str, Any] = {} if stands(rows[i]) else {"markerfacecolor": "none"}
        axes.plot(p50, accuracy, linestyle="", markersize=7, label=_plain(called[i]), zorder=3, **_look(i), **empty)
    lines = pareto(rows)
    for number, line in enumerate(lines):
        best = [points[i] for i in line]
        xs = [best[0][0], *(p50 for p50, _ in best), axes.get_xlim()[1]]
        ys = [axes.get_ylim()[0], *(accuracy for _, accuracy in best), best[-1][1]]
        label = None if number else "Pareto line: no row above and left of it"
        axes.plot(xs, ys, drawstyle="steps-post", color=COLOURS[6], linestyle="--", linewidth=1.2, label=label)
    _legend(drawn, axes)
    absent = [called[i] for i, row in enumerate(rows) if i not in points and not row.get("error")]
    says = "Up and to the left is better. No row beats those on the dashed line in both."
    if len(lines) > 1:
        says += " Each machine has a line of its own."
    if any(not stands(rows[i]) for i in points):
        says += " Hollow: breaks its bound, or is no engine."
    if absent:
        says += f" Not shown, for want of a latency or an accuracy: {', '.join(absent)}."
    alt = "; ".join(f"{called[i]}: {p50:.3f} ms, {accuracy:.2%}" for i, (p50, accuracy) in points.items())
    yield Plot("accuracy-latency", "Accuracy against latency", says, f"Scatter plot. {alt}", drawn)


# --- latency distributions ---------------------------------------------------------------------


def _distributions(rows: Sequence[Row], called: Sequence[str]) -> Iterator[Plot]:
    timed = [i for i, row in enumerate(rows) if row.get("latency_ms")]
    times = {i: _raw_ms(rows[i]) for i in timed}
    marks = {i: _marks(rows[i]) for i in timed}
    every = [value for one in marks.values() for pair in one.values() for value in pair]
    every += [value for one in times.values() if len(one) for value in (one.min(), one.max())]
    if not every:
        return
    drawn = plotting.new_figure(WIDTH, 1.2 + 0.56 * len(timed))
    axes = drawn.subplots()
    _logarithmic(axes, every)
    low, high = np.log10(axes.get_xlim())
    edges = np.linspace(low, high, 161)
    for place, i in enumerate(timed):
        _distribution(axes, -place, times[i], marks[i], edges, _look(i)["color"])
        axes.text(0, 0.5 - place, _plain(called[i]), transform=axes.get_yaxis_transform(), va="bottom", fontsize=8.5)
    axes.set_ylim(0.7 - len(timed), 0.95)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("one image, ms (log)")
    for key, marker in _PERCENTILES:  # in the legend once, in no row's colour
        axes.plot([], [], color=COLOURS[6], marker=marker, linestyle="", label=key)
    axes.plot([], [], color=COLOURS[6], linewidth=2.5, label="to its bound (99 % sure)")
    if any(map(len, times.values())):
        axes.plot([], [], color=COLOURS[6], marker=".", linestyle="", label=f"{_SLOWEST} slowest queries")
    _legend(drawn, axes, columns=2)
    says = (
        "Every query counts, the slow ones too: nothing is trimmed. "
        "A bar goes from a percentile to what it is at most, with 99 % confidence."
    )
    if bare := [called[i] for i in timed if not len(times[i])]:
        says += f" Percentiles alone, since the file holds no times of single queries: {', '.join(bare)}."
    told = (
        f"{called[i]}: {', '.join(f'{key} {value:.3f} ms' for key, (value, _) in marks[i].items()) or 'too few queries'}"
        for i in timed
    )
    yield Plot("latency", "Latency distributions", says, f"Distribution of times, a row each. {'; '.join(told)}", drawn)


def _marks(row: Row) -> dict[str, tuple[float, float]]:
    """Percentiles that the row's queries support, each with its bound, milliseconds."""
    found = {}
    for key, _ in _PERCENTILES:
        value, bound = figure(row, "latency_ms", key), figure(row, "latency_ms", f"{key}_bound")
        if value is not None and value > 0:
            found[key] = (value, value if bound is None else bound)
    return found


def _raw_ms(row: Row) -> NDArray[np.float64]:
    """Every time that was kept of the row, milliseconds; none where none was."""
    rounds = row.get("raw_ns") or []
    return np.array([time for part in rounds for time in part if time > 0], np.float64) / 1e6


def _distribution(
    axes: Axes,
    base: float,
    times: NDArray[np.float64],
    marks: dict[str, tuple[float, float]],
    edges: NDArray[np.float64],
    colour: str,
) -> None:
    """One row: the heap of its times on the base line, the slowest as dots, its percentiles with their bounds."""
    if len(times):
        counts, _ = np.histogram(np.log10(times), edges)
        heights = base + 0.45 * np.append(counts, 0) / max(counts.max(), 1)
        axes.fill_between(10**edges, base, heights, step="post", color=colour, alpha=0.45, linewidth=0)
        slowest = np.sort(times)[-_SLOWEST:]
        axes.plot(slowest, np.full(len(slowest), base), linestyle="", marker=".", markersize=3.5, color=colour)
    axes.plot(axes.get_xlim(), [base, base], color=colour, linewidth=0.5, alpha=0.6)
    for key, marker in _PERCENTILES:
        if key in marks:
            value, bound = marks[key]
            axes.plot([value, bound], [base, base], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(value, base, color=colour, marker=marker, markersize=5.5, zorder=3)


# --- confusion ---------------------------------------------------------------------------------


def _confusions(rows: Sequence[Row], called: Sequence[str]) -> Iterator[Plot]:
    """A heat map for each table; rows whose tables are the same share one."""
    alike: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.get("confusion"):
            alike.setdefault(str(row["confusion"]), []).append(i)
    for number, group in enumerate(alike.values(), start=1):
        who = ", ".join(called[i] for i in group)
        others = f" and {len(group) - 1} more" if len(group) > 1 else ""
        table = np.array(rows[group[0]]["confusion"], np.int64).reshape(len(LABELS), len(LABELS))
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
        yield Plot(
            "confusion" if len(alike) == 1 else f"confusion-{number}",
            f"Confusion: {called[group[0]]}{others}",
            "Percent of the images of each true class, whose number stands beside it."
            + (f" The same table for {who}." if others else ""),
            f"Heat map of {who}. {_told(shares)}",
            _confusion(table, shares),
        )


def _told(shares: NDArray[np.float64]) -> str:
    """Each class in words: how much of it is right, and what it is taken for most."""
    words = []
    for i, label in enumerate(LABELS):
        others = np.where(np.arange(len(LABELS)) == i, 0, shares[i])
        taken = f", {others.max():.0%} taken for {LABELS[others.argmax()]}" if others.any() else ""
        words.append(f"{label}: {shares[i, i]:.0%} right{taken}")
    return "; ".join(words)


def _confusion(table: NDArray[np.int64], shares: NDArray[np.float64]) -> Figure:
    from matplotlib.patches import Rectangle

    drawn = plotting.new_figure(WIDTH, 3.1)
    axes = drawn.subplots()
    for (i, j), share in np.ndenumerate(shares):
        # at most 0.7 of the colour, so that the page's ink stays readable on it, on white and on black
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=COLOURS[0], alpha=0.7 * share, linewidth=0))
        if table[i].sum():
            weight = "bold" if i == j else "normal"
            axes.text(j + 0.5, i + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, fontweight=weight)
    places = np.arange(len(LABELS)) + 0.5
    axes.set(xlim=(0, len(LABELS)), ylim=(len(LABELS), 0), aspect="equal", xlabel="answered")
    axes.set_xticks(places, LABELS, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, [f"{label} {count:,}" for label, count in zip(LABELS, table.sum(1), strict=True)])
    axes.tick_params(length=0)
    return drawn


# --- reliability -------------------------------------------------------------------------------


def _reliabilities(rows: Sequence[Row], called: Sequence[str]) -> Iterator[Plot]:
    """A diagram for each set of bins; rows that differ by a few images on the edge of a bin share one."""
    alike: list[list[int]] = []
    for i, row in enumerate(rows):
        if found := row.get("calibration"):
            for group in alike:
                if _same_bins(rows[group[0]]["calibration"], found):
                    group.append(i)
                    break
            else:
                alike.append([i])
    for number, group in enumerate(alike, start=1):
        found = rows[group[0]]["calibration"]
        others = f" and {len(group) - 1} more" if len(group) > 1 else ""
        error, fitted = found["calibration_error"], found["fitted_on"]
        says = (
            "On the dashed line a confidence of 80 % is right 8 times in 10; below it answers are too sure, above it not sure "
            f"enough. Measured on {found['images']} faces ({found['measured_on']}). Calibration error {error['raw']:.3f} as the logits are"
        )
        if fitted:
            says += (
                f", {error['scaled']:.3f} with the temperature {found['temperature']:.3f}, which was fitted on "
                f"{fitted['images']} faces of {fitted['data']} {fitted['split']}."
            )
        else:
            says += "; no temperature was fitted."
        if len(group) > 1:
            says += f" The same for {', '.join(called[i] for i in group)}."
        yield Plot(
            "reliability" if len(alike) == 1 else f"reliability-{number}",
            f"Reliability: {called[group[0]]}{others}",
            says,
            f"Accuracy against confidence. {_bins_told(found)}",
            _reliability(found),
        )


def _same_bins(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether at most an image in 200 stands in another bin, or is right in the one and wrong in the other, and the errors are the same."""
    errors = ([found["calibration_error"][name] for name in found["bins"]] for found in (one, other))
    if any(abs(a - b) > 0.001 for a, b in zip(*errors, strict=True)):
        return False
    if one["temperature"] != other["temperature"] or one["images"] != other["images"]:
        return False
    for name in one["bins"]:
        first, second = (np.array(found["bins"][name], np.float64).reshape(-1, 3) for found in (one, other))
        moved = np.abs(first - second)[:, [0, 2]].sum(0) / 2  # each leaves one bin and enters another
        if (moved > max(1, 0.005 * one["images"])).any():
            return False
    return True


def _drawn_bins(found: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """By label, the bins that hold images, ``[B, 3]``: share of the images, mean confidence, accuracy."""
    labels = {"raw": "logits as they are"} | ({"scaled": "with temperature"} if found["fitted_on"] else {})
    drawn = {}
    for name, label in labels.items():
        images, confidence, right = np.array(found["bins"][name], np.float64).reshape(-1, 3).T
        held = images > 0
        drawn[label] = np.stack([images, confidence, right], 1)[held] / images[held, None]
        drawn[label][:, 0] = images[held] / images.sum()
    return drawn


def _bins_told(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{label}: {', '.join(f'{right:.0%} right at {confidence:.0%}' for _, confidence, right in bins)}"
        for label, bins in _drawn_bins(found).items()
    )


def _reliability(found: dict[str, Any]) -> Figure:
    from matplotlib.ticker import PercentFormatter

    drawn = plotting.new_figure(WIDTH, 3.6)
    axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=COLOURS[6], linestyle="--", linewidth=1.2, label="as sure as right")
    for i, (label, bins) in enumerate(_drawn_bins(found).items()):
        share, confidence, right = bins.T
        axes.plot(confidence, right, linewidth=1.4, markersize=5, label=label, **_look(i))
        below.plot(confidence, share, linewidth=1.2, drawstyle="steps-mid", color=COLOURS[i])
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="right")
    below.set(ylim=(0, None), xlabel="confidence", ylabel="of images")
    for one in (axes.yaxis, below.yaxis, below.xaxis):
        one.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid()
    _legend(drawn, axes)
    return drawn


_Drawing = Callable[[Sequence[Row], Sequence[str]], Iterator[Plot]]
# In the order of the page. A plot of a further key of the result file is one function and one entry here.
_DRAWN: tuple[_Drawing, ...] = (_trade_off, _distributions, _confusions, _reliabilities)
