"""The benchmark: every asked runtime on every asked bundle, one row each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import loadgen, modes
from fer_bench.calibration import calibration
from fer_bench.environment import environment
from fer_bench.latency import summarise
from fer_bench.measure import Measured, Task, measure, processes_for
from fer_bench.mistakes import disagreements, worst_mistakes
from fer_bench.modes import Modes
from fer_bench.noise import BUSY
from fer_bench.stats import Ratio, ratio
from fer_bench.tables import name_of
from fer_runtimes import board, metrics
from fer_runtimes.averaging import AVERAGES, check_average, prepare_views
from fer_runtimes.bundle import Bundle, Manifest, Reference, read_reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
from fer_runtimes.images import prepare
from fer_runtimes.parity import Tolerance, check, compare
from fer_runtimes.session import Options

FORMAT = 1
SECONDS = 2.0


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
    seconds: float = SECONDS,
    further: Modes = Modes(),  # noqa: B008
    processes: int = 0,
    average: str = "",
) -> dict[str, Any]:
    """Measures every job in its own process, in turns, and returns the result file's content (``docs/results.md``).

    queries, seconds: at least, for each job; further: what else to measure; processes: how many fresh ones a job's queries
    are spread over, 0 for as many as they are worth (``processes_for``);
    average: of ``fer_runtimes.averaging``: each query is then all views of a face, needs faces. Raises NotAvailable, before anything is
    measured, if that needs a package which is not here.

    Agreement is with the PyTorch row of the same checkpoint, unfolded where it is among the jobs,
    on the data's images; without data, or without such a row, with the float64 answers in the
    bundle. ``agreement_with`` says which. ``parity_failure`` is set where an engine, on this machine,
    breaks the bound under which its bundle was exported.
    """
    if further.loadgen and (reason := loadgen.missing()):
        raise NotAvailable(reason)
    processes = processes or processes_for(queries)
    if average and faces is None:
        raise BadInput(
            f"--average {average} needs --data: without faces there is nothing that it could make more right"
        )
    for job in jobs:
        if average and job.bundle is not None:
            check_average(average, job.bundle.manifest.crop)
    made, before = datetime.now(timezone.utc), board.snapshot()
    with tempfile.TemporaryDirectory() as scratch:
        tasks = {
            i: Task(
                job.bundle.path,
                job.runtime,
                _images(faces, job.bundle.manifest, Path(scratch), average),
                average,
                job.bundle.digest,
            )
            for i, job in enumerate(jobs)
            if job.bundle is not None and not job.error
        }
        results, meanwhile = measure(list(tasks.values()), options, queries, seconds, say, further, processes=processes)
    after = board.snapshot(since=before)
    done = dict(zip(tasks, results, strict=True))
    measured = [done.get(i, job.error or "no bundle") for i, job in enumerate(jobs)]
    truths = _references(jobs, measured)
    rows = [_row(job, result, faces, truths, average) for job, result in zip(jobs, measured, strict=True)]
    _add_ratios(rows, measured, meanwhile["busy_share"], of_processes=processes > 1)
    return {
        "format": FORMAT,
        "made": made.isoformat(timespec="seconds"),
        "environment": environment() | meanwhile | {"before": before, "after": after},
        "machines": None,
        "data": faces.describe() if faces else None,
        "queries": queries,
        "seconds": seconds,
        "processes": processes,
        "results": rows,
    }


def _images(faces: Faces | None, manifest: Manifest, scratch: Path, average: str) -> Path | None:
    """The prepared images in a file that each process maps, made once for each input size and crop."""
    if faces is None:
        return None
    path = scratch / f"{manifest.size}-{manifest.crop}.npy"
    if not path.exists():
        size, crop = manifest.size, manifest.crop
        views = prepare_views(faces.images, size, crop, average) if average else prepare(faces.images, size, crop)
        np.save(path, views)
    return path


def _references(jobs: Sequence[Job], measured: Sequence[Measured | str]) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Per checkpoint: what to call the PyTorch reference, and its logits on the data."""
    found: dict[str, tuple[str, NDArray[np.float32]]] = {}
    for job, result in zip(jobs, measured, strict=True):
        if (
            job.runtime == "pytorch"
            and job.bundle
            and isinstance(result, Measured)
            and result.answers.logits is not None
        ):
            source = job.bundle.manifest.source
            if source["checkpoint_sha256"] not in found or not source["folded"]:
                found[source["checkpoint_sha256"]] = (
                    f"pytorch {'folded' if source['folded'] else 'unfolded'} fp32",
                    result.answers.logits,
                )
    return found


def _add_ratios(
    rows: Sequence[dict[str, Any]], measured: Sequence[Measured | str], busy: float | None, of_processes: bool
) -> None:
    """Each timed row's ratio to the first PyTorch row, from the rounds, or the processes, that they took in turns.

    busy: share of the processors that others took during the rounds of all. What others take does not slow all
    runtimes alike: one with two threads on two cores waits for the slower. So where they took much, from all or from
    any one row, no ratio is sure, however narrow its interval.
    """
    rounds = [result.rounds if isinstance(result, Measured) else [] for result in measured]
    first = next((i for i, row in enumerate(rows) if row["runtime"] == "pytorch" and rounds[i]), None)
    if first is None:
        return
    share = max(value or 0 for value in (busy, *(row["busy_share"] for row in rows)))
    for row, own in zip(rows, rounds, strict=True):
        if own and row["runtime"] != "null":  # it does nothing: there is nothing to be faster at
            found = ratio(name_of(rows[first]), rounds[first], own, of_processes)
            row["ratio"] = asdict(_doubted(found, share) if share > BUSY else found)


def _doubted(found: Ratio, share: float) -> Ratio:
    why = f"other programs took {share:.0%} of the processors"
    return replace(found, unsure=True, why=f"{found.why}; {why}" if found.why else why)


def _row(
    job: Job,
    result: Measured | str,
    faces: Faces | None,
    truths: dict[str, tuple[str, NDArray[np.float32]]],
    average: str,
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
        "average": average or None,
        "passes": len(AVERAGES[average]) if average else 1,
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
            "f1",
            "recall",
            "confusion",
            "calibration",
            "agreement",
            "agreement_with",
            "max_abs_logit",
            "disagreements",
            "worst_mistakes",
            "latency_ms",
            "ratio",
            "cold_start_ms",
            "load_ms",
            "first_inference_ms",
            "prepare_ms",
            "model_bytes",
            "peak_rss_bytes",
            "rss_over_bare_bytes",
            "involuntary_switches",
            "busy_share",
            "cores",
            "pinned",
            "energy",
            *modes.KEYS,
            "raw_ns",
            "machine",
        )
    )
    if isinstance(result, str) or job.bundle is None or manifest is None:
        return row | empty
    answers = result.answers
    row |= empty | {
        "device": answers.report["device"],
        "provider": answers.report["provider"],
        "compute": answers.report["compute"],
        "threads": answers.report["threads"],
        "notes": [*answers.report["notes"], *result.notes],
        "cores": answers.cores,
        "pinned": answers.pinned,
        "prepare_ms": answers.prepare_ms,
        "model_bytes": job.bundle.model_bytes,
        "peak_rss_bytes": answers.peak_rss_bytes,
        "rss_over_bare_bytes": answers.rss_over_bare_bytes,
    }
    if result.rounds:
        row |= asdict(result.opened) | {
            "latency_ms": asdict(summarise(result.rounds)),
            "involuntary_switches": result.switches,
            "busy_share": result.busy_share,
            "energy": result.energy,
            **result.modes,
        }
    if job.runtime == "null":  # it answers nothing, so it has nothing to be right or wrong about
        return row
    row["raw_ns"] = [taken.tolist() for taken in result.rounds] or None
    reference = read_reference(job.bundle)
    row["parity_failure"] = _parity_failure(
        job.bundle, reference, answers.reference_logits, f"{job.runtime} on {manifest.name}"
    )
    truth = truths.get(manifest.source["checkpoint_sha256"])
    if answers.logits is not None and truth is not None:
        row |= _agreement(answers.logits, truth[1], f"{truth[0]} ({average})" if average else truth[0])
    else:
        row |= _agreement(
            answers.reference_logits,
            reference.logits,
            f"float64 reference, {len(reference.images)} images of the bundle",
        )
    if faces is not None and answers.logits is not None:
        table = metrics.confusion(faces.labels, answers.logits.argmax(1))
        row |= {
            "accuracy": metrics.accuracy(table),
            "accuracy_unseen": _accuracy_unseen(faces, answers.logits),
            "macro_f1": metrics.macro_f1(table),
            "f1": _by_class(metrics.f1(table)),
            "recall": _by_class(metrics.recall(table)),
            "confusion": table.tolist(),
            "calibration": calibration(answers.logits, faces, manifest),
            "disagreements": disagreements(answers.logits, truth and truth[1], faces.labels, manifest.temperature),
            "worst_mistakes": worst_mistakes(answers.logits, truth and truth[1], faces.labels, manifest.temperature),
        }
    return row


def _by_class(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


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
