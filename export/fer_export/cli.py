"""fer-export: a checked bundle from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer

from fer_runtimes import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def export(
    target: Annotated[str, typer.Option(help="What to export to, or `all` that can be exported here.")] = "onnx",
    checkpoint: Annotated[
        Optional[Path], typer.Option(help="Checkpoint of fer-train. Default: the shipped one.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of the weights: fp32, or fp16 where the target has it.")
    ] = "fp32",
    out: Annotated[Path, typer.Option(help="Folder under which the bundle is made.")] = Path("build"),
    data: Annotated[
        Optional[Path],
        typer.Option(help="Real faces for the parity check (fer2013.csv or a folder). Without it, drawn faces serve."),
    ] = None,
    fold: Annotated[bool, typer.Option(help="Fold reparameterised branches into plain convolutions.")] = True,
    deployment_target: Annotated[
        Optional[str],
        typer.Option(help="Core ML: the oldest system to run on, iOS15 to iOS18. Default: iOS16, macOS 13."),
    ] = None,
    list_targets: Annotated[
        bool, typer.Option("--list", help="List targets, their precisions, and what each lacks here.")
    ] = False,
) -> None:
    """Folds a trained net, converts it, and proves in the target's own engine that it gives the same answers.

    Examples:

    * `fer-export --target onnx`

    * `fer-export --target openvino --checkpoint runs/s0/best.pt --precision fp16 --out build/`

    * `fer-export --target coreml --precision fp16 --deployment-target iOS17`

    * `fer-export --target all --data fer2013.csv`
    """
    from rich.console import Console

    from fer_export.pipeline import why_no_target
    from fer_export.targets import TARGETS

    if list_targets:
        for name, row in TARGETS.items():
            typer.echo(f"{name:10s} {','.join(row.tolerances):10s} {why_no_target(name) or 'can be exported here'}")
        return
    from fer_export.pipeline import check_available, choose_settings, load_source, shipped_checkpoint
    from fer_export.pipeline import export as run

    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    chosen = _every_target(precision, screen.print) if target == "all" else [target]
    for name in chosen:
        check_available(name, precision)
    settings = {"deployment_target": deployment_target} if deployment_target else {}
    if target != "all":
        choose_settings(target, settings)
    faces = None
    if data is not None:
        from fer_runtimes.data import TEST_SPLITS, load_faces

        faces = load_faces(data, TEST_SPLITS)
    source = load_source(checkpoint or shipped_checkpoint(), faces, fold, screen.print)
    for name in chosen:
        taken = {key: value for key, value in settings.items() if target != "all" or key in TARGETS[name].settings}
        typer.echo(run(source, name, out, precision, screen.print, taken).path)


def _every_target(precision: str, say: Callable[[str], None]) -> list[str]:
    """Targets that have the precision and can be exported here; says why the others cannot."""
    from fer_export.pipeline import why_no_target
    from fer_export.targets import TARGETS
    from fer_runtimes.errors import NotAvailable

    reasons = {name: why_no_target(name) for name, row in TARGETS.items() if precision in row.tolerances}
    for reason in reasons.values():
        if reason:
            say(f"skipped: {reason}")
    if not (chosen := [name for name, reason in reasons.items() if not reason]):
        raise NotAvailable(f"no target can be exported here with precision {precision!r}; see fer-export --list")
    return chosen


def main() -> None:
    console.run(app)
