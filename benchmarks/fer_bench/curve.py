"""fer-bench curve: how training runs went, epoch by epoch."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fer_bench import options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "log.jsonl"  # what fer-train writes into a run's folder
_KEYS = ("epoch", "epochs", "size", "loss", "accuracy", "images_per_s")
_HEADINGS = ["run", "epochs", "pixels", "last accuracy", "best accuracy", "at epoch", "loss", "images/s"]


def curve(
    runs: Annotated[list[Path], typer.Argument(help="Runs of fer-train: their folders, or log.jsonl of each.")],
    markdown_out: options.MarkdownOut = None,
    plot_out: options.PlotOut = None,
) -> None:
    """Tables and draws training runs side by side, finished or not: accuracy on the watched split and loss by epoch.

    Examples:

    * `fer-bench curve runs/s0`

    * `fer-bench curve runs/alone runs/taught --plot curves.svg --markdown curves.md`
    """
    from rich.console import Console

    from fer_bench import plotting
    from fer_bench.markdown import table
    from fer_bench.tables import rich_table
    from fer_runtimes.files import whole_file

    if plot_out is not None:
        plotting.check_path(plot_out)
    names = [_name(run) for run in runs]
    if len(set(names)) < len(names):
        names = list(map(str, runs))
    logs = {name: read_log(run) for name, run in zip(names, runs, strict=True)}
    rows = [_row(name, log) for name, log in logs.items()]
    if markdown_out is not None:
        with whole_file(markdown_out) as aside:
            aside.write_text("\n".join([*table(_HEADINGS, rows), ""]), encoding="utf-8")
    if plot_out is not None:
        plotting.save(plot(logs), plot_out)
    screen = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    screen.print(rich_table(_HEADINGS, rows))


def read_log(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run, from its folder or its log. Raises BadInput for anything else."""
    from fer_runtimes.errors import BadInput

    file = run / LOG if run.is_dir() else run
    try:
        text = file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # what a run that was cut off has half written is no epoch
        epochs = [{key: _finite(json.loads(line)[key]) for key in _KEYS} for line in whole.splitlines()]
    except FileNotFoundError:
        raise BadInput(
            f"{file}: no such file; give a folder that fer-train --out made, once its first epoch has ended, or its {LOG}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadInput(f"{file}: not a log of fer-train ({type(error).__name__}: {error})") from error
    if not epochs:
        raise BadInput(f"{file}: no epoch has ended yet")
    return epochs


def plot(logs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Accuracy above, training loss below, a line for each run; losses compare within one recipe alone."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    from fer_bench.plotting import COLOURS, MARKERS, new_figure, styled

    figure = new_figure(7.0, 5.4)
    with styled():
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        for i, (name, log) in enumerate(logs.items()):
            epochs = [row["epoch"] for row in log]
            for axes, key in ((above, "accuracy"), (below, "loss")):
                values = [row[key] for row in log]
                axes.plot(
                    epochs,
                    values,
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
                    markersize=3,
                    label=_label(name),
                )
        above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        above.set_ylabel("accuracy, averaged weights")
        below.set_ylabel("training loss")
        below.set_xlabel("epoch")
        above.legend()
        above.grid()
        below.grid()
    return figure


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no figure")
    return float(value)


def _name(run: Path) -> str:
    """A folder's own name; a log is named by its folder, unless it has a name of its own."""
    if run.is_dir():
        return run.resolve().name
    return run.resolve().parent.name if run.name == LOG else run.stem


def _label(name: str) -> str:
    """As matplotlib shows it as it is: a dollar begins a formula there, and an underscore hides a line."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _row(name: str, log: list[dict[str, Any]]) -> list[str]:
    last, best = log[-1], max(log, key=lambda row: row["accuracy"])
    sizes = sorted({int(row["size"]) for row in log})
    speeds = sorted(row["images_per_s"] for row in log)
    return [
        name,
        f"{last['epoch']:.0f} of {last['epochs']:.0f}",
        ", ".join(map(str, sizes)),
        f"{last['accuracy']:.2%}",
        f"{best['accuracy']:.2%}",
        f"{best['epoch']:.0f}",
        f"{last['loss']:.3f}",
        f"{speeds[len(speeds) // 2]:.0f}",
    ]
