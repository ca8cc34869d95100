"""Which runtimes are to run which bundles: what every command of this package is asked with."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_bench.bench import Job
    from fer_runtimes.bundle import Bundle

ALL = "all"


def jobs_of_models(models: list[Path], runtimes: list[str], asked: list[str]) -> list[Job]:
    """Every bundle on every runtime that runs its target; one asked for by name must have a bundle."""
    from fer_bench.bench import Job
    from fer_runtimes.bundle import MANIFEST, read_bundle
    from fer_runtimes.errors import BadInput
    from fer_runtimes.session import runtimes_for, why_not

    bundles = []
    for path in models:
        if not path.is_dir():
            raise BadInput(f"{path}: no such bundle; make one with fer-export")
        # a name with a dot is a bundle that is still being made, or was when something was killed
        inner = sorted(file.parent for file in path.glob(f"*/{MANIFEST}") if not file.parent.name.startswith("."))
        bundles += (
            [read_bundle(folder) for folder in inner]
            if inner and not (path / MANIFEST).exists()
            else [read_bundle(path)]
        )
    jobs: list[Job] = []
    for name in runtimes:
        fitting = [bundle for bundle in bundles if name == "null" or name in runtimes_for(bundle.manifest.target)]
        if not fitting and ALL not in asked:
            raise BadInput(
                f"none of {', '.join(str(path) for path in models)} runs on {name}; export one with fer-export"
            )
        jobs += [Job(name, bundle, why_not(name)) for bundle in fitting]
    return sorted(jobs, key=_order) if jobs else [Job(runtimes[0], None, "no bundle to run")]


def jobs_of_checkpoint(checkpoint: Path | None, runtimes: list[str], say: Callable[[str], None]) -> list[Job]:
    """Each asked runtime on the bundle of its own target, exported on the fly; PyTorch unfolded too, where there is such a net, for what folding buys."""
    from fer_export.pipeline import BundleCache, find_checkpoint
    from fer_runtimes.engines import ENGINES

    cache = BundleCache(find_checkpoint(checkpoint), say)
    jobs = []
    for name in runtimes:
        target = (ENGINES[name].targets or ("onnx",))[0]
        if name == "pytorch" and cache.has_branches:
            jobs.append(_job(name, partial(cache.bundle, target, folding=False)))
        jobs.append(_job(name, partial(cache.bundle, target)))
    return jobs


def signed(job: Job) -> Job:
    """The job with the name of its bundle's signer. Raises BadInput if no trusted key signed it."""
    from fer_runtimes.errors import BadInput
    from fer_runtimes.signing import trusted_signer

    if job.bundle is None:
        return job
    if (name := trusted_signer(job.bundle.path)) is None:
        raise BadInput(f"{job.bundle.path}: not signed; sign it with fer-export --model {job.bundle.path} --sign KEY")
    return replace(job, signed_by=name)


def runtimes_named(runtimes: list[str], say: Callable[[str], None]) -> list[str]:
    """The runtimes asked for; `all` are those that can run here, and why the others cannot is said."""
    from fer_runtimes.engines import ENGINES
    from fer_runtimes.errors import BadInput, NotAvailable
    from fer_runtimes.session import why_not

    if unknown := [name for name in runtimes if name not in ENGINES and name != ALL]:
        raise BadInput(f"runtime {unknown[0]!r} is unknown; known are {ALL}, {', '.join(ENGINES)}")
    if ALL not in runtimes:
        return list(dict.fromkeys(runtimes))
    here = ("", platform.system())
    reasons = {name: why_not(name) for name, row in ENGINES.items() if name != "null" and row.system in here}
    for reason in reasons.values():
        if reason:
            say(f"skipped: {reason}")
    if not (chosen := [name for name, reason in reasons.items() if not reason]):
        raise NotAvailable("no runtime can run here; see fer-bench --list")
    return chosen


def _job(runtime: str, bundle: Callable[[], Bundle]) -> Job:
    """A job with its bundle, or with the reason why it has none."""
    from fer_bench.bench import Job
    from fer_runtimes.errors import NotAvailable
    from fer_runtimes.session import why_not

    if reason := why_not(runtime):
        return Job(runtime, None, reason)
    try:
        return Job(runtime, bundle())
    except NotAvailable as error:
        return Job(runtime, None, str(error))


def _order(job: Job) -> bool:
    """PyTorch's unfolded net first: the speed-ups of the table are against it."""
    return not (
        job.runtime == "pytorch" and job.bundle is not None and job.bundle.manifest.source.get("folded") is False
    )
