"""The figures of a row that are compared and plotted: where each stands in a result file, and what it means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_bench.history.text import plain
from fer_runtimes.errors import BadInput

if TYPE_CHECKING:
    from fer_bench.history.runs import Run

Row = dict[str, Any]
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Figure:
    """A figure of a row.

    words: its name and unit as shown; value, low, high: paths into the row, low and high of what
    ``bars`` names; scale: from the file's unit to the one shown; decimals: as shown;
    scale_of: what else must be the same for two values to be compared, as text; from_zero: how its axis begins
    """

    words: str
    value: Keys
    decimals: int
    scale: float = 1
    low: Keys | None = None
    high: Keys | None = None
    bars: str = ""
    scale_of: Callable[[Run, Row], str] = lambda run, row: ""
    from_zero: bool = True

    def of(self, row: Row) -> float | None:
        """The figure as shown, None if the row has none."""
        return self._shown(row, self.value)

    def bounds(self, row: Row) -> tuple[float, float] | None:
        """Low and high as shown, None if the row has none; where there is one alone, the other is the figure."""
        value = self.of(row)
        low, high = (self._shown(row, path) if path else value for path in (self.low, self.high))
        return None if low is None or high is None or not (self.low or self.high) else (low, high)

    def _shown(self, row: Row, path: Keys) -> float | None:
        value = look_up(row, path)
        return None if value is None else value * self.scale


def _data(run: Run, row: Row) -> str:
    return f"{run.data_name} ({plain(run.data['sha256'])[:8]})" if run.data else ""


def _reference(run: Run, row: Row) -> str:
    return plain(f"with {row['agreement_with']}") if row["agreement_with"] else ""


def _percentile(share: str) -> Figure:
    return Figure(
        f"{share} ms",
        ("latency_ms", share),
        3,
        high=("latency_ms", f"{share}_bound"),
        bars="at most this with 99 % confidence",
    )


FIGURES = {
    "accuracy": Figure("accuracy %", ("accuracy",), 2, 100, scale_of=_data, from_zero=False),
    "agreement": Figure("agreement %", ("agreement",), 2, 100, scale_of=_reference, from_zero=False),
    "p50_ms": Figure(
        "p50 ms",
        ("latency_ms", "p50"),
        3,
        low=("latency_ms", "p50_interval", 0),
        high=("latency_ms", "p50_interval", 1),
        bars="95 % interval within the run",
    ),
    "p90_ms": _percentile("p90"),
    "p99_ms": _percentile("p99"),
    "ratio": Figure(
        "speed-up",
        ("ratio", "value"),
        2,
        low=("ratio", "low"),
        high=("ratio", "high"),
        bars="95 % interval",
        scale_of=lambda run, row: f"over {row['ratio']['to']}" if row["ratio"] else "",
    ),
    "rss": Figure("memory MB", ("rss_over_bare_bytes",), 1, 1e-6),
    "model_bytes": Figure("model MB", ("model_bytes",), 2, 1e-6),
}

_TEXTS: list[Keys] = [
    *(("target",), ("precision",), ("bundle",), ("bundle_sha256",), ("device",), ("agreement_with",)),
    *(("error",), ("ratio", "to")),
]
_OF_FIGURES = [keys for figure in FIGURES.values() for keys in (figure.value, figure.low, figure.high) if keys]
_POSITIVE = [keys for keys in _OF_FIGURES if keys[0] in ("latency_ms", "ratio")]  # what is divided by
_NUMBERS = [*(keys for keys in _OF_FIGURES if keys not in _POSITIVE), ("folded",), ("threads",)]
_READ = ("folded", "device", "threads", "bundle", "bundle_sha256", "target", "precision", "agreement_with", "ratio")


def look_up(row: Row, keys: Keys) -> Any:
    """What stands in a row under these keys; None where it, or what would hold it, is null or absent."""
    value: Any = row
    for key in keys:
        if value is None:
            return None
        value = value.get(key) if isinstance(key, str) else value[key]
    return value


def checked_row(row: object, source: str) -> Row:
    """A row of a result file, with all keys that are read here. Raises BadInput if it holds what no result file does."""
    if not isinstance(row, dict) or not isinstance(row.get("runtime"), str):
        raise BadInput(f"{source}: a result that does not name its runtime; measure again")
    for all_keys, fits in ((_TEXTS, _is_text), (_POSITIVE, _is_positive), (_NUMBERS, _is_number)):
        for keys in all_keys:
            try:
                value = look_up(row, keys)
                fitting = value is None or fits(value)
            except (AttributeError, LookupError, TypeError, OverflowError):
                fitting = False
            if not fitting:
                name = ".".join(map(str, keys))
                raise BadInput(f"{source}: a result whose {name} is not what docs/results.md says; measure again")
    whole = dict.fromkeys(_READ) | row
    if whole["ratio"] is not None and None in (whole["ratio"].get("to"), whole["ratio"].get("value")):
        raise BadInput(f"{source}: a ratio without its value, or without what it is to; measure again")
    return whole


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0
