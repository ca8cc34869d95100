"""Gives each of several workers (pytest-xdist) a core of its own: pools of threads that share one slow each other many times.

Imported before numpy and torch, which count the cores once and keep a pool of as many threads.
"""

from __future__ import annotations

import os

_worker = os.environ.get("PYTEST_XDIST_WORKER")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
