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


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="fer2013.csv (plain, .gz, .xz, .zip), icml_face_data.csv, or a folder with train/ and test/. Without it, drawn faces stand in."
        ),
    ] = None,
    votes: Annotated[Optional[Path], typer.Option(help="FER+ votes (fer2013new.csv), used as soft labels.")] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(help="Folder of the run. Default: runs/RECIPE, else runs/MODEL; runs/MODEL-int8 with --quantise."),
    ] = None,
    resume: Annotated[
        Optional[Path], typer.Option(help="Folder of a run to continue, with the recipe it was begun with.")
    ] = None,
    checkpoint: Annotated[
        Optional[Path],
        typer.Option(
            help="Checkpoint to begin with, for fine-tuning. Without --recipe: its own net, input and views, a tenth of its learning rate, 10 epochs. With a recipe of a larger net of summed blocks: what that grows from."
        ),
    ] = None,
    teacher: Annotated[
        Optional[list[Path]],
        typer.Option(help="Checkpoint to learn from (distillation); several are averaged. Repeatable."),
    ] = None,
    quantise: Annotated[
        bool,
        typer.Option(
            "--quantise",
            help="Fine-tune --checkpoint, folded, with its weights and activations rounded as int8 rounds them.",
        ),
    ] = False,
    recipe: Annotated[Optional[str], typer.Option(help="Recipe by name, or a TOML file.")] = None,
    model: Annotated[
        Optional[str],
        typer.Option(help="Architecture: a fer_* net, any of timm's, or one of fer-bench zoo (docs/zoo.md)."),
    ] = None,
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
    amp: Annotated[
        Optional[bool], typer.Option(help="bfloat16 autocast. Default: on CUDA, but with --quantise.")
    ] = None,
    compiled: Annotated[
        Optional[bool],
        typer.Option(
            "--compile/--no-compile",
            help="Train through torch.compile: half a minute for each size of view at first, then faster.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means all usable cores.")] = 0,
    list_models: Annotated[
        Optional[str], typer.Option(help="List architectures that match a pattern, e.g. 'mobile*', and exit.")
    ] = None,
) -> None:
    """Trains a face-expression net; every epoch can be interrupted and continued.

    Examples:

    * `fer-train --data fer2013.csv --votes fer2013new.csv --recipe fer_small`

    * `fer-train --data fer2013.csv --model mobileone_s0 --size 64 --out runs/s0`

    * `fer-train --resume runs/s0`

    * `fer-train --data mine/ --checkpoint fer_small --lr 0.01 --epochs 10 --out runs/mine`

    * `fer-train --data fer2013.csv --recipe fer_nano --teacher runs/a/last.pt --teacher runs/b/last.pt --out runs/taught`

    * `fer-train --data fer2013.csv --votes fer2013new.csv --quantise --checkpoint runs/s0/last.pt --teacher runs/s0/last.pt --out runs/s0-int8`

    * `fer-train --list-models 'fer_*'`

    * `fer-train calibrate runs/s0/last.pt --data fer2013.csv`, `fer-train soup --help`
    """
    if context.invoked_subcommand:
        console.none_before(context)
        return
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
    from fer_runtimes.temperature import in_words
    from fer_train import loop
    from fer_train.allocator import keep_freed_memory
    from fer_train.checkpoint import checkpoint_path, load_checkpoint
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
    teacher = teacher and [checkpoint_path(path) for path in teacher]
    if resume is not None:
        if checkpoint is not None:
            raise BadInput("--resume continues a run with the weights it has; leave out --checkpoint")
        plan = loop.recipe_of_run(resume)
        _refuse_changes(plan, given | ({"quantise": True} if quantise else {}), recipe, out, resume)
        begun = loop.settings_of_run(resume)
        if validate_on is not None and validate_on != begun.get("validate_on"):
            raise BadInput(
                f"{resume}: watches {begun.get('validate_on') or 'the default split'}; leave out --validate-on"
            )
    else:
        checkpoint = checkpoint and checkpoint_path(checkpoint)
        for path in [*(teacher or ()), *([checkpoint] if checkpoint else ())]:
            if not path.is_file():
                raise BadInput(f"{path}: no such file; expected a checkpoint of fer-train")
        base = read_recipe(recipe) if recipe else Recipe()
        if quantise and checkpoint is None:
            raise BadInput("--quantise fine-tunes a net that is trained already; name it with --checkpoint")
        if quantise and recipe:
            raise BadInput(
                "--quantise continues the checkpoint's own recipe; leave out --recipe, give --epochs or --lr"
            )
        if checkpoint is not None and not recipe:
            own = load_checkpoint(checkpoint)
            base = own.recipe_for_int8() if quantise else own.recipe_for_tuning()
        if base.sizes and size is not None:
            given["sizes"] = ()  # a recipe's growing views belong to its own input size
        plan = dataclasses.replace(base, **given)
        begun = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    now = {
        "data": data and str(data.resolve()),
        "votes": votes and str(votes.resolve()),
        "teachers": [str(path.resolve()) for path in teacher] if teacher else None,
        "validate_on": validate_on,
        "device": None if device == "auto" else device,
        "amp": amp,
        "compiled": compiled,
        "threads": threads or None,
    }
    settings = begun | {key: value for key, value in now.items() if value is not None}
    torch.set_num_threads(settings.setdefault("threads", console.usable_cores()))
    keep_freed_memory()
    if settings.get("data") is None and (votes or validate_on):
        raise BadInput("--votes and --validate-on belong to real faces; give these with --data")
    if settings.get("data") is None:
        faces, watched = drawn_faces(2048, seed=1, split="Training"), drawn_faces(512, seed=2, split="PublicTest")
    else:
        split = settings.get("validate_on")
        faces = load_faces(
            Path(settings["data"]), TRAIN_SPLITS, Path(settings["votes"]) if settings.get("votes") else None
        )
        watched = load_faces(Path(settings["data"]), (split,) if split else TEST_SPLITS)
    device = settings["device"]
    named = model or (Path(recipe).stem if recipe else plan.model)
    folder = resume or out or Path("runs") / (f"{plan.model}-int8" if quantise else named)
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
                # bfloat16 does not hold int8's 256 levels
                settings.get("amp", device.startswith("cuda") and not plan.quantise),
                settings.get("compiled", False),
                resume is not None,
                checkpoint,
                [Path(path) for path in settings.get("teachers", ())],
                settings,
                report,
                lambda done, of: progress.update(bar, completed=done, total=of),
            )
        except KeyboardInterrupt:
            begun_anew = not (folder / loop.RESUME).exists()
            screen.print(f"interrupted{'' if begun_anew else f'; continue with fer-train --resume {folder}'}")
            raise
    if record := load_checkpoint(folder / loop.LAST).probabilities:
        screen.print(in_words(record))
    typer.echo(f"{folder / loop.LAST}")


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of fer-train.")],
    data: Annotated[Path, typer.Option(help="Faces that it was not trained on: fer2013.csv or a folder.")],
    split: Annotated[Optional[str], typer.Option(help="Split to fit on. Default: PublicTest, or test.")] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Checkpoint to write. Default: the one given; its weights stay as they are.")
    ] = None,
) -> None:
    """Fits the temperature that makes probabilities of a checkpoint's logits (docs/calibration.md).

    Training does this by itself; it is for checkpoints made before, and for faces of your own. One half of the split
    is fitted on, the figures are of the other half.

    Examples:

    * `fer-train calibrate runs/s0/last.pt --data fer2013.csv`

    * `fer-train calibrate runs/s0/last.pt --data mine/ --out runs/s0/mine.pt`
    """
    from dataclasses import replace

    from fer_runtimes.data import TEST_SPLITS, TRAIN_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput
    from fer_runtimes.temperature import in_words
    from fer_train.calibrate import calibrate_checkpoint
    from fer_train.checkpoint import checkpoint_path

    named = checkpoint_path(checkpoint)
    if named != checkpoint and out is None:
        raise BadInput(f"{checkpoint} comes with this package and stays as it is; name the new checkpoint with --out")
    if split in TRAIN_SPLITS:
        raise BadInput(f"split {split} is what nets are trained on, and surer of; give another")
    faces = load_faces(data, (split,) if split else TEST_SPLITS)
    made = calibrate_checkpoint(named, replace(faces, seen=also_in_training(data, faces)), out or checkpoint)
    assert made.probabilities is not None
    typer.echo(in_words(made.probabilities), err=True)
    typer.echo(f"{out or checkpoint}")


@app.command()
def soup(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Checkpoints of one net, fine-tuned from the same weights.")
    ],
    data: Annotated[Path, typer.Option(help="Faces that choose: fer2013.csv or a folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    split: Annotated[Optional[str], typer.Option(help="Split that chooses. Default: PublicTest, or test.")] = None,
) -> None:
    """Averages the weights of several checkpoints into one that costs no more (arXiv 2203.05482).

    The best comes first; each next one stays in if the mean is not worse for it on the split. A figure on that split
    is then no test.

    Examples:

    * `fer-train soup runs/a/last.pt runs/b/last.pt runs/c/last.pt --data fer2013.csv --out soup.pt`
    """
    from dataclasses import replace

    from fer_runtimes.data import TEST_SPLITS, TRAIN_SPLITS, also_in_training, load_faces
    from fer_runtimes.errors import BadInput
    from fer_train.checkpoint import save_checkpoint
    from fer_train.soup import greedy_soup

    if split in TRAIN_SPLITS:
        raise BadInput(f"split {split} is what nets are trained on, it cannot choose among them; give another")
    faces = load_faces(data, (split,) if split else TEST_SPLITS)
    faces = replace(faces, seen=also_in_training(data, faces))
    made, chosen = greedy_soup(checkpoints, faces, lambda text: typer.echo(text, err=True))
    save_checkpoint(out, made)
    typer.echo(f"{len(chosen)} of {len(checkpoints)}: {made.metrics['accuracy']:.2%} of {faces.split}", err=True)
    typer.echo(f"{out}")


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
