"""fer-bench: accuracy, agreement and latency of every runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_bench import options
from fer_bench.corruptions.cli import corruptions
from fer_bench.curve import curve
from fer_bench.diff.cli import diff
from fer_bench.gate.cli import gate
from fer_bench.history.cli import app as history
from fer_bench.jobs import ALL
from fer_bench.report.cli import report
from fer_bench.sweep import sweep
from fer_bench.zoo.cli import zoo
from fer_runtimes import console

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
    markdown_out: options.MarkdownOut = None,
    html_out: options.HtmlOut = None,
    plots_out: options.PlotsOut = None,
    device: options.Device = "",
    threads: options.Threads = 0,
    queries: options.Queries = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="Timed seconds a runtime, at least.")] = 4.0,
    processes: options.Processes = 0,
    batch: Annotated[
        Optional[list[int]], typer.Option(min=1, help="Images a second too, so many given at once; repeatable.")
    ] = None,
    fps: Annotated[
        Optional[list[float]],
        typer.Option(min=0.1, help="Frames a second that arrive as from a camera: deadlines missed; repeatable."),
    ] = None,
    paced_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of frames at each --fps.")] = 10.0,
    soak: Annotated[
        float, typer.Option(min=0, help="Minutes of load without pause, each runtime: first minute against last.")
    ] = 0.0,
    loadgen: Annotated[bool, typer.Option("--loadgen", help="MLCommons' LoadGen drives each runtime too.")] = False,
    pin: Annotated[
        bool, typer.Option("--pin/--no-pin", help="Bind each runtime to as many cores as it has threads.")
    ] = True,
    average: Annotated[
        str,
        typer.Option(
            help="Answer by the mean of several views of a face, in one query: flip or ten-crop. Needs --data."
        ),
    ] = "",
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show recall and F1 of each class too; they are always in the files.")
    ] = False,
    require_signature: options.RequireSignature = False,
    list_runtimes: Annotated[bool, typer.Option("--list", help="List runtimes and what each lacks here.")] = False,
) -> None:
    """Measures runtimes on the same model and the same images, each in a process of its own, in turns.

    Examples:

    * `fer-bench --runtime openvino`

    * `fer-bench --runtime all --data fer2013.csv --split PublicTest --json out.json`

    * `fer-bench --runtime onnxruntime --model build/fer_small-onnx-fp32 --threads 1`

    * `fer-bench --data fer2013.csv --html results.html --plots plots/`

    * `fer-bench gate --help`, `fer-bench report --help`, `fer-bench corruptions --help`
    """
    if context.invoked_subcommand:
        console.none_before(context)
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
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models, runtimes_named, signed
    from fer_bench.jsontext import json_text
    from fer_bench.modes import Modes
    from fer_bench.plotting import new_figure
    from fer_bench.report.page import write_report
    from fer_runtimes.data import TEST_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput, CheckFailed, NotAvailable
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    if model and checkpoint:
        raise typer.BadParameter("--model names bundles that exist, --checkpoint one to export; give one of them")
    if require_signature and not model:
        raise BadInput("--require-signature needs --model: what is exported on the fly is not signed")
    further = Modes(tuple(batch or ()), tuple(fps or ()), paced_seconds, soak, loadgen, pin)
    if html_out or plots_out:
        new_figure()  # without matplotlib, minutes of measuring would be lost
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    faces = load_faces(data, (split,) if split else TEST_SPLITS) if data else None
    if data and faces:
        faces = replace(faces, seen=also_in_training(data, faces))
    runtimes = runtimes_named(runtime, screen.print)
    jobs = jobs_of_models(model, runtimes, runtime) if model else jobs_of_checkpoint(checkpoint, runtimes, screen.print)
    if require_signature:
        jobs = [signed(job) for job in jobs]
    with screen.status("measuring") as status:
        results = run(
            jobs,
            faces,
            Options(device, threads or console.usable_cores()),
            queries,
            lambda text: status.update(f"measuring: {text}"),
            seconds,
            further,
            processes,
            average,
        )
    for path, content in (
        (json_out, json_text(results)),
        (csv_out, tables.comma_separated(results)),
        (markdown_out, tables.markdown(results)),
    ):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    shown = Console(highlight=False, width=None if screen.is_terminal else 200)
    by_class = tables.terminal_classes(results) if per_class else []
    for table in (tables.terminal(results), *tables.terminal_extra(results), *by_class):
        shown.print(table)
    if html_out or plots_out:
        write_report(results, faces, html_out, plots_out)
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


app.command()(gate)
app.command()(corruptions)
app.command()(report)
app.add_typer(history, name="history")
app.command()(diff)
app.command()(sweep)
app.command()(zoo)
app.command()(curve)


def main() -> None:
    console.run(app)
