"""Binding a process to as many cores as it has threads, so that the scheduler moves none of them about."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fer_runtimes import board

_TASKS = Path("/proc/self/task")


def bind(threads: int) -> bool:
    """Binds this process, before an engine is imported, to the best ``threads`` of the cores it may use (``best_first``).

    False where it already may use no more than that, or where the system cannot bind (it can on Linux).
    """
    cores = allowed()
    if cores is None or len(cores) <= threads:
        return False
    chosen = best_first(cores)[:threads]
    for task in _TASKS.iterdir():  # numpy's pool of threads is there already
        os.sched_setaffinity(int(task.name), chosen)
    return True


def allowed() -> list[int] | None:
    """The cores that any thread of this process may run on, lowest first; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(set().union(*(os.sched_getaffinity(int(task.name)) for task in _TASKS.iterdir())))


def best_first(cores: list[int], root: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """Fast cores before slow ones (big before LITTLE), of each physical core one thread before its second; then by number."""

    def order(core: int) -> tuple[bool, float, int]:
        folder = root / f"cpu{core}"
        speed = (
            board.number_of(folder / "cpu_capacity") or board.number_of(folder / "cpufreq" / "cpuinfo_max_freq") or 0
        )
        siblings = board.text_of(folder / "topology" / "thread_siblings_list")
        return siblings is not None and int(re.split("[,-]", siblings)[0]) != core, -speed, core

    return sorted(cores, key=order)
