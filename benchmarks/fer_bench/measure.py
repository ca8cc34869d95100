"""One bundle on one runtime, measured in a fresh process of its own.

A process apiece keeps thread pools from fighting, makes load time and memory mean something, and
lets a runtime that dies cost its own row and no other.
"""

from __future__ import annotations

import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.latency import Latency, measure
from fer_runtimes.bundle import read_bundle, read_reference
from fer_runtimes.engines import ENGINES
from fer_runtimes.errors import FerError
from fer_runtimes.session import Options, open_session

BATCH = 128


@dataclass(frozen=True)
class Measured:
    """What the process brings back. latency: None where it would say nothing of the engine. logits: float32 of the data's images, or None; reference_logits: of the bundle's own."""

    latency: Latency | None
    load_ms: float
    peak_rss_bytes: int
    report: dict[str, Any]
    logits: NDArray[np.float32] | None
    reference_logits: NDArray[np.float32]


def measure_apart(bundle: Path, runtime: str, options: Options, images: Path | None, queries: int) -> Measured | str:
    """Measures in a new process. images: a .npy of uint8 ``[N, 1, S, S]`` to answer and to time on.

    Returns one line of text where the runtime cannot run or dies.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, bundle, runtime, options, images, queries).result()
        except FerError as error:
            return " ".join(str(error).split())
        except BrokenProcessPool:
            return f"runtime {runtime} died while it was measured (crash, or killed for memory)"


def _measure(bundle_path: Path, runtime: str, options: Options, images: Path | None, queries: int) -> Measured:
    bundle = read_bundle(bundle_path)
    reference = read_reference(bundle)
    faces = np.load(images, mmap_mode="r") if images else None
    began = time.perf_counter()
    with open_session(bundle, runtime, options) as session:
        load_ms = (time.perf_counter() - began) * 1e3
        latency = None
        if ENGINES[runtime].timed:
            latency = measure(session, faces if faces is not None else reference.images, queries)
        logits = None
        if faces is not None:
            logits = np.concatenate(
                [session.infer(np.asarray(faces[i : i + BATCH])) for i in range(0, len(faces), BATCH)]
            )
        reference_logits = session.infer(reference.images)
        return Measured(latency, load_ms, _peak_rss(), vars(session.report()), logits, reference_logits)


def _peak_rss() -> int:
    """Peak resident memory of this process, bytes. On Linux getrusage would count what the parent held before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024
