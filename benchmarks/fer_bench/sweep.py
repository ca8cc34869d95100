"""fer-bench sweep: every precision of a target, made, checked and measured in turns, in one table."""

# ruff: noqa: UP045  # typer on 3.10 reads Optional

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fer_bench import options
from fer_runtimes import console

if TYPE_CHECKING:
    from fer_bench.bench import Job
    from fer_export.pipeline import Source

HEADINGS = (
    *("target", "precision", "model MB", "accuracy", "agreement"),
    *("p50 ms", "p99 ms", "against fp32", "Pareto-best"),
)
Results = dict[str, Any]


def sweep(
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="fer2013.csv or a folder: int8 is calibrated on its training split, accuracy is of its test split."
        ),
    ] = None,
    target: Annotated[
        Optional[list[str]],
        typer.Option("--target", help="Target of fer-export; repeatable. Default: onnx and openvino."),
    ] = None,
    checkpoint: options.Checkpoint = None,
    out: Annotated[Path, typer.Option(help="Folder for the bundles; those that stand in it are made again.")] = Path(
        "build/sweep"
    ),
    threads: options.Threads = 0,
    queries: options.Queries = 1024,
    json_out: options.JsonOut = None,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Makes and measures all precisions of a target: size, accuracy, agreement and time, the Pareto-best marked.

    A precision that fails its check, or cannot be made here, is a row that says so.

    Examples:

    * `fer-bench sweep --data fer2013.csv`

    * `fer-bench sweep --data fer2013.csv --target openvino --checkpoint runs/mine/last.pt --json sweep.json`
    """
    from rich.console import Console
    from rich.table import Table

    from fer_bench import tables
    from fer_bench.bench import bench
    from fer_bench.jsontext import json_text
    from fer_bench.markdown import table as markdown_table
    from fer_export.pipeline import find_checkpoint, load_source
    from fer_runtimes.data import TEST_SPLITS, load_faces
    from fer_runtimes.errors import CheckFailed
    from fer_runtimes.files import whole_file
    from fer_runtimes.session import Options

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    targets = _checked(target or ["onnx", "openvino"])
    faces = load_faces(data, TEST_SPLITS) if data else None
    source = load_source(find_checkpoint(checkpoint), faces, say=screen.print)
    quantised = quantised_source(source, data, screen.print)
    asked = jobs_of(source, quantised, targets, out, screen.print)
    with screen.status("measuring") as status:
        results = bench(
            [job for _, _, job in asked],
            faces,
            Options(threads=threads or console.usable_cores()),
            queries,
            lambda text: status.update(f"measuring: {text}"),
        )
    rows = cells(results, [(name, precision) for name, precision, _ in asked])
    caption = tables.caption(results)
    for path, content in (
        (json_out, json_text(results)),
        (markdown_out, "\n".join([*markdown_table(HEADINGS, rows), "", caption, ""])),
    ):
        if path is not None:
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
    shown = Table(*HEADINGS, caption=caption)
    for row in rows:
        shown.add_row(*row)
    Console(highlight=False, width=None if screen.is_terminal else 200).print(shown)
    if broken := [row["parity_failure"] for row in results["results"] if row["parity_failure"]]:
        raise CheckFailed("; ".join(broken))


def jobs_of(
    source: Source,
    quantised: Source | str,
    targets: Sequence[str],
    out: Path,
    say: Callable[[str], None],
    precisions: Collection[str] | None = None,
) -> list[tuple[str, str, Job]]:
    """Target, precision and job for each, after PyTorch's, whose answers the others are held against.

    quantised: the source with its INT8 graph, or why there is none. What cannot be exported is a job with that error.
    precisions: those wanted, where not all are
    """
    from fer_bench.bench import Job
    from fer_export.pipeline import export
    from fer_export.targets import TARGETS
    from fer_runtimes.errors import FerError

    def made(name: str, precision: str) -> Job:
        used = quantised if precision == "int8" else source
        if isinstance(used, str):
            return Job(TARGETS[name].runtime, None, used)
        try:
            return Job(TARGETS[name].runtime, export(used, name, out, precision, say))
        except FerError as error:
            return Job(TARGETS[name].runtime, None, str(error))

    every = ((name, precision) for name in targets for precision in TARGETS[name].tolerances)
    cells = [("pytorch", "fp32"), *(cell for cell in every if precisions is None or cell[1] in precisions)]
    return [(name, precision, made(name, precision)) for name, precision in cells]


def cells(results: Results, asked: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The table's rows as text, for the targets and precisions that were asked for; one that failed says why."""
    from fer_bench.report.answer import pareto

    rows = results["results"]
    best = {i for line in pareto(rows) for i in line}
    plain = {name: row for (name, precision), row in zip(asked, rows, strict=True) if precision == "fp32"}
    return [
        [
            name,
            precision,
            _told(row["model_bytes"], lambda value: f"{value / 1e6:.2f}"),
            _told(row["accuracy"], lambda value: f"{value:.2%}"),
            _told(row["agreement"], lambda value: f"{value:.2%}"),
            *(
                _told(row["latency_ms"] and row["latency_ms"][key], lambda value: f"{value:.3f}")
                for key in ("p50", "p99")
            ),
            _against(plain[name], row),
            row["error"] or row["parity_failure"] or ("*" if i in best else ""),
        ]
        for i, ((name, precision), row) in enumerate(zip(asked, rows, strict=True))
    ]


def _told(value: float | None, write: Callable[[float], str]) -> str:
    return "-" if value is None else write(value)


def _against(plain: dict[str, Any], row: dict[str, Any]) -> str:
    """How many times as fast as the same target's fp32, from the rounds that they took in turns."""
    import numpy as np

    from fer_bench.stats import ratio

    if plain is row or not row["raw_ns"] or not plain["raw_ns"]:
        return "-"
    theirs, own = ([np.array(part) for part in one["raw_ns"]] for one in (plain, row))
    found = ratio("fp32", theirs, own)
    reach = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}x{reach}{' ?' if found.unsure else ''}"


def _checked(targets: Sequence[str]) -> Sequence[str]:
    from fer_export.pipeline import why_no_target
    from fer_runtimes.errors import NotAvailable

    for name in targets:
        if reason := why_no_target(name):
            raise NotAvailable(reason)
    return targets


def quantised_source(
    source: Source, data: Path | None, say: Callable[[str], None], max_drop: float | None = None
) -> Source | str:
    """The source with its INT8 graph, or in one line why it has none."""
    from fer_export import calibration_options
    from fer_export.quantise import check_installed
    from fer_runtimes.errors import FerError

    try:
        check_installed()
        faces = calibration_options.load(data, None, None)
        return calibration_options.quantise(source, faces, None, max_drop, None, say)
    except FerError as error:
        return str(error)
