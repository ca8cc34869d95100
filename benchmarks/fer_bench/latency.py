"""Latency of one image at a time, from host memory to host memory.

The model is MLPerf Inference's SingleStream: the next query starts when the previous one ends,
with images drawn at random. Nothing is trimmed: the slow ones are what a user feels.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.session import Session

WARMUP_S = 0.3
WARMUP_QUERIES = 50


@dataclass(frozen=True)
class Latency:
    """Milliseconds; percentiles are observed values (the smallest that at least that share does not exceed)."""

    p50: float
    p90: float
    p99: float
    mean: float
    count: int


def measure(session: Session, images: NDArray[np.uint8], queries: int, seed: int = 0) -> Latency:
    """Times ``queries`` single-image inferences on ``images``, uint8 ``[N, 1, S, S]``, after a warm-up.

    The warm-up ends when both 0.3 s and 50 queries have passed: memory, autotuning and clock
    frequency settle in it. The garbage collector rests while the clock runs.
    """
    singles = [np.ascontiguousarray(images[i : i + 1]) for i in range(len(images))]
    order = np.random.default_rng(seed).integers(0, len(singles), queries)
    warm_until, done = time.perf_counter() + WARMUP_S, 0
    while done < WARMUP_QUERIES or time.perf_counter() < warm_until:
        session.infer(singles[done % len(singles)])
        done += 1
    taken = np.empty(queries, np.int64)
    clock = time.perf_counter_ns
    gc.collect()
    gc.disable()
    try:
        for i, image in enumerate(order):
            began = clock()
            session.infer(singles[image])
            taken[i] = clock() - began
    finally:
        gc.enable()
    return summarise(taken)


def summarise(nanoseconds: NDArray[np.int64]) -> Latency:
    """Percentiles and mean of raw times in nanoseconds."""
    p50, p90, p99 = np.percentile(nanoseconds, [50, 90, 99], method="inverted_cdf") / 1e6
    return Latency(float(p50), float(p90), float(p99), float(nanoseconds.mean() / 1e6), len(nanoseconds))
