"""fer-bench gate: hold a build against a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fer_bench import options
from fer_bench.jobs import ALL
from fer_runtimes import console

if TYPE_CHECKING:
    from fer_bench.bench import Job
    from fer_bench.gate.baseline import Key
    from fer_bench.gate.latency import Latencies
    from fer_runtimes.session import Options

# Without --data: faces drawn by rule, so that a check-out without data can gate itself; 200 a class.
_DRAWN, _DRAWN_SEED = 1400, 20


def gate(
    baseline: Annotated[Path, typer.Option(help="The baseline to hold against, or to write.")],
    update: Annotated[
        bool, typer.Option("--update-baseline", help="Write the baseline from this build, if it passes its own checks.")
    ] = False,
    runtime: options.Runtimes = [ALL],  # noqa: B006
    model: options.Models = None,
    checkpoint: options.Checkpoint = None,
    data: Annotated[
        Optional[Path],
        typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder. Without it: 1,400 drawn faces."),
    ] = None,
    split: options.Split = None,
    junit_out: Annotated[Optional[Path], typer.Option("--junit", help="Write JUnit XML, a test case a check.")] = None,
    markdown_out: Annotated[Optional[Path], typer.Option("--markdown", help="Write a Markdown summary.")] = None,
    json_out: options.JsonOut = None,
    results: Annotated[
        Optional[Path],
        typer.Option(help="Take latency from this file of `fer-bench --json` instead of measuring; same bundles only."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Check latency ratios.")] = True,
    max_slowdown: Annotated[
        float,
        typer.Option(
            min=1.0, help="How many times the baseline's latency ratio, and its multiply-accumulates, are still well."
        ),
    ] = 1.25,
    device: options.Device = "",
    threads: options.Threads = 0,
    queries: options.Queries = 1024,
    processes: options.Processes = 0,
    require_signature: options.RequireSignature = False,
) -> None:
    """Holds a build against a baseline: exit code 1 on a real loss, 2 if it cannot be judged (docs/gate.md).

    Examples:

    * `fer-bench gate --baseline benchmarks/baseline.json --no-latency --junit gate.xml --markdown gate.md`

    * `fer-bench gate --baseline fer2013.json --data fer2013.csv --runtime openvino --model build/`

    * `fer-bench gate --baseline fer2013.json --data fer2013.csv --update-baseline`
    """
    from rich.console import Console

    from fer_bench.gate import reports
    from fer_bench.gate.answers import Prepared
    from fer_bench.gate.baseline import describe, read_baseline, write_baseline
    from fer_bench.gate.checks import failures, judge, rows_that_did_not_run
    from fer_bench.gate.figures import Bounds
    from fer_bench.gate.make import answered, baseline_of
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models, runtimes_named, signed
    from fer_bench.merge import read_results
    from fer_runtimes.data import TEST_SPLITS, load_faces
    from fer_runtimes.drawn import drawn_faces
    from fer_runtimes.errors import BadInput, CheckFailed
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    if model and checkpoint:
        raise typer.BadParameter("--model names bundles that exist, --checkpoint one to export; give one of them")
    if results and not latency:
        raise typer.BadParameter("--results is where latency is read from; leave out --no-latency, or --results")
    if split and not data:
        raise typer.BadParameter("--split chooses a part of --data; give --data too")
    if require_signature and not model:
        raise BadInput("--require-signature needs --model: what is exported on the fly is not signed")
    if update and (junit_out or markdown_out or json_out):
        raise typer.BadParameter(
            "--update-baseline judges nothing that could be written to --junit, --markdown or --json"
        )
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    faces = load_faces(data, (split,) if split else TEST_SPLITS) if data else drawn_faces(_DRAWN, _DRAWN_SEED)
    kept = None if update else read_baseline(baseline, faces)
    content = read_results(results) if results else None
    runtimes = runtimes_named(runtime, screen.print)
    jobs = jobs_of_models(model, runtimes, runtime) if model else jobs_of_checkpoint(checkpoint, runtimes, screen.print)
    if require_signature:
        jobs = [signed(job) for job in jobs]
    engine, prepared = Options(device, threads or console.usable_cores()), Prepared(faces.images)
    unfolded = _unfolded(jobs, model, checkpoint) if update else None  # refused before any work
    with screen.status("gating") as status:
        rows = answered(jobs, prepared, engine, lambda text: status.update(f"gating {text}"))
        digests = {row.key: row.bundle.digest for row in rows}
        latencies = _latencies(jobs, digests, content, str(results), engine, queries, processes) if latency else None
        if kept is None:
            assert unfolded is not None
            from fer_export.reference import answer

            kept = baseline_of(rows, faces, answer(unfolded, faces), latencies)
    judged = judge(rows, faces, prepared, kept, Bounds(slowdown=max_slowdown), latencies)
    if ALL in runtime and not model:
        judged += rows_that_did_not_run(kept, judged)
    failed = failures(judged)
    if update and not failed:
        write_baseline(baseline, kept)
    data_told = describe(faces)
    for path, text in (
        (junit_out, reports.junit(judged)),
        (markdown_out, reports.markdown(judged, data_told)),
        (json_out, json.dumps(reports.content(judged, data_told, digests), indent=2, allow_nan=False) + "\n"),
    ):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(text, encoding="utf-8")
    for check in failed:
        typer.echo(f"failed: {check.row}: {check.name}: {check.words}")
    for row in judged:
        typer.echo(reports.line(row))
    typer.echo(reports.headline(judged))
    if failed:
        first = f"{failed[0].row}: {failed[0].name}: {failed[0].words}"
        raise CheckFailed(
            f"{len(failed)} checks failed, the first: {first}" + ("; no baseline written" if update else "")
        )


def _latencies(
    jobs: list[Job],
    digests: dict[Key, str],
    content: dict[str, Any] | None,
    source: str,
    engine: Options,
    queries: int,
    processes: int,
) -> Latencies:
    """Latencies of a result file, or measured now."""
    from fer_bench.bench import bench
    from fer_bench.gate.latency import latencies_of

    if content is None:
        content, source = bench(jobs, None, engine, queries, processes=processes), "the measurement"
    return latencies_of(content, digests, source)


def _unfolded(jobs: list[Job], model: list[Path] | None, checkpoint: Path | None) -> Path:
    """The checkpoint whose answers are the truth: the one exported on the fly, or the one in the unfolded PyTorch bundle."""
    from fer_export.pipeline import find_checkpoint
    from fer_runtimes.errors import BadInput

    if not model:
        return find_checkpoint(checkpoint)
    for job in jobs:
        if job.runtime != "pytorch" or not job.bundle:
            continue
        source = job.bundle.manifest.source
        if not source["folded"] or source["recipe"].get("quantise"):  # trained folded: there is no other
            return job.bundle.file(".pt")
    raise BadInput(
        "a baseline holds what the unfolded net answers in float64; add its bundle (fer-export --target pytorch --no-fold)"
    )
