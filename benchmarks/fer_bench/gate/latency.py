"""Latency as ratios within one run, joined to a row only where it was measured on the very same file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_bench.gate.baseline import Key, Speed
from fer_runtimes.errors import BadInput

# What the others' latency is divided by: the first that was measured. ONNX Runtime's varies least.
_REFERENCES = ("onnxruntime", "pytorch")


@dataclass(frozen=True)
class Latencies:
    """rounds: nanoseconds of each query, by process or, where there was but one, by round, and devices ("cpu x2"), by row;
    busy_share: of the processors, what went to others, in the worst case; processes: that each row's queries were spread over
    """

    rounds: dict[Key, list[NDArray[np.int64]]]
    devices: dict[Key, str]
    busy_share: float = 0.0
    processes: int = 1

    def reference(self) -> Key | None:
        """The row that the others are divided by, None if nothing was measured."""
        order = {runtime: place for place, runtime in enumerate(_REFERENCES)}
        return min(
            self.rounds, key=lambda key: (order.get(key.runtime, len(order)), not key.folded, str(key)), default=None
        )

    def named(self, name: str | None) -> Key | None:
        """The measured row whose name is ``name``, or None."""
        return next((key for key in self.rounds if str(key) == name), None)

    def speed(self, key: Key, reference: Key) -> Speed | None:
        """How many times as fast as the reference a row is, from rounds in pairs; None with too few of them."""
        found = stats.ratio(str(reference), self.rounds[reference], self.rounds[key])
        if found.low is None or found.high is None:
            return None
        return Speed(found.value, found.low, found.high, sum(map(len, self.rounds[key])))


@dataclass(frozen=True)
class Slowdown:
    """How many times as long a row takes as it did, beside the reference's time in the same run; low, high: 95 % interval."""

    value: float
    low: float
    high: float


def slowdown(before: Speed, now: Speed) -> Slowdown:
    """From two speeds with an interval each, taken in different runs: their logarithms' distances add as squares do."""
    value = before.value / now.value
    faster = math.hypot(math.log(before.value / before.low), math.log(now.high / now.value))
    slower = math.hypot(math.log(before.high / before.value), math.log(now.value / now.low))
    return Slowdown(value, value * math.exp(-faster), value * math.exp(slower))


def times_needed(before: Speed, now: Speed, bound: float) -> float | None:
    """How many times as many rounds, or processes, of this run would bring the interval to one side of ``bound``; None if the baseline's own is too wide."""
    value = before.value / now.value
    distance = math.log(bound / value)
    if distance >= 0:  # the upper end must come below
        theirs, ours = math.log(before.high / before.value), math.log(now.value / now.low)
    else:
        theirs, ours = math.log(before.value / before.low), math.log(now.high / now.value)
    room = distance**2 - theirs**2  # an interval shrinks with the root
    return ours**2 / room if room > 0 else None


def latencies_of(results: dict[str, Any], digests: Mapping[Key, str], source: str) -> Latencies:
    """Takes latencies from the content of a result file (``fer-bench --json``).

    digests: of the bundle whose answers each row gave. Raises BadInput, calling the file ``source``, where the same
    row was measured on another file, or on several machines: such figures do not belong in one row.
    """
    if results.get("machines"):
        raise BadInput(f"{source}: a merged file of several machines; give the file of this one")
    rounds: dict[Key, list[NDArray[np.int64]]] = {}
    devices: dict[Key, str] = {}
    try:
        busy = [results["environment"].get("busy_share") or 0.0]
        for row in results["results"]:
            key = Key(row["runtime"], row["target"], row["precision"], row["folded"])
            if key not in digests or not row["latency_ms"]:
                continue
            if row.get("average"):
                raise BadInput(
                    f"{source}: latency of {key} is that of {row['average']}, several passes for a face; measure without --average"
                )
            if row["bundle_sha256"] != digests[key]:
                raise BadInput(
                    f"{source}: latency of {key} was measured on a bundle of digest {row['bundle_sha256'][:12]}, "
                    f"its answers come from {digests[key][:12]}; measure and gate the same bundle"
                )
            if not row["raw_ns"]:
                raise BadInput(f"{source}: keeps no raw times, which intervals come from; measure again")
            rounds[key] = [np.array(taken, np.int64) for taken in row["raw_ns"]]
            if len(rounds[key]) != len(next(iter(rounds.values()))) or not all(map(len, rounds[key])):
                raise ValueError(f"rounds are missing of {key}")
            devices[key] = f"{row['device']} x{row['threads']}"
            busy.append(row.get("busy_share") or 0.0)
        return Latencies(rounds, devices, max(map(float, busy)), int(results.get("processes", 1)))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{source}: a damaged result file ({type(error).__name__}: {error}); measure again") from error
