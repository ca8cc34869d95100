"""The benchmark: every asked runtime on every asked bundle, one row each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.environment import environment
from fer_bench.measure import Measured, measure_apart
from fer_runtimes import board, metrics
from fer_runtimes.bundle import Bundle, Manifest, Reference, read_reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import CheckFailed
from fer_runtimes.images import prepare
from fer_runtimes.parity import Tolerance, check, compare
from fer_runtimes.session import Options

FORMAT = 1


@dataclass(frozen=True)
class Job:
    """One row to be: a runtime and the bundle it is to run, or why it cannot.

    signed_by: name of the trusted key that signed the bundle, where that was asked
    """

    runtime: str
    bundle: Bundle | None
    error: str | None = None
    signed_by: str | None = None


def bench(
    jobs: Sequence[Job],
    faces: Faces | None,
    options: Options,
    queries: int,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures every job in its own process and returns the result file's content (``docs/results.md``).

    Agreement is with the PyTorch row of the same checkpoint, unfolded where it is among the jobs,
    on the data's images; without data, or without such a row, with the float64 answers in the
    bundle. ``agreement_with`` says which. ``parity_failure`` is set where an engine, on this machine,
    breaks the bound under which its bundle was exported.
    """
    measured: list[Measured | str] = []
    before = board.snapshot()
    with tempfile.TemporaryDirectory() as scratch:
        for job in jobs:
            if job.bundle is None or job.error:
                measured.append(job.error or "no bundle")
                continue
            say(f"{job.runtime} on {job.bundle.path.name}")
            measured.append(
                measure_apart(
                    job.bundle.path,
                    job.runtime,
                    options,
                    _images(faces, job.bundle.manifest, Path(scratch)),
                    queries,
                )
            )
    after = board.snapshot(since=before)
    truths = _references(jobs, measured)
    rows = [_row(job, result, faces, truths) for job, result in zip(jobs, measured, strict=True)]
    return {
        "format": FORMAT,
        "environment": environment() | {"before": before, "after": after},
        "machines": None,
        "data": faces.describe() if faces else None,
        "queries": queries,
        "results": rows,
    }


def _images(faces: Faces | None, manifest: Manifest, scratch: Path) -> Path | None:
    """The prepared images in a file that each process maps, made once for each input size and crop."""
    if faces is None:
        return None
    path = scratch / f"{manifest.size}-{manifest.crop}.npy"
    if not path.exists():
        np.save(path, prepare(faces.images, manifest.size, manifest.crop))
    return path


def _references(jobs: Sequence[Job], measured: Sequence[Measured | str]) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Per checkpoint: what to call the PyTorch reference, and its logits on the data."""
    found: dict[str, tuple[str, NDArray[np.float32]]] = {}
    for job, result in zip(jobs, measured, strict=True):
        if job.runtime == "pytorch" and job.bundle and isinstance(result, Measured) and result.logits is not None:
            source = job.bundle.manifest.source
            if source["checkpoint_sha256"] not in found or not source["folded"]:
                found[source["checkpoint_sha256"]] = (
                    f"pytorch {'folded' if source['folded'] else 'unfolded'} fp32",
                    result.logits,
                )
    return found


def _row(
    job: Job, result: Measured | str, faces: Faces | None, truths: dict[str, tuple[str, NDArray[np.float32]]]
) -> dict[str, Any]:
    manifest = job.bundle.manifest if job.bundle else None
    row: dict[str, Any] = {
        "runtime": job.runtime,
        "target": manifest and manifest.target,
        "precision": manifest and manifest.precision,
        "bundle": manifest and manifest.name,
        "bundle_sha256": job.bundle and job.bundle.digest,
        "signed_by": job.signed_by,
        "folded": manifest and manifest.source.get("folded"),
        "error": result if isinstance(result, str) else None,
        "parity_failure": None,
    }
    empty = dict.fromkeys(
        (
            "device",
            "provider",
            "compute",
            "threads",
            "notes",
            "accuracy",
            "accuracy_unseen",
            "macro_f1",
            "recall",
            "confusion",
            "agreement",
            "agreement_with",
            "max_abs_logit",
            "latency_ms",
            "load_ms",
            "model_bytes",
            "peak_rss_bytes",
            "machine",
        )
    )
    if isinstance(result, str) or job.bundle is None or manifest is None:
        return row | empty
    row |= empty | {
        "device": result.report["device"],
        "provider": result.report["provider"],
        "compute": result.report["compute"],
        "threads": result.report["threads"],
        "notes": list(result.report["notes"]),
        "latency_ms": asdict(result.latency) if result.latency else None,
        "load_ms": result.load_ms if result.latency else None,
        "model_bytes": job.bundle.model_bytes,
        "peak_rss_bytes": result.peak_rss_bytes,
    }
    if job.runtime == "null":  # it answers nothing, so it has nothing to be right or wrong about
        return row
    reference = read_reference(job.bundle)
    row["parity_failure"] = _parity_failure(
        job.bundle, reference, result.reference_logits, f"{job.runtime} on {manifest.name}"
    )
    truth = truths.get(manifest.source["checkpoint_sha256"])
    if result.logits is not None and truth is not None:
        row |= _agreement(result.logits, truth[1], truth[0])
    else:
        row |= _agreement(
            result.reference_logits,
            reference.logits,
            f"float64 reference, {len(reference.images)} images of the bundle",
        )
    if faces is not None and result.logits is not None:
        table = metrics.confusion(faces.labels, result.logits.argmax(1))
        recall = [None if np.isnan(value) else float(value) for value in metrics.recall(table)]
        row |= {
            "accuracy": metrics.accuracy(table),
            "accuracy_unseen": _accuracy_unseen(faces, result.logits),
            "macro_f1": metrics.macro_f1(table),
            "recall": recall,
            "confusion": table.tolist(),
        }
    return row


def _parity_failure(bundle: Bundle, reference: Reference, logits: NDArray[np.float32], what: str) -> str | None:
    """Why the engine, here, breaks the bound that the bundle was exported under; None if it holds, or none is recorded."""
    bound = (bundle.manifest.parity or {}).get("tolerance")
    if bound is None:
        return None
    try:
        check(compare(reference, logits), Tolerance(**bound), what)
    except CheckFailed as failure:
        return str(failure)
    return None


def _accuracy_unseen(faces: Faces, logits: NDArray[np.float32]) -> float | None:
    """Accuracy on the images that do not stand in the training split too; None where that was not looked for."""
    if faces.seen is None or faces.seen.all():
        return None
    return float((logits.argmax(1) == faces.labels)[~faces.seen].mean())


def _agreement(logits: NDArray[np.float32], truth: NDArray[np.floating], name: str) -> dict[str, Any]:
    return {
        "agreement": float((logits.argmax(1) == truth.argmax(1)).mean()),
        "max_abs_logit": float(np.abs(logits - truth).max()),
        "agreement_with": name,
    }
