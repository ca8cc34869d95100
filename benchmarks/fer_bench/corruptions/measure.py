"""Accuracy under every corruption and severity, of one net or of several on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_bench.bench import Job
from fer_bench.corruptions.made import CORRUPTIONS, SEVERITIES, corrupted
from fer_bench.environment import environment
from fer_bench.gate.figures import loss_interval, top1
from fer_runtimes.data import Faces
from fer_runtimes.errors import NotAvailable
from fer_runtimes.images import prepare
from fer_runtimes.session import Options, Session, open_session

FORMAT = 1
BATCH = 128


def measure(
    jobs: Sequence[Job],
    faces: Faces,
    count: int,
    seed: int,
    options: Options,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The content of a corruption file (docs/corruptions.md).

    count: of the faces, drawn at random by the seed, 0 for all; each job's net sees the same pictures.
    Raises NotAvailable for a job that cannot run, and what opening a session raises.
    """
    if reason := next((job.error or "no bundle to run" for job in jobs if job.error or job.bundle is None), None):
        raise NotAvailable(reason)
    made = datetime.now(timezone.utc)
    numbers = np.sort(np.random.default_rng(seed).permutation(len(faces))[: count or None])
    rights = [_rights(job, faces, numbers, seed, options, say) for job in jobs]
    models = [_model(job, *right) for job, right in zip(jobs, rights, strict=True)]
    for name, model, (_, right) in zip(_names(jobs), models, rights, strict=True):
        change = None if right is rights[0][1] else _change(rights[0][1], right)
        model |= {"name": name, "to_first": change}
    return {
        "format": FORMAT,
        "made": made.isoformat(timespec="seconds"),
        "environment": environment(),
        "data": faces.describe(),
        "images": len(numbers),
        "seed": seed,
        "corruptions": {name: {"unit": row.unit, "levels": list(row.levels)} for name, row in CORRUPTIONS.items()},
        "models": models,
    }


def _names(jobs: Sequence[Job]) -> list[str]:
    """What tables call each net: its bundle, and what else is needed to tell it apart."""
    paths = [job.bundle.path for job in jobs if job.bundle]
    folders = {path.name: {other for other in paths if other.name == path.name} for path in paths}
    runtimes = {job.runtime for job in jobs}
    return [
        (path.name if len(folders[path.name]) == 1 else str(path)) + (f" in {job.runtime}" if len(runtimes) > 1 else "")
        for path, job in zip(paths, jobs, strict=True)
    ]


def _rights(
    job: Job, faces: Faces, numbers: NDArray[np.int64], seed: int, options: Options, say: Callable[[str], None]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which answers are right: bool ``[N]`` of the faces as they are, ``[12, 5, N]`` by corruption and severity."""
    assert job.bundle is not None
    images, labels = np.asarray(faces.images[numbers]), faces.labels[numbers]
    with open_session(job.bundle, job.runtime, options) as session:
        clean = _answers(session, images) == labels
        right = np.empty((len(CORRUPTIONS), len(SEVERITIES), len(images)), dtype=bool)
        for i, name in enumerate(CORRUPTIONS):
            say(f"{job.bundle.path.name} in {job.runtime}: {name}")
            for severity in SEVERITIES:
                right[i, severity - 1] = _answers(session, corrupted(images, name, severity, seed, numbers)) == labels
    return clean, right


def _answers(session: Session, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    manifest = session.bundle.manifest
    prepared = prepare(images, manifest.size, manifest.crop)
    return top1(np.concatenate([session.infer(prepared[i : i + BATCH]) for i in range(0, len(prepared), BATCH)]))


def _model(job: Job, clean: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, Any]:
    assert job.bundle is not None
    manifest = job.bundle.manifest
    return {
        "runtime": job.runtime,
        "bundle": manifest.name,
        "bundle_sha256": job.bundle.digest,
        "precision": manifest.precision,
        "clean": float(clean.mean()),
        "mean": float(right.mean()),
        "mean_interval": _interval(right.mean((0, 1))),
        "corruptions": {
            name: {
                "mean": float(right[i].mean()),
                "severities": [_cell(clean, right[i, severity - 1]) for severity in SEVERITIES],
            }
            for i, name in enumerate(CORRUPTIONS)
        },
    }


def _cell(clean: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, Any]:
    worse, better = int((clean & ~right).sum()), int((~clean & right).sum())
    return {
        "accuracy": float(right.mean()),
        "drop": (worse - better) / len(clean),
        "interval": list(loss_interval(worse, better, len(clean))),
    }


def _change(first: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, Any]:
    """By how much the mean accuracy is above the first net's, in all and by corruption, with 95 % intervals in pairs."""
    gain = right.astype(np.float64) - first
    return {
        "mean": float(gain.mean()),
        "interval": _interval(gain.mean((0, 1))),
        "corruptions": {
            name: {"mean": float(gain[i].mean()), "interval": _interval(gain[i].mean(0))}
            for i, name in enumerate(CORRUPTIONS)
        },
    }


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    """95 % interval of a mean over images, which are resampled whole: all pictures made of one face go together."""
    return list(stats.bootstrap(lambda chosen: float(values[chosen].mean()), len(values)) or ()) or None
