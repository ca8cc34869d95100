"""Binding a process to as many cores as it has threads, so that the scheduler moves none of them about."""

from __future__ import annotations

import os
from pathlib import Path

_TASKS = Path("/proc/self/task")


def bind(threads: int) -> bool:
    """Binds this process, before an engine is imported, to the lowest-numbered ``threads`` of the cores it may use.

    False where it already may use no more than that, or where the system cannot bind (it can on Linux).
    """
    cores = allowed()
    if cores is None or len(cores) <= threads:
        return False
    for task in _TASKS.iterdir():  # numpy's pool of threads is there already
        os.sched_setaffinity(int(task.name), cores[:threads])
    return True


def allowed() -> list[int] | None:
    """The cores that any thread of this process may run on, lowest first; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(set().union(*(os.sched_getaffinity(int(task.name)) for task in _TASKS.iterdir())))
