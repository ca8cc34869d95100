"""Latency of one image at a time, from host memory to host memory.

The model is MLPerf Inference's SingleStream: the next query starts when the previous one ends,
with images drawn at random. Nothing is trimmed: the slow ones are what a user feels.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_runtimes.session import Session

WARMUP_S = 0.2
WARMUP_QUERIES = 50
WINDOW_S = 0.05
WINDOW_QUERIES = 20
STEADY = 0.02  # by which the medians of three windows in a row may differ
SETTLE_S = 10.0
AGAIN_S = 3.0  # for a process that follows another of the same runtime: the machine is warm, the process is not
LEAD_IN = 5  # queries that open a round, untimed: another runtime has just had the caches

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Latency:
    """Milliseconds. A percentile that so few queries do not support is None, and so is its bound.

    p50, p90, p99: as observed; ``_bound``: no more than this, with 99 % confidence (LoadGen's early
    stopping); p50_interval: 95 %, from resampled rounds, None with too few of them
    """

    p50: float | None
    p90: float | None
    p99: float | None
    mean: float
    count: int
    p50_interval: list[float] | None
    p50_bound: float | None
    p90_bound: float | None
    p99_bound: float | None


def settle(session: Session, images: Images, random: np.random.Generator, limit_s: float = SETTLE_S) -> bool:
    """Warms up: 0.2 s and 50 queries, then until the medians of three windows in a row differ by at most 2 %.

    Memory, autotuning and clock frequency settle in it. images: each uint8 ``[1, 1, S, S]``.
    Returns False if they still differ after ``limit_s`` seconds, or after three windows where these take longer.
    """
    until = time.perf_counter() + limit_s
    window(session, images, random, WARMUP_QUERIES, WARMUP_S)
    medians: list[float] = []
    while len(medians) < 3 or time.perf_counter() < until:
        medians.append(float(np.median(window(session, images, random, WINDOW_QUERIES, WINDOW_S))))
        if len(medians) >= 3 and max(medians[-3:]) <= min(medians[-3:]) * (1 + STEADY):
            return True
    return False


def window(
    session: Session,
    images: Images,
    random: np.random.Generator,
    queries: int,
    seconds: float,
    lead_in: int = 0,
    mark: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """Nanoseconds of inferences in their order: at least so many, and for at least so long.

    images: one array is one query; lead_in: queries before them that are not timed; mark: called before the first timed
    query and after the last. The garbage collector rests while the clock runs.
    """
    order = random.integers(0, len(images), 4096).tolist()  # drawn before, taken again from the start if that is short
    taken: list[int] = []
    clock = time.perf_counter_ns
    with garbage_kept():
        for image in images[:lead_in]:
            session.infer(image)
        mark()
        until = clock() + int(seconds * 1e9)
        ended, i = 0, 0
        while i < queries or ended < until:
            image = images[order[i % 4096]]
            began = clock()
            session.infer(image)
            ended = clock()
            taken.append(ended - began)
            i += 1
        mark()
    return np.array(taken, np.int64)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Python's garbage collector runs now, and not again before the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summarise(rounds: Sequence[NDArray[np.int64]]) -> Latency:
    """Percentiles and mean of raw times in nanoseconds, round by round."""
    every = np.concatenate(rounds)
    (p50, p50_bound), (p90, p90_bound), (p99, p99_bound) = (
        stats.percentile(every, share) for share in (0.5, 0.9, 0.99)
    )
    interval = list(stats.p50_interval(rounds) or ()) or None
    return Latency(p50, p90, p99, float(every.mean() / 1e6), len(every), interval, p50_bound, p90_bound, p99_bound)
