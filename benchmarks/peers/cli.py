"""python -m peers: what a user would pick instead, measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_bench import options
from fer_runtimes import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def peers(
    data: Annotated[
        Optional[Path],
        typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder with train/ and test/."),
    ] = None,
    split: options.Split = None,
    only: Annotated[
        Optional[list[str]], typer.Option(help="Peer to measure; give it several times for several.")
    ] = None,
    weights_dir: Annotated[
        Optional[Path],
        typer.Option(help="Folder with weights that some peers' packages would fetch from the network."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads and cores of each peer while it is timed.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing, each in fresh processes.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Least length of a peer's round.")] = 1.0,
    json_out: Annotated[
        Optional[Path], typer.Option("--json", help="Write everything, raw times too, as JSON.")
    ] = None,
    markdown_out: options.MarkdownOut = None,
    plot_out: Annotated[
        Optional[Path], typer.Option("--plot", help="Draw accuracy against latency (.svg or .png).")
    ] = None,
    list_peers: Annotated[bool, typer.Option("--list", help="List the peers.")] = False,
) -> None:
    """Measures what a user would pick instead: accuracy, calibration, robustness, latency and memory.

    Each peer runs from its own package in an environment of its own, which the first run makes from PyPI and npm
    under the cache folder. One that cannot run is a row with its reason.

    Examples:

    * `python -m peers --data fer2013.csv --markdown peers.md --json peers.json`

    * `python -m peers --data fer2013.csv --only fer-edge --only fer --threads 2`
    """
    from peers.table import PEERS

    if list_peers:
        for peer in PEERS:
            typer.echo(f"{peer.name:26s} {peer.runs_on}")
        return
    from rich.console import Console

    from fer_bench.plotting import check_path, save
    from fer_runtimes.data import TEST_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput, NotAvailable
    from fer_runtimes.files import whole_file
    from peers.environments import Environments
    from peers.measure import Settings, measure
    from peers.plot import plot
    from peers.report import markdown

    if data is None:
        raise BadInput("--data is missing: peers are scored on FER2013; give fer2013.csv or a folder")
    if unknown := [name for name in only or [] if name not in {peer.name for peer in PEERS}]:
        raise BadInput(f"peer {unknown[0]!r} is unknown; known are {', '.join(peer.name for peer in PEERS)}")
    if threads > console.usable_cores():
        raise BadInput(f"--threads {threads}: this machine gives {console.usable_cores()} cores")
    if weights_dir is not None and not weights_dir.is_dir():
        raise BadInput(f"{weights_dir}: no such folder")
    if plot_out is not None:
        check_path(plot_out)
    faces = load_faces(data, (split,) if split else TEST_SPLITS)
    faces = replace(faces, seen=also_in_training(data, faces))
    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    chosen = [peer for peer in PEERS if not only or peer.name in only]
    settings = Settings(threads, rounds, seconds, varied=min(Settings.varied, len(faces)))
    results = measure(chosen, Environments(weights_dir, screen.print), faces, settings, screen.print)
    page = markdown(results)
    for path, content in ((json_out, json.dumps(results) + "\n"), (markdown_out, page)):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    typer.echo(page)
    if plot_out is not None:
        save(plot(results), plot_out)
    if all(row["error"] for row in results["results"]):
        raise NotAvailable("no peer could be measured; the reasons stand above")


def main() -> None:
    console.run(app)
