"""fer-bench zoo: the field's backbones side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_bench import options
from fer_runtimes import console


def zoo(
    names: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="[NAME]...", help="Backbones; a name may hold * and ?. Default: all."),
    ] = None,
    runtime: options.Runtimes = ["onnxruntime", "openvino"],  # noqa: B006
    checkpoints: Annotated[
        Optional[Path],
        typer.Option(help="Folder of trained checkpoints, MODEL.pt; the other nets have random weights."),
    ] = None,
    json_out: options.JsonOut = None,
    markdown_out: options.MarkdownOut = None,
    plot_out: options.PlotOut = None,
    device: options.Device = "",
    threads: options.Threads = 0,
    queries: options.Queries = 60,
    seconds: Annotated[float, typer.Option(min=0, help="Timed seconds a net and runtime, at least.")] = 0.25,
) -> None:
    """Measures the field's backbones and ours side by side: parameters, operations and time (docs/zoo.md).

    Examples:

    * `fer-bench zoo`

    * `fer-bench zoo 'mobile*' resnet18 --runtime onnxruntime --threads 1`

    * `fer-bench zoo --checkpoints runs/zoo --json zoo.json --markdown zoo.md --plot zoo.svg`
    """
    from rich.console import Console

    from fer_bench.jobs import runtimes_named
    from fer_bench.jsontext import json_text
    from fer_bench.plotting import check_path, save
    from fer_bench.zoo import tables
    from fer_bench.zoo.exports import export_all
    from fer_bench.zoo.plot import plot
    from fer_bench.zoo.run import run
    from fer_export.pipeline import check_available, find_checkpoint
    from fer_export.zoo import choose
    from fer_runtimes.engines import ENGINES
    from fer_runtimes.errors import BadInput, NotAvailable
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options, why_not

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    chosen = choose(tuple(names or ()))
    if checkpoints is not None and not any((checkpoints / f"{row.model}.pt").is_file() for row in chosen):
        raise BadInput(f"{checkpoints}: holds no checkpoint of these backbones; expected e.g. {chosen[0].model}.pt")
    targets = {name: (ENGINES[name].targets or ("onnx",))[0] for name in runtimes_named(runtime, screen.print)}
    find_checkpoint(None)  # says what is missing where nothing can be exported
    for name, target in targets.items():
        check_available(target, "fp32")
        if reason := why_not(name):
            raise NotAvailable(reason)
    if plot_out:
        check_path(plot_out)
    with screen.status("exporting") as status:
        exported = export_all(
            chosen, list(dict.fromkeys(targets.values())), checkpoints, lambda text: status.update(f"exporting {text}")
        )
        content = run(
            exported,
            targets,
            Options(device, threads or console.usable_cores()),
            queries,
            seconds,
            lambda text: status.update(f"measuring: {text}"),
        )
    for path, text in ((json_out, json_text(content)), (markdown_out, tables.markdown(content))):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(text, encoding="utf-8")
    Console(highlight=False, width=None if screen.is_terminal else 200).print(tables.terminal(content))
    for line in tables.said(content):
        typer.echo(line)
    failed = tables.failures(content)
    if plot_out and len(failed) < len(chosen):
        save(plot(content), plot_out)
    for line in failed[1:]:  # the first stands in the error itself
        screen.print(line)
    if failed:
        raise NotAvailable(f"{len(failed)} of the zoo's rows failed: {failed[0]}")
