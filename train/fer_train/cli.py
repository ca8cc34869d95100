"""fer-train: a checkpoint from FER2013."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fer_runtimes import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def train(
    data: Annotated[Optional[Path], typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip), icml_face_data.csv, or a folder with train/ and test/. Without it, drawn faces stand in.")] = None,
    votes: Annotated[Optional[Path], typer.Option(help="FER+ votes (fer2013new.csv), used as soft labels.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the run. Default: runs/MODEL.")] = None,
    resume: Annotated[Optional[Path], typer.Option(help="Folder of a run to continue, with the recipe it was begun with.")] = None,
    recipe: Annotated[Optional[str], typer.Option(help="Recipe by name, or a TOML file.")] = None,
    model: Annotated[Optional[str], typer.Option(help="Architecture: a fer_* net or any of timm's.")] = None,
    size: Annotated[Optional[int], typer.Option(help="Input side in pixels.")] = None,
    stem_stride: Annotated[Optional[int], typer.Option(help="Stride of the first convolution, e.g. 1 to keep small faces large.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Images a step.")] = None,
    lr: Annotated[Optional[float], typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of weights, order and augmentation.")] = None,
    validate_on: Annotated[Optional[str], typer.Option(help="Split that is watched and that chooses best.pt. Default: PublicTest, or test.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    amp: Annotated[Optional[bool], typer.Option(help="bfloat16 autocast. Default: on CUDA only.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 means all usable cores.")] = 0,
    list_models: Annotated[Optional[str], typer.Option(help="List architectures that match a pattern, e.g. 'mobile*', and exit.")] = None,
) -> None:
    """Trains a face-expression net; every epoch can be interrupted and continued.

    Examples:

    * `fer-train --data fer2013.csv --votes fer2013new.csv --recipe fer_mobileone_s`

    * `fer-train --data fer2013.csv --model mobileone_s0 --size 64 --out runs/s0`

    * `fer-train --data fer2013.csv --resume runs/s0`

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
    from fer_train import loop
    from fer_train.recipe import Recipe, read_recipe

    torch.set_num_threads(threads or console.usable_cores())
    asked: dict[str, Any] = {"model": model, "size": size, "stem_stride": stem_stride, "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    given = {key: value for key, value in asked.items() if value is not None}
    if resume is not None and (given or recipe or out):
        raise typer.BadParameter("--resume continues a run as it was begun; leave out " + ", ".join("--" + key.replace("_", "-") for key in [*given, *(["recipe"] if recipe else []), *(["out"] if out else [])]))
    if resume is not None:
        plan = loop.recipe_of_run(resume)
    else:
        base = read_recipe(recipe) if recipe else Recipe()
        if base.sizes and size is not None:
            given["sizes"] = ()  # a recipe's growing views belong to its own input size
        plan = dataclasses.replace(base, **given)
    folder = resume or out or Path("runs") / plan.model
    if data is None:
        faces, watched = drawn_faces(2048, seed=1, split="Training"), drawn_faces(512, seed=2, split="PublicTest")
    else:
        faces = load_faces(data, TRAIN_SPLITS, votes)
        watched = load_faces(data, (validate_on,) if validate_on else TEST_SPLITS)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    screen = Console(stderr=True)
    screen.print(f"{plan.model} on {len(faces)} images of {faces.name} ({faces.split}), {device}, {torch.get_num_threads()} threads, {plan.epochs} epochs into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=screen, transient=True) as progress:
        bar = progress.add_task("epoch")

        def report(line: loop.Epoch) -> None:
            screen.print(f"epoch {line.epoch:3d}/{line.epochs}  {line.size} px  loss {line.loss:.4f}  {watched.split} {line.accuracy:.4f}  {line.images_per_s:.0f} images/s")

        loop.train(plan, faces, watched, folder, device, amp if amp is not None else device.startswith("cuda"), resume is not None,
                   report, lambda done, of: progress.update(bar, completed=done, total=of))
    typer.echo(f"{folder / loop.LAST}")


def main() -> None:
    console.run(app)
