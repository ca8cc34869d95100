"""Does the gate tell faulty builds from clean ones? python -m evidence.catch_rate. Needs the packages that export needs.

Each fault is put into the shipped net at several strengths and held against a baseline of the
clean build, on 1,400 drawn faces; so are clean builds, with other faces each time.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import typer

from evidence.output import show
from fer_bench import options
from fer_bench.gate.answers import Answers
from fer_bench.gate.checks import FAILED, Answered, Check
from fer_bench.gate.figures import top1
from fer_runtimes import console

RUNS = 50
_FACES, _SEED = 1400, 20  # the faces of benchmarks/baseline.json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def catch_rate(
    checkpoint: Annotated[Optional[Path], typer.Option(help="Checkpoint. Default: the shipped one.")] = None,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Seeds faults at several strengths and says which check of the gate catches each; then counts alarms of clean runs.

    Examples:

    * `python -m evidence.catch_rate --markdown build/catch-rate.md`
    """
    from rich.console import Console

    from fer_export.pipeline import find_checkpoint
    from fer_runtimes.drawn import drawn_faces
    from fer_runtimes.errors import CheckFailed
    from seeded_faults.builds import CELLS, asked, build, clean_runs, forged
    from seeded_faults.faults import FAULTS, WRONG_RESIZES, WronglyResized

    rows, missed = [], []
    screen = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as scratch, screen.status("building") as status:
        clean = build(find_checkpoint(checkpoint), Path(scratch) / "build", drawn_faces(_FACES, _SEED))
        for fault in FAULTS:
            for i, strength in enumerate(fault.strengths):
                status.update(f"{fault.name}, {strength:g} {fault.unit}")
                bundle = forged(clean, fault, strength, Path(scratch) / f"{fault.seed.__name__}-{i}")
                row = clean.ask(fault.cell, bundle)
                checks = clean.judge(row)
                rows.append([fault.name, f"{strength:g} {fault.unit}", *_told(row, clean.rows[fault.cell], checks)])
            missed += [] if checks[fault.check].verdict == FAILED else [f"{fault.name} by {fault.check}"]
        cell = "onnx fp32"
        for name, kind in WRONG_RESIZES.items():
            status.update(f"resizing by {name}")
            wrong = WronglyResized(clean.faces.images, kind)
            row = asked(clean.bundles[cell], CELLS[cell][3], wrong)
            checks = clean.judge(row, prepared=wrong)
            rows.append(["a resize of the wrong kind", name, *_told(row, clean.rows[cell], checks)])
            missed += [] if checks["preprocessing"].verdict == FAILED else [f"{name} by preprocessing"]
        status.update("clean runs")
        alarms = Counter(check.name for failed in clean_runs(clean, RUNS) for check in failed)
    rows.append(
        ["none", f"{RUNS} clean runs", "-", ", ".join(f"{n}x {name}" for name, n in alarms.items()) or "no alarm"]
    )
    headings = ["fault", "strength", "labels changed", "failed checks"]
    show(headings, rows, [f"{_FACES:,} drawn faces, {clean.sources[True].checkpoint.model['name']}"], markdown_out)
    if missed or alarms:
        raise CheckFailed(
            "; ".join([*(f"missed: {one}" for one in missed), *(f"false alarm: {name}" for name in alarms)])
        )


def _told(row: Answered, honest: Answered, checks: dict[str, Check]) -> tuple[str, str]:
    """Share of labels that the fault changes, and the checks that failed."""
    assert isinstance(row.answers, Answers)
    assert isinstance(honest.answers, Answers)
    changed = float(np.mean(top1(row.answers.logits) != top1(honest.answers.logits)))
    return f"{changed:.1%}", ", ".join(name for name, check in checks.items() if check.verdict == FAILED) or "none"


if __name__ == "__main__":
    console.run(app)
