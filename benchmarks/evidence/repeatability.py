"""Does the same measurement give the same answer twice, and on a busy machine?

``fer-bench`` runs twice in a row, then a third time while another program keeps one core busy. What is
compared are the speed-ups, the figures that its tables are read for. The second run may depart from
the first by 5 %, the disturbed one by 10 %, or it must say itself that it cannot tell.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fer_bench import options
from fer_bench.tables import name_of
from fer_runtimes import console
from fer_runtimes.errors import CheckFailed, NotAvailable

QUIET, BUSY = 0.05, 0.10  # by which a speed-up may depart

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

Results = dict[str, Any]


@contextmanager
def _core_burned() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as burner:
        try:
            yield
        finally:
            burner.kill()


def _measured(arguments: list[str], path: Path) -> Results:
    command = [sys.executable, "-c", "from fer_bench.cli import main; main()", *arguments, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotAvailable(f"fer-bench failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    content: Results = json.loads(path.read_text(encoding="utf-8"))
    return content


def speed_ups(results: Results) -> dict[str, tuple[float, bool]]:
    """By row: the speed-up, and whether the run says that it is sure of it. The row that the others are divided by is left out."""
    rows = [row for row in results["results"] if row["ratio"] and name_of(row) != row["ratio"]["to"]]
    return {name_of(row): (row["ratio"]["value"], not row["ratio"]["unsure"]) for row in rows}


def verdict(first: tuple[float, bool], other: tuple[float, bool], allowed: float) -> tuple[float, str]:
    """How far the other run's speed-up lies from the first's, as a share of it, and what that means."""
    off = other[0] / first[0] - 1
    if abs(off) <= allowed:
        return off, f"within {allowed:.0%}"
    return off, f"over {allowed:.0%}" if first[1] and other[1] else "the run says that it cannot tell"


@app.command()
def repeatability(
    model: Annotated[
        Optional[Path], typer.Option(help="Folder of bundles. Default: the shipped checkpoint's, exported and cached.")
    ] = None,
    runtime: options.Runtimes = ["pytorch", "onnxruntime", "openvino"],  # noqa: B006
    queries: options.Queries = 1024,
    threads: options.Threads = 0,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Runs fer-bench twice, and once more beside a busy core: exit code 1 if its speed-ups depart and it does not say so.

    Examples:

    * `python -m evidence.repeatability`

    * `python -m evidence.repeatability --runtime onnxruntime --runtime openvino --model build/`
    """
    from rich.console import Console

    from evidence.output import show

    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    arguments = [word for name in runtime for word in ("--runtime", name)]
    arguments += ["--queries", str(queries), "--threads", str(threads or console.usable_cores())]
    arguments += ["--model", str(model)] if model else []
    runs = (("first", nullcontext()), ("again", nullcontext()), ("one core busy", _core_burned()))
    found = {}
    with tempfile.TemporaryDirectory() as scratch, screen.status("") as status:
        for name, beside in runs:
            status.update(f"fer-bench: {name}")
            began = time.monotonic()
            with beside:
                found[name] = _measured(arguments, Path(scratch) / "results.json")
            told = ", ".join(f"{row} {value:.2f}x" for row, (value, _) in speed_ups(found[name]).items())
            screen.print(f"{name}, {time.monotonic() - began:.0f} s: {told}")
    first = speed_ups(found["first"])
    rows, failed = [], []
    for name, allowed in (("first", None), ("again", QUIET), ("one core busy", BUSY)):
        for row, (value, sure) in speed_ups(found[name]).items():
            off, told = verdict(first[row], (value, sure), allowed) if allowed else (None, "")
            failed += [f"{row}, {name}: {off:+.1%}"] if told.startswith("over") else []
            rows.append([name, row, f"{value:.2f}x", "" if off is None else f"{off:+.1%}", told])
    shares = {name: results["environment"]["busy_share"] for name, results in found.items()}
    others = [f"others took {share:.1%} of the processors in run “{name}”" for name, share in shares.items() if share]
    to = next(row["ratio"]["to"] for row in found["first"]["results"] if row["ratio"])
    nets = dict.fromkeys(row["bundle"].split("-")[0] for row in found["first"]["results"] if row["bundle"])
    words = [*nets, f"speed-ups over {to}", f"at least {queries} queries a runtime and run", *others]
    show(["run", "runtime", "speed-up", "departs", "verdict"], rows, words, markdown_out)
    if failed:
        raise CheckFailed(f"speed-ups that depart without a word: {'; '.join(failed)}")


if __name__ == "__main__":
    console.run(app)
