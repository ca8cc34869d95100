"""How often the gate's check of accuracy fails a build that has lost nothing, and one that has: python -m evidence.gate_power.

Runs are drawn, not measured: of so many images, a share turns from right to wrong and a share from
wrong to right, as the two columns on the left say. Takes seconds and needs no engine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import typer

from evidence.output import show
from fer_bench import options
from fer_bench.gate.figures import Bounds, loss_of
from fer_runtimes import console

RUNS = 1000
IMAGES = (1400, 3589, 10_000)
# what changes either way without any loss: (in words, share each way)
CHANGING = (
    ("nothing (float32)", 0.0),
    ("0.1 % (float16)", 0.001),
    ("1 % (8 bits)", 0.01),
    ("8 % (trained again)", 0.08),
)
LOST = (0.0, 0.003, 0.005, 0.015)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def gate_power(markdown_out: options.MarkdownOut = None) -> None:
    """How often the check of accuracy fails where nothing is lost, and where something is.

    Examples:

    * `python -m evidence.gate_power --markdown build/gate-power.md`
    """
    random, bound = np.random.default_rng(0), Bounds().accuracy_loss

    @cache
    def verdict(worse: int, better: int, images: int) -> bool | None:
        return loss_of(worse, better, images).within(bound)

    rows = []
    for name, changing in CHANGING:
        for images in IMAGES:
            row = [name, f"{images:,}"]
            for lost in LOST:
                rates = [changing + lost, changing, 1 - 2 * changing - lost]
                counts = random.multinomial(images, rates, RUNS)[:, :2].tolist()
                found = [verdict(worse, better, images) for worse, better in counts]
                row.append(f"{found.count(False) / RUNS:.1%} / {found.count(True) / RUNS:.1%}")
            rows.append(row)
    headings = ["changes each way", "images", *(f"{lost:.1%} lost" for lost in LOST)]
    show(headings, rows, [f"{RUNS:,} drawn runs a cell: failed / passed, the others cannot tell"], markdown_out)


if __name__ == "__main__":
    console.run(app)
