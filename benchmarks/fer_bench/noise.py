"""What else the machine did while it was measured: the processor time that went to others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
BUSY = 0.05  # share of the processors that others may take; with more, ratios between runtimes are unsure
_TOLD_S = 0.2  # of processor time: the counters tick a hundred times a second
_TICKS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # of /proc/stat, in this order


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time on the cores that this process may use, since some start.

    capacity: what could be had; busy: what anybody used or the hypervisor took; stolen: the latter alone; own: this process's.
    ``busy`` and ``capacity`` are 0 where the system does not tell (it does on Linux).
    switches: times that this process had to leave a core to another
    """

    capacity: float
    busy: float
    stolen: float
    own: float
    switches: int

    def __sub__(self, before: Usage) -> Usage:
        return Usage(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


def usage() -> Usage:
    """The counters as they stand."""
    import resource

    cores = _cores()
    per_second = os.sysconf("SC_CLK_TCK")
    idle = sum(core["idle"] + core["iowait"] for core in cores)
    every = sum(sum(core.values()) for core in cores)
    stolen = sum(core["steal"] for core in cores)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Usage(every / per_second, (every - idle) / per_second, stolen / per_second, time.process_time(), switches)


def _cores() -> list[dict[str, int]]:
    try:
        lines = (_PROC / "stat").read_text().splitlines()
    except OSError:
        return []
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    fields = [line.split() for line in lines]
    return [dict(zip(_TICKS, map(int, values), strict=False)) for name, *values in fields if name in mine]


def summary(parts: Iterable[Usage]) -> dict[str, Any]:
    """``busy_share``: of the processor time during the parts, what went to others than the one measured; ``steal_share``
    within it: what the hypervisor took. None where the system does not tell."""
    spans = list(parts)
    every = sum(part.capacity for part in spans)
    if every <= 0:
        return {"busy_share": None, "steal_share": None}
    others = sum(part.busy - part.own for part in spans) / every
    return {"busy_share": max(0.0, others), "steal_share": sum(part.stolen for part in spans) / every}


def busy_share(parts: Iterable[Usage]) -> float | None:
    """``busy_share`` of one runtime's rounds; None too where they are too short for the system's counters."""
    spans = list(parts)
    share: float | None = summary(spans)["busy_share"]
    return share if sum(part.capacity for part in spans) >= _TOLD_S else None


def memory() -> tuple[int, int] | None:
    """Bytes of memory that can still be had without swapping, and of all there is; None where the system does not tell."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    found = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return (found["MemAvailable"], found["MemTotal"]) if "MemAvailable" in found else None
