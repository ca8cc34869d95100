"""fer-bench: accuracy, agreement and latency of every runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fer_bench import options
from fer_bench.diff.cli import diff
from fer_bench.gate.cli import gate
from fer_bench.jobs import ALL
from fer_runtimes import console

if TYPE_CHECKING:
    from fer_bench.bench import Job

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    runtime: options.Runtimes = [ALL],  # noqa: B006
    model: options.Models = None,
    checkpoint: options.Checkpoint = None,
    data: Annotated[
        Optional[Path],
        typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder. Without it there is no accuracy."),
    ] = None,
    split: options.Split = None,
    json_out: options.JsonOut = None,
    csv_out: Annotated[Optional[Path], typer.Option("--csv", help="Write the rows as csv.")] = None,
    markdown_out: Annotated[Optional[Path], typer.Option("--markdown", help="Write the table as Markdown.")] = None,
    device: options.Device = "",
    threads: options.Threads = 0,
    queries: options.Queries = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="Timed seconds a runtime, at least.")] = 2.0,
    raw: Annotated[bool, typer.Option("--raw", help="Keep every time taken in the JSON, in nanoseconds.")] = False,
    require_signature: options.RequireSignature = False,
    list_runtimes: Annotated[bool, typer.Option("--list", help="List runtimes and what each lacks here.")] = False,
) -> None:
    """Measures runtimes on the same model and the same images, each in a process of its own, in turns.

    Examples:

    * `fer-bench --runtime openvino`

    * `fer-bench --runtime all --data fer2013.csv --split PublicTest --json out.json`

    * `fer-bench --runtime onnxruntime --model build/fer_mobileone_s-onnx-fp32 --threads 1`

    * `fer-bench gate --help`
    """
    if context.invoked_subcommand:
        _none_before(context)
        return
    if list_runtimes:
        from fer_runtimes.engines import ENGINES
        from fer_runtimes.session import why_not

        for name in ENGINES:
            typer.echo(f"{name:16s} {why_not(name) or 'can run here'}")
        return
    from rich.console import Console

    from fer_bench import tables
    from fer_bench.bench import bench as run
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models, runtimes_named
    from fer_runtimes.data import TEST_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    if model and checkpoint:
        raise typer.BadParameter("--model names bundles that exist, --checkpoint one to export; give one of them")
    if raw and not json_out:
        raise BadInput("--raw needs --json: the times are kept there")
    if require_signature and not model:
        raise BadInput("--require-signature needs --model: what is exported on the fly is not signed")
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    faces = load_faces(data, (split,) if split else TEST_SPLITS) if data else None
    if data and faces:
        faces = replace(faces, seen=also_in_training(data, faces))
    runtimes = runtimes_named(runtime, screen.print)
    jobs = jobs_of_models(model, runtimes, runtime) if model else jobs_of_checkpoint(checkpoint, runtimes, screen.print)
    if require_signature:
        jobs = [_signed(job) for job in jobs]
    with screen.status("measuring") as status:
        results = run(
            jobs,
            faces,
            Options(device, threads or console.usable_cores()),
            queries,
            lambda text: status.update(f"measuring: {text}"),
            seconds,
            raw,
        )
    for path, content in (
        (json_out, json.dumps(results, indent=2) + "\n"),
        (csv_out, tables.comma_separated(results)),
        (markdown_out, tables.markdown(results)),
    ):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    Console(highlight=False, width=None if screen.is_terminal else 200).print(tables.terminal(results))
    failed = [row for row in results["results"] if row["error"]]
    fatal = bool(failed) and (ALL not in runtime or len(failed) == len(jobs))
    for row in failed[1:] if fatal else failed:  # the first stands in the error itself
        screen.print(f"{row['runtime']}: {row['error']}")
    for row in results["results"]:
        for note in row["notes"] or []:
            screen.print(f"{row['runtime']}: {note}")
    if broken := [row["parity_failure"] for row in results["results"] if row["parity_failure"]]:
        raise CheckFailed("; ".join(broken))
    if fatal:
        raise NotAvailable(f"{len(failed)} of {len(jobs)} runtimes could not be measured: {failed[0]['error']}")


def _none_before(context: typer.Context) -> None:
    """Refuses options of the measurement in front of another command, where nobody would heed them."""
    from fer_runtimes.errors import BadInput

    sources = [context.get_parameter_source(name) for name in context.params]
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        name = context.invoked_subcommand
        raise BadInput(f"options stand before {name}, which does not heed them; give them after it")


def _signed(job: Job) -> Job:
    """The job with the name of its bundle's signer. Raises BadInput if no trusted key signed it."""
    from fer_runtimes.errors import BadInput
    from fer_runtimes.signing import trusted_signer

    if job.bundle is None:
        return job
    if (name := trusted_signer(job.bundle.path)) is None:
        raise BadInput(f"{job.bundle.path}: not signed; sign it with fer-export --model {job.bundle.path} --sign KEY")
    return replace(job, signed_by=name)


app.command()(gate)
app.command()(diff)


def main() -> None:
    console.run(app)
