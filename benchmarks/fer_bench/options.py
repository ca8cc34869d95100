"""The options that several commands of this package share: one wording, one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Runtimes = Annotated[list[str], typer.Option("--runtime", help="Runtime; give it several times for several, or `all`.")]
Models = Annotated[
    Optional[list[Path]],
    typer.Option(
        "--model", help="Bundle of fer-export, or a folder of bundles. Default: exported on the fly and cached."
    ),
]
Checkpoint = Annotated[
    Optional[Path],
    typer.Option(help="Checkpoint to export on the fly: a file, or the name of a shipped one. Default: fer_small."),
]
Split = Annotated[Optional[str], typer.Option(help="Split to score. Default: PublicTest, or test.")]
Device = Annotated[str, typer.Option(help="Device, as the runtime calls it: cpu, cuda, gpu. Default: its own.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine; 0 means all usable cores.")]
Queries = Annotated[int, typer.Option(min=1, help="Timed inferences a runtime, at least.")]
Processes = Annotated[
    int,
    typer.Option(
        min=0, help="Fresh processes that each runtime's queries are spread over; 0: one for each 160, at most 6."
    ),
]
JsonOut = Annotated[Optional[Path], typer.Option("--json", help="Write everything as JSON.")]
MarkdownOut = Annotated[Optional[Path], typer.Option("--markdown", help="Write the table as Markdown.")]
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Run only bundles signed by a trusted key (docs/bundle.md).")
]
HtmlOut = Annotated[Optional[Path], typer.Option("--html", help="Write a page to read, in one file.")]
PlotOut = Annotated[Optional[Path], typer.Option("--plot", help="Draw it, as .png or .svg.")]
PlotsOut = Annotated[Optional[Path], typer.Option("--plots", help="Write each plot as PNG and SVG into this folder.")]
