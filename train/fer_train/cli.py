"""fer-train: a checkpoint from FER2013."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fer_runtimes import console

if TYPE_CHECKING:
    from fer_train.recipe import Recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def train(
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="fer2013.csv (plain, .gz, .xz, .zip), icml_face_data.csv, or a folder with train/ and test/. Without it, drawn faces stand in."
        ),
    ] = None,
    votes: Annotated[Optional[Path], typer.Option(help="FER+ votes (fer2013new.csv), used as soft labels.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the run. Default: runs/MODEL.")] = None,
    resume: Annotated[
        Optional[Path], typer.Option(help="Folder of a run to continue, with the recipe it was begun with.")
    ] = None,
    checkpoint: Annotated[
        Optional[Path], typer.Option(help="Checkpoint to begin with, for fine-tuning; it must be of the same model.")
    ] = None,
    recipe: Annotated[Optional[str], typer.Option(help="Recipe by name, or a TOML file.")] = None,
    model: Annotated[Optional[str], typer.Option(help="Architecture: a fer_* net, any of timm's, or one of fer-bench zoo (docs/zoo.md).")] = None,
    size: Annotated[Optional[int], typer.Option(help="Input side in pixels.")] = None,
    stem_stride: Annotated[
        Optional[int], typer.Option(help="Stride of the first convolution, e.g. 1 to keep small faces large.")
    ] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Images a step.")] = None,
    lr: Annotated[Optional[float], typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of weights, order and augmentation.")] = None,
    validate_on: Annotated[
        Optional[str],
        typer.Option(help="Split that is watched and that chooses best.pt. Default: PublicTest, or test."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    amp: Annotated[Optional[bool], typer.Option(help="bfloat16 autocast. Default: on CUDA only.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 means all usable cores.")] = 0,
    list_models: Annotated[
        Optional[str], typer.Option(help="List architectures that match a pattern, e.g. 'mobile*', and exit.")
    ] = None,
) -> None:
    """Trains a face-expression net; every epoch can be interrupted and continued.

    Examples:

    * `fer-train --data fer2013.csv --votes fer2013new.csv --recipe fer_mobileone_s`

    * `fer-train --data fer2013.csv --model mobileone_s0 --size 64 --out runs/s0`

    * `fer-train --resume runs/s0`

    * `fer-train --data mine/ --checkpoint runs/s0/best.pt --model mobileone_s0 --size 64 --lr 0.01 --epochs 10 --out runs/mine`

    * `fer-train --list-models 'fer_*'`
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if list_models is not None:
        from fer_train.nets import list_nets

        typer.echo("\n".join(list_nets(list_models)))
        return

    import torch

    from fer_runtimes.data import TEST_SPLITS, TRAIN_SPLITS, load_faces
    from fer_runtimes.drawn import drawn_faces
    from fer_runtimes.errors import BadInput
    from fer_train import loop
    from fer_train.recipe import Recipe, read_recipe

    asked: dict[str, Any] = {
        "model": model,
        "size": size,
        "stem_stride": stem_stride,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    folder = resume or out or Path("runs") / (model or recipe or Recipe.model)
    if resume is not None:
        plan = loop.recipe_of_run(resume)
        _refuse_changes(plan, given, recipe, out, resume)
        begun = loop.settings_of_run(resume)
    else:
        base = read_recipe(recipe) if recipe else Recipe()
        if base.sizes and size is not None:
            given["sizes"] = ()  # a recipe's growing views belong to its own input size
        plan = dataclasses.replace(base, **given)
        begun = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
        if checkpoint is not None and not checkpoint.is_file():
            raise BadInput(f"{checkpoint}: no such file; expected a checkpoint of fer-train")
    now = {
        "data": data and str(data.resolve()),
        "votes": votes and str(votes.resolve()),
        "validate_on": validate_on,
        "device": None if device == "auto" else device,
        "amp": amp,
        "threads": threads or None,
    }
    settings = begun | {key: value for key, value in now.items() if value is not None}
    torch.set_num_threads(settings.setdefault("threads", console.usable_cores()))
    if settings.get("data") is None:
        faces, watched = drawn_faces(2048, seed=1, split="Training"), drawn_faces(512, seed=2, split="PublicTest")
    else:
        split = settings.get("validate_on")
        faces = load_faces(
            Path(settings["data"]), TRAIN_SPLITS, Path(settings["votes"]) if settings.get("votes") else None
        )
        watched = load_faces(Path(settings["data"]), (split,) if split else TEST_SPLITS)
    device = settings["device"]
    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    screen.print(
        f"{plan.model} on {len(faces)} images of {faces.name} ({faces.split}), {device}, {settings['threads']} threads, {plan.epochs} epochs into {folder}"
    )
    if resume is None:
        loop.refuse_used(folder)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    ) as progress:
        bar = progress.add_task("epoch")

        def report(line: loop.Epoch) -> None:
            screen.print(
                f"epoch {line.epoch:3d}/{line.epochs}  {line.size} px  loss {line.loss:.4f}  {watched.split} {line.accuracy:.4f}  {line.images_per_s:.0f} images/s"
            )

        try:
            loop.train(
                plan,
                faces,
                watched,
                folder,
                device,
                settings.get("amp", device.startswith("cuda")),
                resume is not None,
                checkpoint,
                settings,
                report,
                lambda done, of: progress.update(bar, completed=done, total=of),
            )
        except KeyboardInterrupt:
            begun_anew = not (folder / loop.RESUME).exists()
            screen.print(f"interrupted{'' if begun_anew else f'; continue with fer-train --resume {folder}'}")
            raise
    typer.echo(f"{folder / loop.LAST}")


def _refuse_changes(plan: Recipe, given: dict[str, Any], recipe: str | None, out: Path | None, resume: Path) -> None:
    """A run is continued as it was begun: options that say otherwise are a mistake."""
    from fer_runtimes.errors import BadInput
    from fer_train.recipe import read_recipe

    asked = {**(vars(read_recipe(recipe)) if recipe else {}), **given}
    changed = [key for key, value in asked.items() if getattr(plan, key) != value]
    if changed or (out is not None and out.resolve() != resume.resolve()):
        what = ", ".join(f"{key} {getattr(plan, key)}" for key in changed) or f"out {resume}"
        raise BadInput(
            f"{resume}: was begun with {what}; leave that option out, or start anew with --out instead of --resume"
        )


def main() -> None:
    console.run(app)
