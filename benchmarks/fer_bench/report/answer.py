"""What the rows come to: how to call each, which ones nothing beats, and the sentence that says which is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fer_bench.tables import Row, name_of

_TELLING = ("target", "precision", "bundle")  # named where rows of one runtime differ in it


def names(rows: Sequence[Row]) -> list[str]:
    """A name for each row that no other row has, as short as that allows."""
    kin: dict[tuple[Any, str], list[Row]] = {}
    for row in rows:
        kin.setdefault((row.get("machine"), name_of(row)), []).append(row)
    found: list[str] = []
    for row in rows:
        machine, name = row.get("machine"), name_of(row)
        same = kin[machine, name]
        parts = [str(row[key]) for key in _TELLING if row.get(key) and len({other.get(key) for other in same}) > 1]
        whole = (f"{machine}: " if machine else "") + " ".join([name, *parts])
        before = sum(whole == other or other.startswith(f"{whole} (no. ") for other in found)
        found.append(f"{whole} (no. {before + 1})" if before else whole)
    return found


def figure(row: Row, *keys: str) -> float | None:
    """The finite number that stands under these keys, one inside the other; None where there is none."""
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def stands(row: Row) -> bool:
    """Whether the row may be called best: it ran, kept its bound and is an engine."""
    return not row.get("error") and not row.get("parity_failure") and row.get("runtime") != "null"


def pareto(rows: Sequence[Row]) -> list[list[int]]:
    """For each machine, indices of its rows that no other is as good as in speed and accuracy, and better in one.

    Fastest first; of rows alike in both, the first stands for all. Machines without such rows are left out.
    """
    timed: dict[Any, list[tuple[float, float, int]]] = {}
    for i, row in enumerate(rows):
        p50, accuracy = figure(row, "latency_ms", "p50"), figure(row, "accuracy")
        if stands(row) and p50 is not None and accuracy is not None:
            timed.setdefault(row.get("machine"), []).append((p50, -accuracy, i))
    return [_undominated(points) for points in timed.values()]


def _undominated(points: Sequence[tuple[float, float, int]]) -> list[int]:
    """Of (latency, accuracy below zero, index): the indices of those that are more accurate than all faster ones."""
    kept, best = [], math.inf
    for _, below, i in sorted(points):
        if below < best:
            kept.append(i)
            best = below
    return kept


def answers(results: dict[str, Any]) -> list[str]:
    """Which row is best, in words; one paragraph for each machine."""
    rows = results["results"]
    called = names(rows)
    machines = list(dict.fromkeys(row.get("machine") for row in rows))
    return [
        _answer([(name, row) for name, row in zip(called, rows, strict=True) if row.get("machine") == machine])
        for machine in machines
    ]


def _answer(rows: Sequence[tuple[str, Row]]) -> str:
    standing = [(name, row) for name, row in rows if stands(row)]
    timed = sorted(
        ((p50, name, row) for name, row in standing if (p50 := figure(row, "latency_ms", "p50")) is not None),
        key=lambda one: one[0],
    )
    scored = sorted(
        ((-accuracy, name, row) for name, row in standing if (accuracy := figure(row, "accuracy")) is not None),
        key=lambda one: one[0],
    )
    if not timed and not scored:
        return (
            f"{rows[0][1]['machine']}: nothing to compare."
            if rows and rows[0][1].get("machine")
            else "Nothing to compare."
        )
    if not timed:
        error, name, _ = scored[0]
        return f"No row has a latency. None is more accurate than {name}: {-error:.2%}."
    p50, name, row = timed[0]
    fast = f"p50 {p50:.3f} ms{_ratio(row)}"
    close = _too_close(timed)
    accuracy = figure(row, "accuracy")
    if not scored:
        return f"{name} is the fastest: {fast}.{close} Accuracy was not measured: that takes --data."
    if accuracy is None:
        return (
            f"{name} is the fastest: {fast}.{close} Its accuracy is not known; {scored[0][1]} has {-scored[0][0]:.2%}."
        )
    error, other, other_row = scored[0]
    if accuracy >= -error:
        return f"{name} is best: the fastest ({fast}), and none is more accurate ({accuracy:.2%}).{close}"
    at = figure(other_row, "latency_ms", "p50")
    return (
        f"No row is best in both: {name} is the fastest ({fast}; {accuracy:.2%} right), {other} the most accurate "
        f"({-error:.2%}{f'; p50 {at:.3f} ms' if at is not None else ''}).{close}"
    )


def _ratio(row: Row) -> str:
    ratio = row.get("ratio")
    if not ratio or ratio["value"] == 1:
        return ""
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return f", {ratio['value']:.2f}x{interval} the speed of {ratio['to']}{', unsure' if ratio['unsure'] else ''}"


def _too_close(timed: Sequence[tuple[float, str, Row]]) -> str:
    """The rows whose median may as well be lower than the fastest one's: their 95 % intervals overlap."""
    interval = timed[0][2]["latency_ms"].get("p50_interval")
    if interval is None:
        return ""
    close = [
        name for _, name, row in timed[1:] if (own := row["latency_ms"].get("p50_interval")) and own[0] <= interval[1]
    ]
    return f" Too close to tell from it: {', '.join(close)}." if close else ""
