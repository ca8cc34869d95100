"""What a sample of latencies supports: percentiles with confidence, intervals, ratios in pairs.

Queries of one round resemble each other more than queries of different rounds, since clocks, heat and
other programs drift. So intervals come from resampling whole rounds, never single queries; where a runtime was started afresh
several times, all that one process took stands for a round here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99  # of the bound on a percentile: LoadGen's
INTERVAL = 0.95  # of bootstrapped intervals
ROUNDS_NEEDED = 6  # below that no resampling reaches 95 %: all of 5 rounds miss on one side in 2 x 2^-5 of cases
SURE = 0.05  # a ratio is sure if its interval reaches no further than that share to either side
_RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the row named ``to``; low and high: 95 % interval, None with too few rounds.

    unsure: the interval is wider than ±5 %, or there is none, or the machine was busy; why: in one line;
    queries_needed: of each of the two for ±5 %, None where the interval is narrow enough or cannot be told, or where
    it is of processes, which more queries would not make more; processes_needed: how many of these, else None
    """

    to: str
    value: float
    low: float | None
    high: float | None
    unsure: bool
    queries_needed: int | None
    why: str | None = None
    processes_needed: int | None = None


@dataclass(frozen=True)
class Change:
    """How many times what was first a later value is; low and high: 95 % interval, None with too few blocks."""

    value: float
    low: float | None
    high: float | None


@cache
def overlatency(share: float, count: int, confidence: float = CONFIDENCE) -> int:
    """LoadGen's t: the most queries, of ``count``, that may be slower than a bound on the ``share`` percentile; 0 if none may.

    The largest t for which a percentile that lay above the bound would leave t slower queries or
    fewer with a chance of at most 1 - confidence (the binomial's exact tail). Dropping the t - 1
    slowest queries, the slowest one left is then the bound.
    """
    slower = 1 - share
    log_chance = count * math.log(share)  # that no query is slower; the term for k slower ones follows from k - 1
    tail, t = math.exp(log_chance), 0
    while t < count:
        log_chance += math.log((count - t) / (t + 1)) + math.log(slower / share)
        tail += math.exp(log_chance)
        if tail > 1 - confidence:
            break
        t += 1
    return t


def percentile(nanoseconds: NDArray[np.int64], share: float) -> tuple[float, float] | tuple[None, None]:
    """A percentile in milliseconds as observed, and its upper bound at 99 % confidence.

    The observed one is the smallest value that at least that share does not exceed. (None, None)
    where so few queries support no bound: below 11 for p50, 64 for p90, 662 for p99, 6,636 for p99.9.
    """
    if not (t := overlatency(share, len(nanoseconds))):
        return None, None
    ordered = np.sort(nanoseconds)
    observed = np.percentile(ordered, share * 100, method="inverted_cdf")
    return float(observed) / 1e6, float(ordered[len(ordered) - t]) / 1e6


def p50_interval(rounds: Sequence[NDArray[np.int64]]) -> tuple[float, float] | None:
    """95 % interval of the median of all queries, milliseconds, by resampling rounds; None with too few rounds."""

    def median(chosen: NDArray[np.int64]) -> float:
        return float(np.median(np.concatenate([rounds[i] for i in chosen])) / 1e6)

    return bootstrap(median, len(rounds))


def ratio(
    to: str, reference: Sequence[NDArray[np.int64]], own: Sequence[NDArray[np.int64]], of_processes: bool = False
) -> Ratio:
    """The reference's median over the row's own, round by round, and the median of these.

    of_processes: whether each of the given is what one process took, not a round.

    The two rounds of a pair were taken within seconds of each other: what slowed the machine then
    slowed both, and leaves their ratio as it is.
    """
    pairs = np.array([np.median(theirs) / np.median(mine) for theirs, mine in zip(reference, own, strict=True)])
    value = float(np.median(pairs))
    found = bootstrap(lambda chosen: float(np.median(pairs[chosen])), len(pairs))
    if found is None:
        return Ratio(to, value, None, None, True, None, "too few rounds or processes for an interval")
    reach = (found[1] - found[0]) / 2 / value
    if reach <= SURE:
        return Ratio(to, value, *found, False, None)
    why, times = f"its interval reaches ±{reach:.0%}", (reach / SURE) ** 2  # an interval shrinks with the root
    if of_processes:
        return Ratio(to, value, *found, True, None, why, math.ceil(len(pairs) * times))
    count = min(sum(map(len, side)) for side in (reference, own))
    return Ratio(to, value, *found, True, math.ceil(count * times), why)


def change(first: Sequence[float], last: Sequence[float]) -> Change:
    """The median of the later figures over that of the first, of blocks of time; each side is resampled by itself."""
    before, after = np.array(first), np.array(last)

    def of(earlier: NDArray[np.int64], later: NDArray[np.int64]) -> float:
        return float(np.median(after[later]) / np.median(before[earlier]))

    found = bootstrap(of, len(before), len(after))
    return Change(of(np.arange(len(before)), np.arange(len(after))), *(found or (None, None)))


def bootstrap(statistic: Callable[..., float], *rounds: int) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of rounds chosen with replacement, the same for the same data.

    rounds: how many there are, for each argument of the statistic: the places of the chosen ones
    """
    if min(rounds) < ROUNDS_NEEDED:
        return None
    random = np.random.default_rng(0)
    draws = [random.integers(0, count, (_RESAMPLES, count)) for count in rounds]
    values = [statistic(*chosen) for chosen in zip(*draws, strict=True)]
    low, high = np.percentile(values, [50 * (1 - INTERVAL), 50 * (1 + INTERVAL)])
    return float(low), float(high)
