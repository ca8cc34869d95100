"""fer-bench corruptions: how accuracy falls when faces are worse than the data set's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fer_bench import options
from fer_runtimes import console


def corruptions(
    data: Annotated[Path, typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder.")],
    runtime: options.Runtimes = ["onnxruntime"],  # noqa: B006
    model: options.Models = None,
    checkpoint: options.Checkpoint = None,
    split: options.Split = None,
    images: Annotated[int, typer.Option(min=0, help="Faces drawn from the split; 0 for all.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of faces and of what is drawn at random.")] = 0,
    device: options.Device = "",
    threads: options.Threads = 0,
    json_out: options.JsonOut = None,
    markdown_out: options.MarkdownOut = None,
    plot_out: options.PlotOut = None,
) -> None:
    """Scores nets on blurred, noisy, dark, compressed and badly cut faces, five severities each (docs/corruptions.md).

    Examples:

    * `fer-bench corruptions --data fer2013.csv`

    * `fer-bench corruptions --data fer2013.csv --model build/a --model build/b --plot corruptions.png`

    * `fer-bench corruptions --data fer2013.csv --images 0 --json corruptions.json --markdown corruptions.md`
    """
    from dataclasses import replace

    from rich.console import Console

    from fer_bench import plotting
    from fer_bench.corruptions import tables
    from fer_bench.corruptions.measure import measure
    from fer_bench.jobs import jobs_of_checkpoint, jobs_of_models, runtimes_named
    from fer_bench.jsontext import json_text
    from fer_bench.tables import rich_table
    from fer_runtimes.data import TEST_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    if model and checkpoint:
        raise BadInput("--model names bundles that exist, --checkpoint one to export; give one of them")
    if plot_out is not None:
        plotting.check_path(plot_out)
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    faces = load_faces(data, (split,) if split else TEST_SPLITS)
    faces = replace(faces, seen=also_in_training(data, faces))
    runtimes = runtimes_named(runtime, screen.print)
    jobs = jobs_of_models(model, runtimes, runtime) if model else jobs_of_checkpoint(checkpoint, runtimes, screen.print)
    with screen.status("measuring") as status:
        chosen = Options(device, threads or console.usable_cores())
        results = measure(jobs, faces, images, seed, chosen, lambda text: status.update(f"measuring: {text}"))
    for path, content in ((json_out, json_text(results)), (markdown_out, tables.markdown(results))):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    if plot_out is not None:
        plotting.save(tables.plot(results), plot_out)
    shown = Console(highlight=False, width=None if screen.is_terminal else 200)
    for title, headings, rows in tables.tables(results):
        shown.print(rich_table(headings, rows, title=title))
    shown.print(tables.caption(results))
