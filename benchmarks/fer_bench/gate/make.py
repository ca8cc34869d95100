"""From jobs to answers, and from answers to a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fer_bench.bench import Job
from fer_bench.gate.answers import Answers, Prepared, ask_apart
from fer_bench.gate.baseline import Baseline, Kept, Key, describe
from fer_bench.gate.checks import Answered
from fer_bench.gate.figures import calibration_error, top1
from fer_bench.gate.latency import Latencies
from fer_bench.noise import BUSY
from fer_runtimes.bundle import Bundle, Reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.parity import Tolerance
from fer_runtimes.session import Options


def key_of(runtime: str, bundle: Bundle) -> Key:
    """The row that a bundle on a runtime makes."""
    manifest = bundle.manifest
    return Key(runtime, manifest.target, manifest.precision, bool(manifest.source["folded"]))


def answered(
    jobs: Sequence[Job], prepared: Prepared, options: Options, say: Callable[[str], None] = lambda _: None
) -> list[Answered]:
    """Asks every job in a process of its own. Raises BadInput for two bundles of one row, or one that changed meanwhile."""
    rows: list[Answered] = []
    for job in jobs:
        if job.bundle is None:
            raise BadInput(job.error or f"no bundle for runtime {job.runtime}")
        key, manifest = key_of(job.runtime, job.bundle), job.bundle.manifest
        if same := [row for row in rows if row.key == key]:
            raise BadInput(f"{same[0].bundle.path} and {job.bundle.path} are both {key}; gate them one at a time")
        say(f"{job.runtime} on {job.bundle.path.name}")
        answers = job.error or ask_apart(
            job.bundle.path, job.runtime, options, prepared.at(manifest.size, manifest.crop)
        )
        if isinstance(answers, Answers) and answers.digest != job.bundle.digest:
            raise BadInput(f"{job.bundle.path}: was replaced while it was gated; gate it again")
        rows.append(Answered(key, job.bundle, answers))
    return rows


def baseline_of(
    rows: Sequence[Answered], faces: Faces, truth: Reference, latencies: Latencies | None = None
) -> Baseline:
    """A baseline of these rows. truth: what the net of all of them, unfolded, answers to ``faces`` (``fer_export.reference.answer``).

    Raises CheckFailed for a row without answers or latencies of a busy machine, BadInput for rows of several checkpoints or without a bound of parity.
    """
    sources = {row.bundle.manifest.source["checkpoint_sha256"] for row in rows}
    if len(sources) != 1:
        raise BadInput(f"the bundles are of {len(sources)} checkpoints; a baseline is of one")
    latencies = latencies or Latencies({}, {})
    if latencies.busy_share > BUSY:
        raise CheckFailed(
            f"other programs took {latencies.busy_share:.0%} of the processors while latency was measured; "
            "make the baseline while nothing else runs, or with --no-latency"
        )
    reference = latencies.reference()
    kept = []
    for row in rows:
        if isinstance(row.answers, str):
            raise CheckFailed(f"{row.key} has no answers to keep: {row.answers}")
        tolerance = (row.bundle.manifest.parity or {}).get("tolerance")
        if tolerance is None:
            raise BadInput(f"{row.bundle.path}: records no bound of parity; export it again")
        classes = top1(row.answers.logits)
        kept.append(
            Kept(
                row.key,
                row.bundle.digest,
                row.answers.compute,
                Tolerance(**tolerance),
                classes,
                float((classes == faces.labels).mean()),
                calibration_error(row.answers.logits, faces.labels),
                latencies.speed(row.key, reference) if reference and row.key in latencies.rounds else None,
                latencies.devices.get(row.key),
                row.bundle.manifest.source.get("macs"),
            )
        )
    return Baseline(
        describe(faces),
        sources.pop(),
        truth.logits,
        truth.logits_fp32,
        tuple(kept),
        str(reference) if reference else None,
    )
