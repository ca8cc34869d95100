"""What INT8 is worth in time: ``python -m evidence.int8_speed --data fer2013.csv --checkpoint fer_small``.

Every net in float32 and in INT8 on ONNX Runtime and on OpenVINO, measured in turns in one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evidence.output import show
from fer_bench import options, sweep
from fer_runtimes import console

if TYPE_CHECKING:
    from fer_bench.bench import Job

TARGETS, PRECISIONS = ("onnx", "openvino"), ("fp32", "int8")
HEADINGS = ("net", "layers int8", "share of fp32's MB", *sweep.HEADINGS[:2], *sweep.HEADINGS[3:8], "failure")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def int8_speed(
    data: Annotated[Path, typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder.")],
    checkpoint: Annotated[
        list[Path], typer.Option(help="Checkpoint, a file or the name of a shipped one; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the bundles.")] = Path("build/int8-speed"),
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 1,
    queries: options.Queries = 1024,
    json_out: options.JsonOut = None,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Measures nets in float32 and in INT8, all in turns, and says how many times as fast the second is.

    No layer is left in float for the sake of accuracy (--max-drop 1), which is another matter: evidence.int8.

    Examples:

    * `python -m evidence.int8_speed --data fer2013.csv --checkpoint fer_small --checkpoint runs/repvgg_a0/last.pt`
    """
    from rich.console import Console

    from fer_bench.bench import bench
    from fer_bench.jsontext import json_text
    from fer_bench.noise import BUSY
    from fer_export.pipeline import find_checkpoint, load_source
    from fer_runtimes.data import TEST_SPLITS, load_faces
    from fer_runtimes.errors import CheckFailed
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    test = load_faces(data, TEST_SPLITS)
    nets = []
    for i, path in enumerate(checkpoint):
        source = load_source(find_checkpoint(path), test, say=screen.print)
        quantised = sweep.quantised_source(source, data, screen.print, max_drop=1)
        asked = sweep.jobs_of(source, quantised, TARGETS, out / f"{i}", screen.print, PRECISIONS)
        given = source.checkpoint.input["size"]
        nets.append((f"{source.checkpoint.model['name']}, {given}x{given}", asked))
    jobs = [job for _, asked in nets for _, _, job in asked]
    with screen.status("measuring") as status:
        results = bench(jobs, test, Options(threads=threads), queries, lambda text: status.update(f"measuring: {text}"))
    if json_out is not None:
        with whole_file(json_out) as aside:
            aside.write_text(json_text(results), encoding="utf-8")
    rows, at = [], 0
    for name, asked in nets:
        own = {**results, "results": results["results"][at : at + len(asked)]}
        at += len(asked)
        kinds = [(target, precision) for target, precision, _ in asked]
        cells = sweep.cells(own, kinds)
        for i, (target, _, job) in list(enumerate(asked))[1:]:  # the first is PyTorch's, that the others agree with
            row, plain = own["results"][i], own["results"][kinds.index((target, "fp32"))]
            rows.append([name, _layers(job), _share(row, plain), *cells[i][:2], *cells[i][3:8], _failure(row)])
    busy = results["environment"].get("busy_share") or 0
    words = [
        f"accuracy and agreement (with PyTorch's float32) on {test.split} of {test.name}",
        f"one image at a time, on {threads} of its cores, at least {queries} queries, all bundles in turns",
        "against fp32 of the same engine in the same rounds, with its 95 % interval; ? where that is wider than ±5 %",
        *([f"BUSY: other programs took {busy:.0%} of its processors while measuring"] if busy > BUSY else []),
    ]
    show(HEADINGS, rows, words, markdown_out)
    if failures := [f"{row[0]} {row[3]} {row[4]}: {row[-1]}" for row in rows if row[-1]]:
        raise CheckFailed("; ".join(failures))


def _layers(job: Job) -> str:
    """How many convolutions and products the graph has in int8, of how many."""
    found = job.bundle and job.bundle.manifest.calibration
    return f"{found['quantised']} of {found['of']}" if found else "-"


def _failure(row: dict[str, Any]) -> str:
    return row["error"] or row["parity_failure"] or ""


def _share(row: dict[str, Any], plain: dict[str, Any]) -> str:
    if row is plain or not row["model_bytes"] or not plain["model_bytes"]:
        return "-"
    return f"{row['model_bytes'] / plain['model_bytes']:.0%}"


if __name__ == "__main__":
    console.run(app)
