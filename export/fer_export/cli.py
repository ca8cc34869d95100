"""fer-export: a checked bundle from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fer_export import calibration_options, engine_options
from fer_runtimes import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
OUT = Path("build")


@app.command()
def export(
    context: typer.Context,
    target: Annotated[str, typer.Option(help="What to export to, or `all` that can be exported here.")] = "onnx",
    checkpoint: Annotated[
        Optional[Path],
        typer.Option(help="Checkpoint of fer-train: a file, or the name of a shipped one. Default: fer_small."),
    ] = None,
    precision: Annotated[
        Optional[str],
        typer.Option(
            help="fp32; or fp16, bf16, int8 or int8-weights where the target has it (--list). Default: that of --for, else fp32."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder under which the bundle is made.")] = OUT,
    data: Annotated[
        Optional[Path],
        typer.Option(help="Real faces for the parity check (fer2013.csv or a folder). Without it, drawn faces serve."),
    ] = None,
    fold: Annotated[bool, typer.Option(help="Fold reparameterised branches into plain convolutions.")] = True,
    deployment_target: Annotated[
        Optional[str],
        typer.Option(help="Core ML: the oldest system to run on, iOS15 to iOS18. Default: iOS16, macOS 13."),
    ] = None,
    sign: Annotated[
        Optional[Path], typer.Option(metavar="KEY", help="Sign the bundle with this OpenSSH ed25519 private key.")
    ] = None,
    model: Annotated[
        Optional[list[Path]],
        typer.Option(help="Bundle to sign as it stands, with nothing exported; can be given several times."),
    ] = None,
    list_targets: Annotated[
        bool, typer.Option("--list", help="List targets, their precisions, and what each lacks here.")
    ] = False,
    calibration_images: calibration_options.Images = None,
    calibration_method: calibration_options.Method = None,
    max_drop: calibration_options.MaxDrop = None,
    report: calibration_options.Report = None,
    preset: engine_options.Preset = None,
    batch: engine_options.Batch = None,
    workspace: engine_options.Workspace = None,
    timing_cache: engine_options.TimingCache = None,
    dla_core: engine_options.DlaCore = None,
    version_compatible: engine_options.VersionCompatible = False,
    hardware_compatible: engine_options.HardwareCompatible = False,
    builds: engine_options.Builds = 1,
    finish: engine_options.Finish = None,
) -> None:
    """Folds a trained net, converts it, and proves in the target's own engine that it gives the same answers.

    Examples:

    * `fer-export --target onnx`

    * `fer-export --target openvino --checkpoint runs/s0/best.pt --precision fp16 --out build/`

    * `fer-export --target onnx --precision int8 --data fer2013.csv`

    * `fer-export --target coreml --precision fp16 --deployment-target iOS17`

    * `fer-export --target all --data fer2013.csv`

    * `fer-export --target tensorrt --for jetson-orin-nano`, then on the board
      `fer-export --target tensorrt --finish BUNDLE`

    * `fer-export --target onnx --sign ~/.ssh/id_ed25519`

    * `fer-export --model build/fer_small-onnx-fp32 --sign ~/.ssh/id_ed25519`
    """
    from rich.console import Console

    from fer_export.boards import settings_for
    from fer_export.pipeline import (
        check_available,
        choose_settings,
        find_checkpoint,
        load_source,
        why_no_target,
    )
    from fer_export.pipeline import export as run
    from fer_export.pipeline import finish as run_finish
    from fer_export.targets import TARGETS

    if list_targets:
        width = max(len(",".join(row.tolerances)) for row in TARGETS.values())
        for name, row in TARGETS.items():
            typer.echo(
                f"{name:10s} {','.join(row.tolerances):{width}s} {why_no_target(name) or 'can be exported here'}"
            )
        return
    if model:
        _sign_only(context, model, sign)
        return
    screen = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    of_net = {
        "--checkpoint": checkpoint,
        "--data": data,
        "--no-fold": not fold,
        "--precision": precision,
        "--out": out != OUT,
        "--deployment-target": deployment_target,
        "--sign": sign,
    }
    of_int8 = {
        "--calibration-images": calibration_images,
        "--calibration-method": calibration_method,
        "--max-drop": max_drop,
        "--report": report,
    }
    of_engine = {
        "--for": preset,
        "--batch": batch,
        "--workspace": workspace,
        "--timing-cache": timing_cache,
        "--dla-core": dla_core,
        "--version-compatible": version_compatible,
        "--hardware-compatible": hardware_compatible,
    }
    if finish is not None:
        _refuse(of_net | of_int8 | of_engine, "has no use with --finish, which builds from a bundle as it is")
        typer.echo(run_finish(finish, target, builds, screen.print).path)
        return
    build = None
    if target in TARGETS and TARGETS[target].finish:
        build = settings_for(preset, precision, batch, workspace, dla_core, version_compatible, hardware_compatible)
        precision = build.precision
    else:
        _refuse(of_engine | {"--builds": builds > 1}, f"is for target tensorrt, not for {target}")
    precision = precision or "fp32"
    if precision != "int8":
        _refuse(of_int8, f"is for --precision int8, not for {precision}")
    chosen = _every_target(precision, screen.print) if target == "all" else [target]
    for name in chosen:
        check_available(name, precision)
    given = {"deployment_target": deployment_target} if deployment_target else {}
    # All that were found by `all` take what they know; one that was named refuses what it does not. Before any work.
    settings = {
        name: {key: value for key, value in given.items() if target != "all" or key in TARGETS[name].settings}
        for name in chosen
    }
    for name in chosen:
        choose_settings(name, precision, settings[name])
    key = None
    if sign is not None:  # read before the work, so that a wrong key costs none
        from fer_runtimes.signing import read_key

        key = read_key(sign)
    calibration = None
    if precision == "int8":
        from fer_export.quantise import check_installed

        check_installed()
        calibration = calibration_options.load(data, calibration_images, calibration_method)
    faces = None
    if data is not None:
        from fer_runtimes.data import TEST_SPLITS, load_faces

        faces = load_faces(data, TEST_SPLITS)
    source = load_source(find_checkpoint(checkpoint), faces, fold, screen.print)
    if calibration is not None:
        source = calibration_options.quantise(source, calibration, calibration_method, max_drop, report, screen.print)
    for name in chosen:
        bundle = run(source, name, out, precision, screen.print, settings[name], key, build, timing_cache, builds)
        typer.echo(bundle.path)


def _refuse(options: dict[str, Any], why: str) -> None:
    """An option that would change nothing is an error, not ignored."""
    from fer_runtimes.errors import BadInput

    if given := [name for name, value in options.items() if value is not None and value is not False]:
        raise BadInput(f"{given[0]} {why}")


def _sign_only(context: typer.Context, bundles: list[Path], key_file: Path | None) -> None:
    """Signs bundles that exist; refuses every option that only an export would heed."""
    from fer_runtimes.errors import BadInput
    from fer_runtimes.signing import read_key, sign_bundle

    if key_file is None:
        raise BadInput("--model names bundles to sign as they stand; give the key with --sign")
    for name in context.params.keys() - {"model", "sign"}:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadInput(f"--model signs bundles and exports nothing; leave out --{name.replace('_', '-')}")
    key = read_key(key_file)
    for bundle in bundles:
        typer.echo(f"signed by {sign_bundle(bundle, key)}", err=True)
        typer.echo(bundle)


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
