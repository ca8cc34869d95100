"""Options of fer-export for the precision int8, and what they lead to."""

# ruff: noqa: UP045  # as in cli.py: typer on 3.10 reads Optional

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fer_export.calibration import Calibration
    from fer_export.pipeline import Source

_PANEL = "Quantisation (precision int8)"

Images = Annotated[
    Optional[int],
    typer.Option(min=1, help="Faces of the training split to calibrate on. Default: 512.", rich_help_panel=_PANEL),
]
Method = Annotated[
    Optional[str],
    typer.Option(
        help="How an activation's range is found: mse, minmax or percentile. Default: mse.", rich_help_panel=_PANEL
    ),
]
MaxDrop = Annotated[
    Optional[float],
    typer.Option(
        min=0,
        max=1,
        help="Accuracy that may be lost on held-out faces, a share. Default: 0.005.",
        rich_help_panel=_PANEL,
    ),
]
Report = Annotated[
    Optional[Path], typer.Option(help="Write each layer's share in the loss as JSON.", rich_help_panel=_PANEL)
]


def load(data: Path | None, images: int | None, method: str | None) -> Calibration:
    """The calibration faces, or BadInput that says what is needed; before any work on the net."""
    from fer_export.calibration import IMAGES, load_calibration
    from fer_export.quantise import METHODS
    from fer_runtimes.errors import BadInput

    if method is not None and method not in METHODS:
        raise BadInput(f"--calibration-method {method!r} is unknown; known are {', '.join(METHODS)}")
    if data is None:
        raise BadInput(
            "int8 needs faces to calibrate on; give --data fer2013.csv, or a folder with train/ and test/ (its training split serves)"
        )
    return load_calibration(data, images or IMAGES)


def quantise(
    source: Source,
    calibration: Calibration,
    method: str | None,
    max_drop: float | None,
    report: Path | None,
    say: Callable[[str], None],
) -> Source:
    """The source with its INT8 graph; prints the layers, worst first, and writes them to ``report``."""
    from rich.console import Console
    from rich.table import Table

    from fer_export.int8 import MAX_DROP, quantise_source
    from fer_export.quantise import METHODS
    from fer_runtimes.files import whole_file

    made = quantise_source(
        source, calibration, method or next(iter(METHODS)), MAX_DROP if max_drop is None else max_drop, say
    )
    table = Table("layer", "kind", "channel ranges", "weights, one scale", "one a channel", "logits")
    for row in made.layers:
        one = row.readiness
        noise = "in float" if row.logits_db is None else f"{row.logits_db:.1f} dB"
        table.add_row(
            one.layer,
            one.kind,
            f"{one.range_ratio:.1f}x",
            f"{one.per_tensor_db:.1f} dB",
            f"{one.per_channel_db:.1f} dB",
            noise,
        )
    Console(stderr=True, highlight=False).print(table)
    if report is not None:
        with whole_file(report) as aside:
            aside.write_text(json.dumps({"calibration": made.record}, indent=2) + "\n", encoding="utf-8")
    return dataclasses.replace(source, quantised=made)
