"""What ``fer-bench diff`` shows: a table, notes, a JSON file, a plot."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fer_bench.diff.compare import LEAP, Difference, Row, Side
from fer_bench.plotting import COLOURS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FORMAT = 1
_NAMED = 12  # unmatched layers that are named, of each side
_TICKS = 48  # layers that a plot names


def terminal(found: Difference) -> Table:
    """The matched layers in order; the first that departs is marked."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("", "layer in A", "layer in B"):
        table.add_column(column, overflow="fold")
    for column in ("shape", "max |d|", "relative error", "SQNR dB", "cosine", "growth"):
        table.add_column(column, justify="right", no_wrap=True)
    for place, row in enumerate(found.rows):
        departs = place == found.departs
        cells = (
            ">" if departs else "",
            row.a,
            row.b,
            "x".join(map(str, row.shape)),
            f"{row.max_abs:.1e}",
            f"{row.relative:.1e}",
            f"{row.sqnr_db:.1f}",
            f"{row.cosine:.6f}",
            f"{row.growth:.2g}",
        )
        # names come from the model: Text, so that nothing in them is taken for markup
        table.add_row(*map(Text, cells), style="bold red" if departs else None)
    return table


def notes(found: Difference) -> list[str]:
    """What a user should know of the comparison, a sentence each."""
    told = [
        f"A: {_described(found.a)}; B: {_described(found.b)}; {found.images} images; one rounding is {found.rounding:.1e}"
    ]
    for name, labels in found.unmatched.items():
        if labels:
            more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
            told.append(
                f"{len(labels)} layers of {name.upper()} have no like and were not compared: {', '.join(labels[:_NAMED])}{more}"
            )
    told += [
        f"{name.upper()} was traced without fusion; its logits as the engine runs it differ from the traced ones by {error:.1e}"
        for name, error in found.optimised.items()
    ]
    crops = found.a.bundle.manifest.crop, found.b.bundle.manifest.crop
    if crops[0] != crops[1]:
        told.append(f"A is to be shown {crops[0]:g} of a face and B {crops[1]:g}: here both were given the same bytes")
    return told


def as_json(found: Difference) -> dict[str, Any]:
    """Everything, as plain values. An infinite or undefined figure is null."""
    return {
        "format": FORMAT,
        "verdict": found.verdict(),
        "departs": found.departs,
        "a": _side(found.a),
        "b": _side(found.b),
        "images": found.images,
        "rounding": found.rounding,
        "leap": LEAP,
        "rows": [_finite(row) for row in found.rows],
        "unmatched": found.unmatched,
        "optimised": {name: error if math.isfinite(error) else None for name, error in found.optimised.items()},
    }


def figure(found: Difference) -> Figure:
    """Relative error over layers, log axis; the level that none may pass, and the layer that does."""
    rows = found.rows
    drawn = new_figure(max(7.0, 0.16 * min(len(rows), 100)), 4.8)
    finite = [row.relative for row in rows if math.isfinite(row.relative)]
    floor, top = found.rounding / 16, max([1.0, *finite])
    errors = [min(max(row.relative, floor), top) for row in rows]
    allowed, level = [], found.rounding
    for row in rows:
        allowed.append(LEAP * level)
        level = max(level, row.relative) if row.growth <= LEAP else level
    with styled():
        axes = drawn.subplots()
        axes.semilogy(errors, color=COLOURS[0], marker="o", markersize=3, label="relative error")
        axes.step(range(len(rows)), allowed, where="mid", color=COLOURS[6], linestyle="--", label="departs above")
        axes.axhline(found.rounding, color=COLOURS[6], linewidth=0.8, linestyle=":", label="one rounding")
        if found.departs is not None:
            axes.axvline(found.departs, color=COLOURS[1], linewidth=1)
            axes.plot(
                found.departs, errors[found.departs], color=COLOURS[1], marker="D", linestyle="", label="first departs"
            )
        step = -(-len(rows) // _TICKS)
        places = sorted({*range(0, len(rows), step), *([found.departs] if found.departs is not None else [])})
        axes.set_xticks(places, [rows[place].a.split(" (")[0] for place in places], rotation=90, fontsize=7)
        if found.departs is not None:
            axes.get_xticklabels()[places.index(found.departs)].set_color(COLOURS[1])
        axes.set_ylim(floor / 2, top * 4)
        axes.set_ylabel("||a - b|| / ||a||")
        axes.set_title(f"{found.b.bundle.manifest.name} against {found.a.bundle.manifest.name}", fontsize=10)
        axes.grid(axis="y")
        axes.legend(fontsize=8)
    return drawn


def _described(one: Side) -> str:
    return f"{one.bundle.path} ({one.bundle.manifest.target} {one.bundle.manifest.precision}) in {one.runtime}"


def _side(one: Side) -> dict[str, Any]:
    manifest = one.bundle.manifest
    return {
        "bundle": str(one.bundle.path),
        "digest": one.bundle.digest,
        "target": manifest.target,
        "precision": manifest.precision,
        "runtime": one.runtime,
    }


def _finite(row: Row) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(row).items()
    }
