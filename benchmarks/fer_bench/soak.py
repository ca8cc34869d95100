"""Load without pause: whether the last minute is as fast as the first, and what clocks and heat did meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_runtimes import board

if TYPE_CHECKING:
    from fer_bench.measure import Apart

WINDOW_S = 10.0
EDGE_S = 60.0  # what is compared at either end; half of a shorter soak
BLOCKS = 24  # into which each end is divided for resampling
_WINDOWS = 12  # of a soak shorter than two minutes
_SHARES = {"p50": 0.5, "p90": 0.9}


def run(apart: Apart, minutes: float, say: Callable[[str], None], sensors: Path) -> dict[str, Any] | None:
    """A row's ``soak``; None if the runtime dies of it."""
    window_s = min(WINDOW_S, minutes * 60 / _WINDOWS)
    count = math.ceil(minutes * 60 / window_s)
    kept = min(count // 2, round(EDGE_S / window_s))
    first: list[NDArray[np.int64]] = []
    last: list[NDArray[np.int64]] = []
    medians = []
    before = board.snapshot(sensors)
    for i in range(count):
        say(f"{apart.task.runtime} on {apart.task.bundle.name}: soak, {i * window_s / 60:.1f} of {minutes:g} minutes")
        taken = apart.ask("stretch", window_s)
        if taken is None:
            return None
        medians.append(float(np.median(taken) / 1e6))
        first, last = [*first, taken][:kept], [*last, taken][-kept:]
    after = board.snapshot(sensors, since=before)
    return summarise(minutes, window_s, medians, first, last) | {"before": before, "after": after}


def summarise(
    minutes: float,
    window_s: float,
    medians: Sequence[float],
    first: Sequence[NDArray[np.int64]],
    last: Sequence[NDArray[np.int64]],
) -> dict[str, Any]:
    """medians: milliseconds by window; first, last: nanoseconds of the windows at either end, in order."""
    result: dict[str, Any] = {"minutes": minutes, "window_s": window_s, "medians_ms": list(medians)}
    ends = {"first": np.concatenate(first), "last": np.concatenate(last)}
    for name, every in ends.items():
        result[name] = {"seconds": window_s * len(first), "count": len(every)}
        result[name] |= {key: stats.percentile(every, share)[0] for key, share in _SHARES.items()}
    for key, share in _SHARES.items():
        sides = ([float(np.percentile(block, share * 100)) for block in _blocks(every)] for every in ends.values())
        result[f"{key}_change"] = asdict(stats.change(*sides))
    return result


def _blocks(every: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(every, min(BLOCKS, len(every)))
