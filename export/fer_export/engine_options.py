"""Options of fer-export for targets whose engine is built on the device."""

# ruff: noqa: UP045  # as in cli.py: typer on 3.10 reads Optional

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

_PANEL = "Engines built on the device (target tensorrt)"

Preset = Annotated[
    Optional[str],
    typer.Option("--for", metavar="BOARD", help="Preset of a board, e.g. jetson-orin-nano.", rich_help_panel=_PANEL),
]
Batch = Annotated[
    Optional[tuple[int, int, int]],
    typer.Option(metavar="MIN OPT MAX", help="Images in one run. Default: 1 1 8.", rich_help_panel=_PANEL),
]
Workspace = Annotated[
    Optional[int],
    typer.Option(min=1, metavar="MIB", help="Scratch memory the builder may plan with.", rich_help_panel=_PANEL),
]
TimingCache = Annotated[
    Optional[Path], typer.Option(help="Timing cache to build from; it travels in the bundle.", rich_help_panel=_PANEL)
]
DlaCore = Annotated[
    Optional[int],
    typer.Option(min=0, help="Run on this DLA core, what it lacks on the GPU; one batch size.", rich_help_panel=_PANEL),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible", help="Engine for later TensorRTs too, as TensorRT has it.", rich_help_panel=_PANEL
    ),
]
HardwareCompatible = Annotated[
    bool, typer.Option("--hardware-compatible", help="Engine for any GPU from Ampere on.", rich_help_panel=_PANEL)
]
Builds = Annotated[
    int, typer.Option(min=1, help="Build so many times, tell the spread, keep the best.", rich_help_panel=_PANEL)
]
Finish = Annotated[
    Optional[Path],
    typer.Option(metavar="BUNDLE", help="Build and check the engine of this bundle, here.", rich_help_panel=_PANEL),
]
