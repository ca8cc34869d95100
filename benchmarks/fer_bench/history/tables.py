"""Runs, and the comparison of two, as tables for a terminal and as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fer_bench.history.compare import MARGIN, Change, Compared, Comparison
from fer_bench.history.figures import FIGURES, Figure, Row
from fer_bench.history.runs import Run
from fer_bench.history.text import plain
from fer_bench.tables import name_of

if TYPE_CHECKING:
    from rich.table import Table


def fastest(run: Run) -> Row | None:
    """The row with the lowest p50; the runtime ``null``, which does nothing, is none."""
    timed = [row for row in run.rows if row["runtime"] != "null" and FIGURES["p50_ms"].of(row) is not None]
    return min(timed, key=lambda row: float(row["latency_ms"]["p50"]), default=None)


def summary(run: Run) -> dict[str, Any]:
    """What a list says of a run: plain values, milliseconds, shares of 1; the accuracy is that of the fastest row."""
    best = fastest(run)
    return {
        "id": run.id,
        "made": run.made and run.made.isoformat(),
        "machine": run.machine,
        "commit": run.commit or None,
        "rows": len(run.rows),
        "data": run.data and {key: run.data.get(key) for key in ("name", "split", "images", "sha256")},
        "fastest": best and {key: best[key] for key in ("runtime", "target", "precision", "bundle")},
        "p50_ms": best and best["latency_ms"]["p50"],
        "accuracy": best and best.get("accuracy"),
    }


def listed(runs: Iterable[Run]) -> Table:
    """A rich table, one line a run."""
    table = _table(
        *("id", "date (UTC)", "machine", "commit", "rows", "data", "best p50 ms", "of", "its accuracy %"),
        right=("id", "rows", "best p50 ms", "its accuracy %"),
    )
    for run in runs:
        best = fastest(run)
        table.add_row(
            *(str(run.id), run.date, run.machine, run.commit or "-", str(len(run.rows)), run.data_name or "-"),
            _written(FIGURES["p50_ms"], best),
            plain(f"{name_of(best)} {best['precision'] or ''}") if best else "-",
            _written(FIGURES["accuracy"], best),
        )
    return table


def compared(comparison: Comparison) -> Table:
    """A rich table: each row that is in both runs with its figures in A and in B, what changed, and the verdict."""
    table = _table("row", "figure", "A", "B", "B against A", right=("A", "B"))
    for row in comparison.rows:
        name = row.name
        for key, figure in FIGURES.items():
            old, new = figure.of(row.a), figure.of(row.b)
            if old is None and new is None:
                continue
            words = _change(key, figure, row, comparison)
            table.add_row(name, figure.words, _written(figure, row.a), _written(figure, row.b), words)
            name = ""
        table.add_row(name, "latency", "", "", _verdict(row, comparison))
        for note in row.notes:
            table.add_row("", "note", "", "", note)
        table.add_section()
    return table


def remarks(comparison: Comparison) -> list[str]:
    """What stands under the table: which runs these are, what is in one alone, and how far the figures can be trusted."""
    a, b = comparison.a, comparison.b
    lines = [
        f"{letter}: {', '.join(filter(None, (plain(run.name), run.machine, run.date, run.commit, run.data_name)))}"
        for letter, run in (("A", a), ("B", b))
    ]
    lines += [
        f"only in {letter}: {'; '.join(names)}"
        for letter, names in (("A", comparison.only_a), ("B", comparison.only_b))
        if names
    ]
    if comparison.elsewhere:
        lines.append(
            f"The latencies are of different machines ({comparison.elsewhere}): a difference is theirs as much as the build's."
        )
    lines.append(
        "The two runs were not taken in turns: their times also differ by what the machine did meanwhile, which no interval "
        "here holds. Trust the speed-ups, each over a reference measured in turns with its row, before the times; and before "
        f"both, builds measured in one run. A verdict takes a difference of {MARGIN - 1:.0%} for chance."
    )
    return lines


def _change(key: str, figure: Figure, row: Compared, comparison: Comparison) -> str:
    old, new = figure.of(row.a), figure.of(row.b)
    if old is None or new is None:
        return "-"
    if key == "ratio":
        return _times(row.relative) if row.relative else f"not compared: {row.why_not}"
    if figure.scale_of(comparison.a, row.a) != figure.scale_of(comparison.b, row.b):
        return "not compared: of different references"
    difference = f"{round(new - old, figure.decimals) + 0.0:+.{figure.decimals}f}"  # + 0.0: no -0.0
    return f"{difference}, {_times(row.times[key])}" if key in row.times else difference


def _times(change: Change) -> str:
    interval = "" if change.low is None else f" [{change.low:.3f}, {change.high:.3f}]"
    return f"{change.value:.3f}x as fast{interval}"


def _verdict(row: Compared, comparison: Comparison) -> str:
    elsewhere = "; of different machines" if comparison.elsewhere else ""
    return f"{row.verdict or 'no verdict'} ({row.grounds}{elsewhere})"


def _written(figure: Figure, row: Row | None) -> str:
    value = figure.of(row) if row else None
    return "-" if value is None else f"{value:.{figure.decimals}f}"


def _table(*headings: str, right: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table
