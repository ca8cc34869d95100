"""fer-bench history: results over time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fer_bench.history.runs import Run

app = typer.Typer(
    no_args_is_help=True,
    help="Keeps results over time: adds, lists, compares and plots runs (docs/history.md).\n\n"
    "Examples:\n\n* `fer-bench history add out.json`\n\n* `fer-bench history compare last~1 last`\n\n"
    "* `fer-bench history plot p50_ms --out p50.png`",
)

Database = Annotated[
    Optional[Path],
    typer.Option("--db", envvar="FER_HISTORY", help="The database. Default: history.sqlite3 in the cache folder."),
]
Machine = Annotated[str, typer.Option(help="Only runs of machines of this name; it may hold * and ?.")]
Runtime = Annotated[str, typer.Option(help="Only rows of runtimes of this name; it may hold * and ?.")]
BundleName = Annotated[str, typer.Option("--bundle", help="Only rows of bundles of this name; it may hold * and ?.")]
RunName = Annotated[
    str, typer.Argument(metavar="ID", help="Id of a run, or `last`, or `last~1` for the one before it.")
]


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="OUT.JSON...", help="Files of `fer-bench --json`.")],
    machine: Annotated[
        Optional[str], typer.Option(help="What to call the machine. Default: the name that its file has for it.")
    ] = None,
    db: Database = None,
) -> None:
    """Keeps result files, all or none; one that is kept already stays as it is. A merged file gives one run a machine.

    Examples:

    * `fer-bench history add out.json`

    * `fer-bench history add results/*.json --db results.sqlite3`
    """
    from dataclasses import replace

    from fer_bench.history import store
    from fer_bench.history.runs import read_runs
    from fer_bench.history.text import plain
    from fer_runtimes.errors import BadInput

    read = [read_runs(path) for path in files]
    if machine is not None:
        for path, (runs, _) in zip(files, read, strict=True):
            if len(runs) > 1:
                raise BadInput(f"{path}: holds several machines, which keep their names; leave out --machine")
        read = [([replace(run, machine=plain(machine)) for run in runs], content) for runs, content in read]
    with store.opened(db or store.default_path(), write=True) as database:
        done = [
            (run, *made)
            for runs, content in read
            for run, made in zip(runs, store.add(database, runs, content), strict=True)
        ]
    for run, number, new in done:
        typer.echo(
            f"{'added' if new else 'already there'}: run {number}, {run.machine}, {run.date}, {len(run.rows)} rows"
        )


@app.command("list")
def show(
    machine: Machine = "*",
    runtime: Runtime = "*",
    bundle: BundleName = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    db: Database = None,
) -> None:
    """Lists runs, oldest first, those of unknown date before all; `last` is the one at the end.

    Examples:

    * `fer-bench history list`

    * `fer-bench history list --machine nano --runtime tensorrt --json`
    """
    from fer_bench.history import tables
    from fer_bench.history.runs import only

    runs = only(_runs(db), machine, runtime, bundle)
    if as_json:
        typer.echo(json.dumps([tables.summary(run) for run in runs], indent=2))
    else:
        _screen().print(tables.listed(runs))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="The earlier run: its id, `last~1`, or a result file.")],
    b: Annotated[str, typer.Argument(help="The later run: its id, `last`, or a result file.")],
    machine: Machine = "*",
    db: Database = None,
) -> None:
    """Compares two runs row by row; the exit code is 0 whatever changed (to fail a build there is `fer-bench gate`).

    Examples:

    * `fer-bench history compare last~1 last`

    * `fer-bench history compare 3 out.json`

    * `fer-bench history compare last~1 last --machine nano`
    """
    from fer_bench.history import tables
    from fer_bench.history.compare import compare as compared

    comparison = compared(_run(a, db, machine), _run(b, db, machine))
    screen = _screen()
    screen.print(tables.compared(comparison))
    for line in tables.remarks(comparison):
        screen.print(line, soft_wrap=True)


@app.command()
def plot(
    figure: Annotated[str, typer.Argument(help="What to plot: accuracy, p50_ms, ratio, rss, ... (docs/history.md).")],
    out: Annotated[Path, typer.Option(help="The .png or .svg to write.")],
    machine: Machine = "*",
    runtime: Runtime = "*",
    bundle: BundleName = "*",
    db: Database = None,
) -> None:
    """Plots one figure over commits and days, a line for each machine, runtime and bundle.

    Examples:

    * `fer-bench history plot p50_ms --out p50.png`

    * `fer-bench history plot accuracy --out accuracy.svg --machine nano --runtime 'onnx*'`
    """
    from fer_bench.history.plot import plot as plotted
    from fer_bench.history.runs import only
    from fer_bench.plotting import save

    save(plotted(only(_runs(db), machine, runtime, bundle), figure), out)


@app.command()
def remove(run: RunName, db: Database = None) -> None:
    """Forgets a run; its file too, if no other run came in it.

    Examples:

    * `fer-bench history remove 3`
    """
    from fer_bench.history import store

    with store.opened(db or store.default_path(), write=True) as database:
        gone = store.chosen(store.kept_runs(database), run)
        store.remove(database, gone)
    typer.echo(f"removed: {gone.name}, {gone.machine}, {gone.date}")


@app.command()
def export(
    run: RunName,
    json_out: Annotated[Path, typer.Option("--json", help="The file to write.")],
    db: Database = None,
) -> None:
    """Writes the result file that a run came in, byte for byte; of a merged one, all its machines.

    Examples:

    * `fer-bench history export 3 --json out.json`
    """
    from fer_bench.history import store
    from fer_runtimes.files import whole_file

    with store.opened(db or store.default_path()) as database:
        content = store.file_of(database, store.chosen(store.kept_runs(database), run))
    with whole_file(json_out) as aside:
        aside.write_bytes(content)


def _runs(db: Path | None) -> list[Run]:
    from fer_bench.history import store

    with store.opened(db or store.default_path()) as database:
        return store.kept_runs(database)


def _run(name: str, db: Path | None, machine: str) -> Run:
    """The run of that id, with raw times, or of that result file."""
    from fer_bench.history import store
    from fer_bench.history.runs import only, read_runs
    from fer_runtimes.errors import BadInput

    if re.fullmatch(r"\d+|last(~\d+)?", name):
        with store.opened(db or store.default_path()) as database:
            return store.with_raw_times(database, store.chosen(only(store.kept_runs(database), machine), name))
    runs = only(read_runs(Path(name))[0], machine)
    if len(runs) != 1:
        raise BadInput(f"{name}: {len(runs)} of its machines have the name {machine}; choose one with --machine")
    return runs[0]


def _screen() -> Console:
    """Prints text as it is: what stands in a result file is no markup."""
    from rich.console import Console

    screen = Console(highlight=False, markup=False, emoji=False)
    return screen if screen.is_terminal else Console(highlight=False, markup=False, emoji=False, width=200)
