"""Scores and times every peer, one process at a time while the clock runs, in rounds A B C, C A B."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.corruptions.views import seen_as
from fer_bench.environment import environment
from fer_runtimes import metrics
from fer_runtimes.console import usable_cores
from fer_runtimes.data import Faces
from fer_runtimes.errors import FerError
from fer_runtimes.labels import LABELS
from peers.environments import Environments, Launch, last_line
from peers.scores import accuracy, in_fer2013_order, missing_classes
from peers.table import Peer
from peers.views import VIEWS

FORMAT = 1
SCORE_LIMIT_S, TIME_LIMIT_S = 1200, 180
# A 99th percentile of fewer queries has no upper bound at 99 % confidence (MLPerf's early stopping).
P99_QUERIES = 662


@dataclass(frozen=True)
class Settings:
    """threads: of each peer, which is also bound to so many cores while it is timed
    rounds, seconds, queries: a round of a peer lasts until both have passed, at most ``most_seconds``
    varied: images, drawn with seed 0, that are zoomed and rotated
    """

    threads: int = 1
    rounds: int = 5
    seconds: float = 1.0
    queries: int = 140
    most_seconds: float = 6.0
    varied: int = 600


class Failed(Exception):
    """A peer's process did not give an answer; the message is the row's reason."""


def measure(
    peers: Sequence[Peer],
    environments: Environments,
    faces: Faces,
    settings: Settings,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns the result file's content: a row a peer, with figures or with the reason why there are none."""
    rows = {peer.name: _empty(peer) for peer in peers}
    launches: dict[str, Launch] = {}
    for peer in peers:
        try:
            launches[peer.name] = environments.launch(peer)
        except FerError as error:
            rows[peer.name]["error"] = " ".join(str(error).split())
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        _score(peers, launches, rows, faces, settings, work, say)
        _time(peers, launches, rows, faces, settings, work, say)
    return {
        "format": FORMAT,
        "environment": environment(),
        "data": faces.describe(),
        "settings": asdict(settings),
        "results": list(rows.values()),
    }


# --- accuracy --------------------------------------------------------------------------------


def _score(
    peers: Sequence[Peer],
    launches: dict[str, Launch],
    rows: dict[str, dict[str, Any]],
    faces: Faces,
    settings: Settings,
    work: Path,
    say: Callable[[str], None],
) -> None:
    chosen = np.sort(np.random.default_rng(0).permutation(len(faces))[: settings.varied])
    views = [view for group in VIEWS.values() for view in group]
    shown = np.concatenate([faces.images, *(seen_as(faces.images[chosen], view) for view in views)])
    # slices as many as cores: nothing is timed here, so the cores may share the work
    slices = np.array_split(np.arange(len(shown)), usable_cores())
    for i, part in enumerate(slices):
        shown[part].tofile(work / f"slice{i}")

    def answer(peer: Peer, i: int) -> NDArray[np.float32]:
        answers = work / f"{peer.name.replace('/', '-')}-{i}"
        job = {"mode": "score", "images": str(work / f"slice{i}"), "answers": str(answers), "threads": 1}
        run(peer, launches[peer.name], job, work, SCORE_LIMIT_S)
        return np.fromfile(answers, np.float32).reshape(len(slices[i]), -1)

    found: dict[str, NDArray[np.float64]] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        jobs = {
            peer.name: [pool.submit(answer, peer, i) for i in range(len(slices))]
            for peer in peers
            if peer.name in launches and not peer.random_weights
        }
        for peer in peers:
            if peer.name not in jobs:
                continue
            say(f"scoring {peer.name}")
            try:
                answers = np.concatenate([job.result() for job in jobs[peer.name]])
                found[peer.name] = in_fer2013_order(answers, peer.classes)
                rows[peer.name] |= figures(found[peer.name], faces, chosen)
            except (Failed, ValueError) as error:
                _drop(peer, rows, launches, str(error))
    for peer in peers:
        if peer.repeats and peer.name in launches and peer.repeats[0] in found:
            other, least = peer.repeats
            same = found[peer.name].argmax(1) == found[other].argmax(1)
            share = float(same[: len(faces)].mean())
            rows[peer.name]["agreement"] = {"with": other, "share": share}
            if share < least:
                reason = f"repeats the labels of {other} on {share:.2%} of the images only, expected {least:.1%}"
                _drop(peer, rows, launches, reason)


def figures(probabilities: NDArray[np.float64], faces: Faces, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, calibration and robustness from ``[N + V * len(chosen), 7]``: all faces, then each view of the chosen ones."""
    plain, rest = probabilities[: len(faces)], probabilities[len(faces) :]
    parts = iter(np.split(rest, len(rest) // len(chosen)))
    labels = faces.labels[chosen]
    unseen = None if faces.seen is None or faces.seen.all() else ~faces.seen
    return {
        "accuracy": accuracy(plain, faces.labels),
        "accuracy_unseen": None if unseen is None else accuracy(plain[unseen], faces.labels[unseen]),
        "calibration_error": metrics.calibration_error(plain, faces.labels),
        "robustness": {
            "images": len(chosen),
            "as it is": accuracy(plain[chosen], labels),
            **{name: float(np.mean([accuracy(next(parts), labels) for _ in group])) for name, group in VIEWS.items()},
        },
    }


# --- latency ---------------------------------------------------------------------------------


def _time(
    peers: Sequence[Peer],
    launches: dict[str, Launch],
    rows: dict[str, dict[str, Any]],
    faces: Faces,
    settings: Settings,
    work: Path,
    say: Callable[[str], None],
) -> None:
    images = work / "images"
    np.ascontiguousarray(faces.images).tofile(images)
    running = [peer for peer in peers if peer.name in launches]
    for turn in range(settings.rounds):
        order = running[turn % max(len(running), 1) :] + running[: turn % max(len(running), 1)]
        for peer in order:
            if peer.name not in launches:
                continue
            say(f"timing {peer.name}, round {turn + 1} of {settings.rounds}")
            job = {
                "mode": "time",
                "images": str(images),
                "threads": settings.threads,
                "seed": turn,
                "seconds": settings.seconds,
                "queries": settings.queries,
                "most_seconds": settings.most_seconds,
            }
            try:
                with _bound_to(settings.threads):
                    done = run(peer, launches[peer.name], job, work, TIME_LIMIT_S)
            except Failed as error:
                _drop(peer, rows, launches, str(error))
                continue
            row = rows[peer.name]
            row["times_ns"].append(done["times_ns"])
            row["load_ms"].append(done["load_ms"])
            row |= {"model_bytes": done["model_bytes"], "parameters": done["parameters"]}
            row["memory_bytes"] = max(row["memory_bytes"] or 0, done["memory_bytes"] or 0) or None
    for row in rows.values():
        if row["error"] is None:
            row["latency_ms"] = summarise(row["times_ns"])


def summarise(rounds: Sequence[Sequence[int]]) -> dict[str, Any]:
    """p50 and p99 over all rounds, and each round's p50, in milliseconds; p99 is None below 662 queries. Nothing is trimmed."""
    every = np.concatenate([np.asarray(times) for times in rounds]) / 1e6
    p50, p99 = np.percentile(every, [50, 99], method="inverted_cdf")
    return {
        "p50": float(p50),
        "p99": float(p99) if len(every) >= P99_QUERIES else None,
        "count": len(every),
        "p50_of_rounds": [float(np.percentile(times, 50, method="inverted_cdf")) / 1e6 for times in rounds],
    }


@contextmanager
def _bound_to(threads: int) -> Iterator[None]:
    """Processes started inside may use so many cores and no more, whatever their engines would take by themselves."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usual)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


# --- processes -------------------------------------------------------------------------------


def run(peer: Peer, launch: Launch, job: dict[str, Any], work: Path, limit_s: float) -> dict[str, Any]:
    """Runs one job in the peer's own process. Raises Failed with one line if it does not end well."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        result = Path(folder) / "result.json"
        whole = job | {"adapter": peer.adapter, "opens": launch.opens, "result": str(result)}
        threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            done = subprocess.run(
                [*launch.command, json.dumps(whole)],
                env=os.environ | launch.environment | threads,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"gave no answer within {limit_s:.0f} s") from None
        except OSError as error:
            raise Failed(f"cannot be started: {error}") from None
        if done.returncode < 0:
            raise Failed(f"died while it was measured (signal {-done.returncode})")
        if done.returncode or not result.is_file():
            raise Failed(last_line(done.stderr) or f"ended with exit code {done.returncode}")
        answer: dict[str, Any] = json.loads(result.read_text())
        return answer


def _drop(peer: Peer, rows: dict[str, dict[str, Any]], launches: dict[str, Launch], reason: str) -> None:
    rows[peer.name] = _empty(peer) | {"error": " ".join(reason.split())}
    launches.pop(peer.name, None)


def _empty(peer: Peer) -> dict[str, Any]:
    """A row with every key and no figure."""
    return {
        "peer": peer.name,
        "runs_on": peer.runs_on,
        "licence": peer.licence,
        "error": None,
        "missing_classes": missing_classes(peer.classes),
        "dropped_classes": [name for name in peer.classes if name not in LABELS],
        "accuracy": None,
        "accuracy_unseen": None,
        "calibration_error": None,
        "robustness": None,
        "agreement": None,
        "latency_ms": None,
        "load_ms": [],
        "memory_bytes": None,
        "model_bytes": None,
        "parameters": None,
        "times_ns": [],
    }
