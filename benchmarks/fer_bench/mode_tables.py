"""The small tables under the main one: one for each thing that is measured where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Entry = dict[str, Any]
Columns = dict[str, Callable[[Entry], str]]


def _number(key: str, digits: int = 3) -> Callable[[Entry], str]:
    return lambda entry: f"{entry[key]:.{digits}f}"


def _whole(key: str) -> Callable[[Entry], str]:
    return lambda entry: f"{entry[key]:g}"


def _end(end: str, key: str) -> Callable[[Entry], str]:
    return lambda entry: f"{entry[end][key]:.3f}"


def _change(key: str) -> Callable[[Entry], str]:
    return lambda entry: "{value:.2f}x [{low:.2f}, {high:.2f}]".format(**entry[key])


def _throttled(entry: Entry) -> str:
    return {True: "yes", False: "no", None: "-"}[entry["after"]["throttled"]]


def _heat(entry: Entry) -> str:
    hottest = [max((entry[when]["temperatures_c"] or {}).values()) for when in ("before", "after")]
    return "{:.0f} to {:.0f}".format(*hottest)


# key of a row, title, heading: how a cell is written; a cell whose value is missing becomes "-"
_TABLES: tuple[tuple[str, str, Columns], ...] = (
    (
        "calibration",
        "Calibration: how far probabilities are from the share that is right",
        {
            "temperature": lambda entry: f"{entry['temperature']:.3f}" if entry["fitted_on"] else "none fitted",
            "fitted on": lambda entry: "{images} of {data} {split}".format(**entry["fitted_on"]),
            "measured on": lambda entry: f"{entry['images']}: {entry['measured_on']}",
            "error, logits as they are": lambda entry: f"{entry['calibration_error']['raw']:.3f}",
            "error, with temperature": lambda entry: (
                f"{entry['calibration_error']['scaled']:.3f}" if entry["fitted_on"] else "-"
            ),
        },
    ),
    (
        "throughput",
        "Images a second, several given at once",
        {
            "batch": _whole("batch"),
            "images/s": _number("images_per_s", 0),
            "95 %": lambda entry: "{:.0f} to {:.0f}".format(*entry["interval"]),
            "ms an image": _number("ms_per_image"),
            "why not": lambda entry: entry["error"],
        },
    ),
    (
        "paced",
        "Frames as a camera sends them, none dropped; latency from when each was due",
        {
            "frames/s": _whole("fps"),
            "frames": _whole("frames"),
            "answered": _whole("answered"),
            "deadlines missed": _whole("deadline_misses"),
            "p50 ms": _number("p50"),
            "p90 ms": _number("p90"),
            "p99 ms": _number("p99"),
            "harness late ms, p50": lambda entry: f"{entry['harness_late_ms']['p50']:.3f}",
            "harness late ms, most": lambda entry: f"{entry['harness_late_ms']['max']:.3f}",
        },
    ),
    (
        "after_idle_ms",
        "The first frame after a pause",
        {"pause s": _whole("pause_s"), "pauses": _whole("pauses"), "median ms": _number("median")},
    ),
    (
        "soak",
        "Load without pause: the last stretch against the first",
        {
            "minutes": _whole("minutes"),
            "p50 ms, first": _end("first", "p50"),
            "p50 ms, last": _end("last", "p50"),
            "p50, last/first": _change("p50_change"),
            "p90 ms, first": _end("first", "p90"),
            "p90 ms, last": _end("last", "p90"),
            "p90, last/first": _change("p90_change"),
            "hottest °C": _heat,
            "throttled": _throttled,
        },
    ),
    (
        "loadgen",
        "Driven by MLCommons' LoadGen, SingleStream",
        {
            "queries": _whole("count"),
            "p50 ms": _number("p50"),
            "p90 ms": _number("p90"),
            "p99 ms": _number("p99"),
            "our p50 ms, just before and after": _number("own_p50"),
            "LoadGen's/ours": _number("ratio_p50"),
        },
    ),
    (
        "energy",
        "Energy of a query",
        {
            "mJ": _number("mj_per_query"),
            "mJ above idle": _number("mj_per_query_above_idle"),
            "idle W": _number("idle_w", 2),
            "measured by": lambda entry: entry["source"],
        },
    ),
)


def extra(rows: list[Entry], who: Callable[[Entry], str]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of text of each table that any row has something for; who: what a table calls a row."""
    found = []
    for key, title, columns in _TABLES:
        entries = [(row, entry) for row in rows for entry in _listed(row.get(key))]
        lines = [
            [who(row), row["target"], row["precision"], *(_cell(write, entry) for write in columns.values())]
            for row, entry in entries
        ]
        headings = ["runtime", "target", "precision", *columns]
        kept = [i for i in range(len(headings)) if any(line[i] != "-" for line in lines)]
        if lines:
            found.append((title, [headings[i] for i in kept], [[line[i] for i in kept] for line in lines]))
    return found


def _listed(value: Any) -> list[Entry]:
    return value if isinstance(value, list) else [value] if value else []


def _cell(write: Callable[[Entry], str], entry: Entry) -> str:
    try:
        return write(entry) or "-"
    except (TypeError, KeyError, ValueError):  # a figure that is null here: it could not be told
        return "-"
