"""One figure over the commits, a line for each machine, runtime and bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_bench.history.figures import FIGURES, Figure, Row
from fer_bench.history.runs import Run
from fer_bench.history.text import plain
from fer_bench.plotting import COLOURS, MARKERS, new_figure, styled
from fer_bench.tables import name_of
from fer_runtimes.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Line = tuple[str, ...]  # what makes a line: the words of its label, those that all lines share included
_STYLES = ("-", "--", ":", "-.")
_HASH = 7  # signs of a commit under the axis


def plot(runs: Sequence[Run], name: str) -> Drawing:
    """The figure of that name over time; ``runs`` as ``kept_runs`` orders them.

    Runs of several machines of one commit and day stand above one another, those of one machine side by side.
    Raises BadInput for another name, or where no run has it.
    """
    if name not in FIGURES:
        raise BadInput(f"figure {plain(name)!r} is unknown; known are {', '.join(FIGURES)}")
    figure = FIGURES[name]
    lines: dict[Line, list[tuple[str, Row]]] = {}
    places: dict[str, None] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for run in runs:
        if not (having := [row for row in run.rows if figure.of(row) is not None]):
            continue
        day = _day(run)
        seen[run.machine, day] += 1
        number = seen[run.machine, day]
        place = day if number == 1 else f"{day} #{number}"
        places[place] = None
        for row in having:
            lines.setdefault(_line(figure, run, row), []).append((place, row))
    if not lines:
        raise BadInput(f"no run has {name}; fer-bench history list shows which runs there are")
    return _drawn(figure, lines, list(places))


def _drawn(figure: Figure, lines: dict[Line, list[tuple[str, Row]]], places: list[str]) -> Drawing:
    drawing = new_figure(max(7.0, 0.9 * len(places) + 2), 4.2 + 0.2 * len(lines))
    labels = _labels(list(lines))
    with styled():
        axes = drawing.subplots()
        for i, (line, points) in enumerate(lines.items()):
            values = [figure.of(row) or 0.0 for _, row in points]
            bounds = [figure.bounds(row) or (value, value) for (_, row), value in zip(points, values, strict=True)]
            axes.errorbar(
                [places.index(place) for place, _ in points],
                values,
                yerr=[
                    [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)],
                    [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)],
                ],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle=_STYLES[i // len(COLOURS) % len(_STYLES)],
                markersize=5,
                capsize=2,
                label=labels[line],
            )
        axes.set_xticks(range(len(places)), places, rotation=0 if len(places) < 8 else 60)
        axes.set_xlim(-0.5, len(places) - 0.5)
        if figure.from_zero:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(figure.words)
        axes.grid(axis="y")
        barred = figure.bars and any(figure.bounds(row) for points in lines.values() for _, row in points)
        axes.set_title(_title(figure, list(lines)) + (f"\nbars: {figure.bars}" if barred else ""), fontsize=10)
        drawing.legend(loc="outside lower center", ncols=1 if max(map(len, labels.values())) > 40 else 2, fontsize=9)
    return drawing


def _line(figure: Figure, run: Run, row: Row) -> Line:
    """Machine, runtime, bundle, device and threads, and what else must be the same for its points to be joined."""
    bundle = row["bundle"] or " ".join(filter(None, (row["target"], row["precision"])))
    where = f"{row['device'] or ''} x{row['threads']}" if row["threads"] else row["device"] or ""
    return tuple(map(plain, (run.machine, name_of(row), bundle, where, figure.scale_of(run, row))))


def _shared(lines: Sequence[Line]) -> list[bool]:
    return [len(set(words)) == 1 for words in zip(*lines, strict=True)]


def _labels(lines: Sequence[Line]) -> dict[Line, str]:
    """What tells the lines apart; what all share stands in the title."""
    shared = _shared(lines)
    return {
        line: _verbatim(
            ", ".join(word for word, same in zip(line, shared, strict=True) if word and not same) or line[1]
        )
        for line in lines
    }


def _title(figure: Figure, lines: Sequence[Line]) -> str:
    common = [word for word, same in zip(lines[0], _shared(lines), strict=True) if word and same]
    return _verbatim(", ".join([figure.words, *common]))


def _verbatim(text: str) -> str:
    """Text in which matplotlib sees no formula, and which its legend does not hide for a leading underscore."""
    return text.replace("$", r"\$").lstrip("_")


def _day(run: Run) -> str:
    """What stands under a run: its commit, and its day."""
    commit, mark, changed = run.commit.partition("-")
    return _verbatim(
        f"{commit[:_HASH] or 'no commit'}{mark}{changed}\n{run.made.date() if run.made else 'unknown date'}"
    )
