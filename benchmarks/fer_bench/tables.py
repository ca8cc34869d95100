"""The same rows for a terminal, for Markdown and for csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer_runtimes.labels import LABELS

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]


def _milliseconds(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row['latency_ms'][key]:.3f}"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: row[key] or ""


# heading: how a row's cell is written; a cell whose value is missing becomes "-"
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "machine": lambda row: row.get("machine") or "",
    "runtime": lambda row: row["runtime"] + (" (unfolded)" if row["folded"] is False else ""),
    "target": _text("target"),
    "precision": lambda row: (
        row["precision"]
        if row["compute"] in (None, row["precision"])
        else f"{row['precision']} (computed in {row['compute']})"
    ),
    "device": lambda row: f"{row['device']} x{row['threads']}" if row["threads"] else row["device"],
    "accuracy": lambda row: f"{row['accuracy']:.2%}",
    "unseen": lambda row: f"{row['accuracy_unseen']:.2%}",
    "macro-F1": lambda row: f"{row['macro_f1']:.4f}",
    "agreement": lambda row: f"{row['agreement']:.2%}",
    "p50 ms": _milliseconds("p50"),
    "p90 ms": _milliseconds("p90"),
    "p99 ms": _milliseconds("p99"),
    "mean ms": _milliseconds("mean"),
    "speed-up": lambda row: f"{row['speed_up']:.1f}x",
    "load ms": lambda row: f"{row['load_ms']:.0f}",
    "model MB": lambda row: f"{row['model_bytes'] / 1e6:.2f}",
}
_WORDS = ("machine", "runtime", "target", "precision")


def cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text; columns that no row fills are left out, rows with an error say it in place of figures."""
    slowest: dict[str | None, float] = {}  # by machine: a ratio across machines would say nothing of the runtime
    for row in results["results"]:
        if row["latency_ms"] and row["runtime"] == "pytorch":
            slowest.setdefault(row.get("machine"), row["latency_ms"]["p50"])
    rows = [
        row
        | {
            "speed_up": slowest[row.get("machine")] / row["latency_ms"]["p50"]
            if row.get("machine") in slowest and row["latency_ms"] and row["runtime"] != "null"
            else None
        }
        for row in results["results"]
    ]
    table = {heading: [_cell(write, row) for row in rows] for heading, write in _COLUMNS.items()}
    kept = [heading for heading, column in table.items() if any(text != "-" for text in column)]
    return kept, [[table[heading][i] for heading in kept] for i in range(len(rows))]


def _cell(write: Callable[[Row], str], row: Row) -> str:
    try:
        return write(row) or "-"
    except TypeError:  # a figure that this row does not have
        return "-"


def caption(results: dict[str, Any]) -> str:
    """Where and on what the figures were made."""
    data = results["data"]
    on = (
        f"{data['images']} images of {data['name']} {data['split']}"
        if data
        else "no data set (images of the bundles, no accuracy)"
    )
    if data and data.get("also_in_training"):
        on += f", of which {data['also_in_training']} stand in the training split too (“unseen” leaves them out)"
    facing = sorted({row["agreement_with"] for row in results["results"] if row["agreement_with"]})
    machines = results.get("machines") or {None: results}
    places = [
        f"{name}: {_place(facts['environment'])}" if name else _place(facts["environment"])
        for name, facts in machines.items()
    ]
    queries = " or ".join(map(str, sorted({facts["queries"] for facts in machines.values()})))
    return f"{'; '.join(places)}; {on}; latency of one image at a time, {queries} queries after warm-up" + (
        f"; agreement of top-1 with {' / '.join(facing)}" if facing else ""
    )


def _place(environment: dict[str, Any]) -> str:
    """The machine in some words: what it is, and what its settings and its heat did to the figures."""
    board = environment.get("board") or {}
    facts = [
        board.get("model"),
        environment["cpu"],
        f"{environment['cores']} cores",
        board.get("jetpack") and f"JetPack {board['jetpack']}",
        board.get("power_mode") and f"power mode {board['power_mode']}",
        "throttled while measuring" if (environment.get("after") or {}).get("throttled") else None,
    ]
    return ", ".join(filter(None, facts))


def terminal(results: dict[str, Any]) -> Table:
    """A rich table."""
    from rich.table import Table

    headings, rows = cells(results)
    table = Table(caption=caption(results), caption_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(results: dict[str, Any]) -> str:
    """A Markdown page: the table, recall per class where there is data, and what could not run."""
    headings, rows = cells(results)
    lines = [_line(headings), _line(["---"] * len(headings)), *map(_line, rows), "", caption(results) + "."]
    scored = [row for row in results["results"] if row["recall"]]
    if scored:
        lines += ["", "Recall per class:", "", _line(["runtime", *LABELS]), _line(["---"] * (len(LABELS) + 1))]
        lines += [
            _line([_who(row), *("-" if value is None else f"{value:.1%}" for value in row["recall"])]) for row in scored
        ]
    if failed := [
        f"- {_who(row)}: {row[key]}" for row in results["results"] for key in ("error", "parity_failure") if row[key]
    ]:
        lines += ["", *failed]
    return "\n".join(lines) + "\n"


def comma_separated(results: dict[str, Any]) -> str:
    """One line a row, latency in columns of its own; confusion tables are left to the JSON."""
    flat = []
    for row in results["results"]:
        latency = row["latency_ms"] or {}
        flat.append(
            {key: value for key, value in row.items() if key not in ("latency_ms", "notes", "recall", "confusion")}
            | {
                f"latency_{key}_ms" if key != "count" else "queries": latency.get(key)
                for key in ("p50", "p90", "p99", "mean", "count")
            }
            | {f"recall_{label}": row["recall"][i] if row["recall"] else None for i, label in enumerate(LABELS)}
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _who(row: Row) -> str:
    return f"{row['machine']}: {_COLUMNS['runtime'](row)}" if row.get("machine") else _COLUMNS["runtime"](row)


def _line(values: list[str]) -> str:
    return "| " + " | ".join(values) + " |"
