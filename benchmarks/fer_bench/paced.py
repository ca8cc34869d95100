"""Frames that arrive as a camera sends them, whether or not the last one is done.

None is dropped: a frame that comes while another is at work waits, and all are answered in their order.
Its latency counts from when it was due, not from when the engine got to it; else an engine that falls
behind would look as fast as one that keeps up (coordinated omission).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_bench.latency import Images, garbage_kept
from fer_runtimes.session import Session

SPIN_NS = 1_000_000  # before a frame is due the clock is watched without sleep: a sleep ends late by some tens of microseconds
PAUSES = 5
PAUSE_S = 1.0
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Frames:
    """Nanoseconds. latency: of each answered frame from when it was due; late: how late the harness itself woke up, for
    the frames that it could wait for. ``due``: how many frames were; those that were not answered in time are missing.
    """

    fps: float
    due: int
    latency: NDArray[np.int64]
    late: NDArray[np.int64]


def pace(session: Session, images: Images, random: np.random.Generator, fps: float, seconds: float) -> Frames:
    """Answers ``fps * seconds`` frames, one image each, as they fall due.

    Ends one period after the last was due: an engine that falls behind leaves the rest unanswered.
    """
    count = max(1, math.ceil(fps * seconds))
    order = random.integers(0, len(images), count).tolist()
    period = round(1e9 / fps)
    taken: list[int] = []
    late: list[int] = []
    clock = time.perf_counter_ns
    with garbage_kept():
        start = clock() + period
        for i in range(count):
            due = start + i * period
            if clock() < due:
                _wait(due)
                late.append(clock() - due)
            elif clock() >= start + count * period:
                break
            session.infer(images[order[i]])
            taken.append(clock() - due)
    return Frames(fps, count, np.array(taken, np.int64), np.array(late, np.int64))


def after_idle(
    session: Session, images: Images, random: np.random.Generator, pauses: int = PAUSES, pause_s: float = PAUSE_S
) -> NDArray[np.int64]:
    """Nanoseconds of the one frame that comes after each pause: caches, clocks and threads have gone to rest."""
    taken = []
    with garbage_kept():
        for i in random.integers(0, len(images), pauses).tolist():
            time.sleep(pause_s)
            began = time.perf_counter_ns()
            session.infer(images[i])
            taken.append(time.perf_counter_ns() - began)
    return np.array(taken, np.int64)


def summarise(frames: Frames) -> dict[str, Any]:
    """A row's entry for one rate. A percentile that the count does not support, or that falls among the frames that
    were never answered, is None."""
    missing = np.full(frames.due - len(frames.latency), _NEVER)
    every = np.concatenate([frames.latency, missing])
    observed = (stats.percentile(every, share)[0] for share in (0.5, 0.9, 0.99))
    p50, p90, p99 = (value if value is not None and value < _NEVER / 1e6 else None for value in observed)
    late = frames.late / 1e6
    return {
        "fps": frames.fps,
        "frames": frames.due,
        "answered": len(frames.latency),
        "deadline_misses": int((every > round(1e9 / frames.fps)).sum()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "harness_late_ms": {"p50": float(np.median(late)), "max": float(late.max())} if len(late) else None,
        "latency_ns": frames.latency.tolist(),
    }


def summarise_idle(nanoseconds: NDArray[np.int64]) -> dict[str, Any]:
    """A row's ``after_idle_ms``."""
    return {"median": float(np.median(nanoseconds) / 1e6), "pauses": len(nanoseconds), "pause_s": PAUSE_S}


def _wait(due: int) -> None:
    """Sleeps until shortly before, then watches the clock."""
    clock = time.perf_counter_ns
    if (left := due - clock() - SPIN_NS) > 0:
        time.sleep(left / 1e9)
    while clock() < due:
        pass
