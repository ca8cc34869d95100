"""One peer in a process of its own, in the environment that its package needs: answers images, or times itself.

``python -m peers.worker JOB``, JOB being JSON. ``worker.mjs`` takes the same job and gives the same answer,
so a change here is a change there.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers.opened import Opened

WARM_S, WARM_QUERIES, MOST_WARM_S = 1.0, 50, 3.0


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Opens the peer and does what ``job["mode"]`` says.

    Keys of a job: ``adapter``, ``opens``, ``threads``, ``images`` (raw bytes of uint8 ``[N, 48, 48]``), ``mode``;
    for ``score`` ``answers`` (where to write float32 ``[N, K]``), for ``time`` ``seed``, ``seconds``,
    ``queries`` and ``most_seconds``.
    """
    images = np.fromfile(job["images"], np.uint8).reshape(-1, 48, 48)
    bare = memory("VmRSS")
    began = time.perf_counter()
    opened = importlib.import_module(f"peers.adapters.{job['adapter']}").open_peer(Path(job["opens"]), job["threads"])
    load_ms = (time.perf_counter() - began) * 1e3
    done = MODES[job["mode"]](opened, images, job)
    peak = memory("VmHWM")
    return {
        "load_ms": load_ms,
        "memory_bytes": peak - bare if peak and bare else None,
        "model_bytes": opened.model_bytes,
        "parameters": opened.parameters,
        **done,
    }


def score(opened: Opened, images: NDArray[np.uint8], job: dict[str, Any]) -> dict[str, Any]:
    """Answers every image, 64 at a time, into the file that the job names."""
    batches = [opened.predict(images[i : i + 64]) for i in range(0, len(images), 64)]
    np.concatenate(batches).astype(np.float32).tofile(job["answers"])
    return {}


def timed(opened: Opened, images: NDArray[np.uint8], job: dict[str, Any]) -> dict[str, Any]:
    """Raw times of single images in random order, nanoseconds, after a warm-up of 1 s and 50 queries, 3 s at most.

    Ends when both ``seconds`` and ``queries`` have passed, at ``most_seconds`` in any case.
    """
    order = np.random.default_rng(job["seed"]).integers(0, len(images), 100_000)
    singles = [np.ascontiguousarray(images[i : i + 1]) for i in range(len(images))]
    clock = time.perf_counter_ns
    began, i = clock(), 0
    while (warm := (clock() - began) / 1e9) < MOST_WARM_S and (i < WARM_QUERIES or warm < WARM_S):
        opened.predict(singles[order[i % len(order)]])
        i += 1
    taken: list[int] = []
    gc.collect()
    gc.disable()
    began = clock()
    while (passed := (clock() - began) / 1e9) < job["most_seconds"] and (
        passed < job["seconds"] or len(taken) < job["queries"]
    ):
        image = singles[order[len(taken) % len(order)]]
        start = clock()
        opened.predict(image)
        taken.append(clock() - start)
    return {"times_ns": taken}


MODES = {"score": score, "time": timed}


def memory(field: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    Path(asked["result"]).write_text(json.dumps(main(asked)))
