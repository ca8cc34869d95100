"""The same rows for a terminal, for Markdown and for csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer_bench import modes
from fer_bench.markdown import table as markdown_table
from fer_bench.mode_tables import extra
from fer_bench.noise import BUSY
from fer_bench.stats import SURE
from fer_runtimes.labels import LABELS

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]
LITTLE_MEMORY = 0.1  # share of all memory; with less left, pages of files are dropped and read again


def name_of(row: Row) -> str:
    """What tables call a row's runtime."""
    extras = [*(["unfolded"] if row["folded"] is False else []), *([str(row["average"])] if row.get("average") else [])]
    return str(row["runtime"]) + (f" ({', '.join(extras)})" if extras else "")


def _milliseconds(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row['latency_ms'][key]:.3f}"


def _speed_up(row: Row) -> str:
    ratio = row["ratio"]
    interval = (
        "" if ratio["low"] is None or ratio["low"] == ratio["high"] else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    )
    return f"{ratio['value']:.2f}x{interval}{' ?' if ratio['unsure'] else ''}"


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: row[key] or ""


# heading: how a row's cell is written; a cell whose value is missing becomes "-"
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "machine": lambda row: row.get("machine") or "",
    "runtime": name_of,
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
    "speed-up": _speed_up,
    "load ms": lambda row: f"{row['load_ms']:.0f}",
    "model MB": lambda row: f"{row['model_bytes'] / 1e6:.2f}",
}
_FURTHER: dict[str, Callable[[Row], str]] = {
    "runtime": lambda row: _who(row),
    "target": _text("target"),
    "precision": _text("precision"),
    "queries": lambda row: f"{row['latency_ms']['count']}",
    "p50 ms, 95 %": lambda row: "{:.3f} to {:.3f}".format(*row["latency_ms"]["p50_interval"]),
    "p90 ms at most": _milliseconds("p90_bound"),
    "p99 ms at most": _milliseconds("p99_bound"),
    "cores": lambda row: ", ".join(map(str, row["cores"])) if row["pinned"] else f"any of {len(row['cores'])}",
    "prepare ms": lambda row: f"{row['prepare_ms']:.3f}",
    "cold start ms": lambda row: f"{row['cold_start_ms']:.0f}",
    "first inference ms": lambda row: f"{row['first_inference_ms']:.1f}",
    "memory MB": lambda row: f"{row['rss_over_bare_bytes'] / 1e6:.0f}",
}
WORDS = ("machine", "runtime", "target", "precision", "corruption")
# what a csv cell does not hold
_NESTED = (
    *("latency_ms", "ratio", "raw_ns", "notes", "recall", "f1", "confusion", "calibration", "cores", "energy"),
    *("disagreements", "worst_mistakes", *modes.KEYS),
)


def cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text; columns that no row fills are left out, rows with an error say it in place of figures."""
    return _filled(_COLUMNS, results["results"])


def further_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The same for confidence, start and memory, of the rows that have a latency; no rows where none has."""
    return _filled(_FURTHER, [row for row in results["results"] if row["latency_ms"]])


def extra_cells(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of each table of what was measured besides (docs/modes.md)."""
    return extra(results["results"], _who)


def class_cells(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of the tables by class; none without data."""
    found = []
    for key, title, form in (("recall", "Recall per class", "{:.1%}"), ("f1", "F1 per class", "{:.3f}")):
        rows = [
            [_who(row), *("-" if value is None else form.format(value) for value in row[key])]
            for row in results["results"]
            if row.get(key)  # files made before there was an F1 lack it
        ]
        if rows:
            found.append((title, ["runtime", *LABELS], rows))
    return found


def _filled(columns: dict[str, Callable[[Row], str]], rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    table = {heading: [_cell(write, row) for row in rows] for heading, write in columns.items()}
    kept = [heading for heading, column in table.items() if any(text != "-" for text in column)]
    return kept, [[table[heading][i] for heading in kept] for i in range(len(rows))]


def _cell(write: Callable[[Row], str], row: Row) -> str:
    try:
        return write(row) or "-"
    except (TypeError, KeyError):  # a figure that this row does not have, or that its file was made without
        return "-"


def caption(results: dict[str, Any]) -> str:
    """Where and on what the figures were made."""
    return "; ".join(facts(results))


def facts(results: dict[str, Any]) -> list[str]:
    """The caption, fact by fact."""
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
        f"{name}: {place(own['environment'])}" if name else place(own["environment"]) for name, own in machines.items()
    ]
    queries = " or ".join(map(str, sorted({own["queries"] for own in machines.values()})))
    compared = sorted({row["ratio"]["to"] for row in results["results"] if row.get("ratio")})
    return [
        *places,
        on,
        f"latency of one image at a time, at least {queries} queries after warm-up",
        *_averaged(results["results"]),
        *([f"speed-up over {' / '.join(compared)} in the same rounds, with its 95 % interval"] if compared else []),
        *([f"agreement of top-1 with {' / '.join(facing)}"] if facing else []),
        *_unsure(results["results"]),
    ]


def _averaged(rows: list[Row]) -> list[str]:
    """What averaged rows answer and what that costs."""
    found = dict.fromkeys((row["average"], row["passes"]) for row in rows if row.get("average"))
    return [
        f"({average}): the mean logits of {passes} views of each face, all of them in its latency; parity is of one view"
        for average, passes in found
    ]


def _unsure(rows: list[Row]) -> list[str]:
    """Which speed-ups are unsure, marked ? in the table, and why; what would narrow their intervals."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if (ratio := row.get("ratio")) and ratio["unsure"]:
            why = ratio.get("why") or "its interval is too wide"
            for option in ("queries", "processes"):
                if needed := ratio.get(f"{option}_needed"):  # files made before one of them existed lack it
                    why += f" (--{option} {needed} would narrow it to ±{SURE:.0%})"
            found.setdefault(why, []).append(_who(row))
    return [f"speed-up of {', '.join(who)} unsure (?): {why}" for why, who in found.items()]


def place(environment: dict[str, Any]) -> str:
    """The machine in some words: what it is, and what its settings and its heat did to the figures."""
    board = environment.get("board") or {}
    facts = [
        board.get("model"),
        environment["cpu"],
        f"{environment['cores']} cores",
        board.get("jetpack") and f"JetPack {board['jetpack']}",
        board.get("power_mode") and f"power mode {board['power_mode']}",
    ]
    return ", ".join([*filter(None, facts), *disturbances(environment)])


def disturbances(environment: dict[str, Any]) -> list[str]:
    """What on the machine speaks against its figures; nothing where all was calm."""
    facts = [
        "throttled while measuring" if (environment.get("after") or {}).get("throttled") else None,
        f"BUSY: other programs took {busy:.0%} of its processors while measuring"
        if (busy := environment.get("busy_share") or 0) > BUSY
        else None,
        f"{left / 1e6:.0f} MB of memory left with all runtimes open, too little to trust the figures: measure fewer at once"
        if (left := environment.get("memory_available_bytes")) is not None
        and left < LITTLE_MEMORY * environment["memory_bytes"]
        else None,
    ]
    return [fact for fact in facts if fact]


def terminal(results: dict[str, Any]) -> Table:
    """A rich table."""
    headings, rows = cells(results)
    return rich_table(headings, rows, caption=caption(results))


def terminal_extra(results: dict[str, Any]) -> list[Table]:
    """Rich tables of what was measured besides."""
    return [rich_table(headings, rows, title=title) for title, headings, rows in extra_cells(results)]


def terminal_classes(results: dict[str, Any]) -> list[Table]:
    """Rich tables by class."""
    return [rich_table(headings, rows, title=title) for title, headings, rows in class_cells(results)]


def rich_table(headings: list[str], rows: list[list[str]], **texts: str) -> Table:
    """A rich table of text; texts: its ``title``, its ``caption``."""
    from rich.table import Table

    table = Table(caption_justify="left", title_justify="left", **texts)  # type: ignore[arg-type]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(results: dict[str, Any]) -> str:
    """A Markdown page: the table, what is known of latencies, recall per class where there is data, and what could not run."""
    headings, rows = cells(results)
    lines = [*markdown_table(headings, rows), "", caption(results) + "."]
    if notes := [f"- {_who(row)}: {note}" for row in results["results"] for note in row.get("notes") or ()]:
        lines += ["", *notes]
    headings, rows = further_cells(results)
    if rows:
        lines += ["", "Latency with confidence, start and memory:", "", *markdown_table(headings, rows)]
    for title, headings, rows in extra_cells(results):
        lines += ["", f"{title}:", "", *markdown_table(headings, rows)]
    for title, headings, rows in class_cells(results):
        lines += ["", f"{title}:", "", *markdown_table(headings, rows)]
    if failed := [
        f"- {_who(row)}: {row[key]}" for row in results["results"] for key in ("error", "parity_failure") if row[key]
    ]:
        lines += ["", *failed]
    return "\n".join(lines) + "\n"


def comma_separated(results: dict[str, Any]) -> str:
    """One line a row, latency in columns of its own; confusion tables and raw times are left to the JSON."""
    flat = []
    for row in results["results"]:
        latency = row["latency_ms"] or {}
        flat.append(
            {key: value for key, value in row.items() if key not in _NESTED}
            | {
                f"latency_{key}_ms" if key != "count" else "queries": latency.get(key)
                for key in ("p50", "p90", "p99", "mean", "count", "p50_bound", "p90_bound", "p99_bound")
            }
            | dict(
                zip(
                    ("latency_p50_low_ms", "latency_p50_high_ms"),
                    latency.get("p50_interval") or (None, None),
                    strict=True,
                )
            )
            | {f"speed_up_{key}": (row.get("ratio") or {}).get(key) for key in ("to", "value", "low", "high", "unsure")}
            | {
                f"{key}_{name}": ((row.get("calibration") or {}).get(key) or {}).get(name)
                for key in ("calibration_error", "nll")
                for name in ("raw", "scaled")
            }
            | {f"recall_{label}": row["recall"][i] if row["recall"] else None for i, label in enumerate(LABELS)}
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in flat for key in row)))
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _who(row: Row) -> str:
    return f"{row['machine']}: {name_of(row)}" if row.get("machine") else name_of(row)
