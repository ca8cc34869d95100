"""The training loop. Read from top to bottom; nothing is hidden elsewhere.

A run can be killed at any moment and continued: the state at the end of each epoch is one file,
written whole, and each epoch draws its order, views and dropout from a seed made of the recipe's
seed and the epoch's number. So a continued run ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import metrics
from fer_runtimes.data import Faces, copies
from fer_runtimes.errors import BadInput, NotAvailable
from fer_runtimes.files import sha256_of, whole_file
from fer_runtimes.images import prepare
from fer_runtimes.labels import LABELS
from fer_runtimes.temperature import calibrate
from fer_train.augment import as_a_poor_camera_sees, augment, mixed
from fer_train.checkpoint import Checkpoint, load_checkpoint, load_plain, save_checkpoint
from fer_train.distil import distillation_loss, load_teachers, opinions
from fer_train.nets import build_net
from fer_train.recipe import Recipe, recipe_from

if TYPE_CHECKING:
    import torch
    from torch import nn

_GROWN_ON = 1024  # faces of 48 pixels, or so many pixels, on which a larger net is made of the checkpoint's
RESUME, LAST, BEST, LOG = "resume.pt", "last.pt", "best.pt", "log.jsonl"


@dataclass(frozen=True)
class Epoch:
    """One line of the log. ``accuracy`` is of the averaged weights on the validation split."""

    epoch: int
    epochs: int
    size: int
    lr: float
    loss: float
    accuracy: float
    images_per_s: float


def train(
    recipe: Recipe,
    faces: Faces,
    validation: Faces,
    out: Path,
    device: str = "cpu",
    amp: bool = False,
    compiled: bool = False,
    resume: bool = False,
    start: Path | None = None,
    teachers: Sequence[Path] = (),
    settings: dict[str, Any] | None = None,
    report: Callable[[Epoch], None] = lambda _: None,
    step: Callable[[int, int], None] = lambda *_: None,
) -> Checkpoint:
    """Trains and returns the last checkpoint; ``out`` then holds last.pt, best.pt, resume.pt and log.jsonl.

    last.pt: the averaged weights after the last epoch, chosen by nothing.
    best.pt: those of the epoch with the best accuracy on ``validation`` (its metrics say so).
    start: a checkpoint whose weights the run begins with, in place of random ones: of the same net (fine-tuning), or of
        a smaller one that ``fer_train.grow`` can make it of
    teachers: checkpoints whose mean opinion of each view the net is taught (``Recipe.distil``)
    settings: plain values kept with the state for whoever continues the run (``settings_of_run``)
    device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; amp: bfloat16 autocast
    compiled: the net and its teachers go through ``torch.compile``
    report, step: called after each epoch, and after each batch with (batches done, batches in all)
    """
    import torch
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    _check_device(device)
    # float32 is float32, and a continued run ends with the same weights; cuDNN alone heeds either
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    if recipe.quantise and start is None and not resume:
        raise BadInput("quantise: rounding is learnt by a net that is trained already; give it with --checkpoint")
    targets = _targets(faces, recipe)
    torch.manual_seed(recipe.seed)
    net, origin, (mean, std) = _first_net(recipe, start, faces)
    _check_runs(net, recipe)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(
        net, opt="sgd", lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, filter_bias_and_bn=True
    )
    batch = min(recipe.batch_size, len(faces))
    steps = len(faces) // batch
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps,
        warmup_t=round(recipe.warmup * steps),
        warmup_lr_init=recipe.lr / 100,
        t_in_epochs=False,
    )
    forward = faster(net, device) if compiled else net  # of the same weights
    taught_by, teacher_records = load_teachers(teachers, device)
    if compiled:
        taught_by = [replace(teacher, net=faster(teacher.net, device)) for teacher in taught_by]
    average = ModelEmaV3(net, decay=recipe.ema, use_warmup=True)
    first, best = 0, -1.0
    identity = {
        "recipe": json.dumps(recipe.to_dict(), sort_keys=True),
        "data": faces.sha256,
        "votes": faces.votes is not None,
        "teachers": json.dumps([record["sha256"] for record in teacher_records]),
    }
    if resume:
        state = _read_state(out, identity)
        net.load_state_dict(state["net"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, best, origin = state["epochs_done"], state["best"], json.loads(state["origin"])
        mean, std = state.get("grey", (mean, std))
        _cut_log(out, first)
    else:
        refuse_used(out)
        (out / LOG).unlink(missing_ok=True)

    images = torch.from_numpy(np.array(faces.images)).to(device)  # a copy: the data is memory-mapped, read-only
    held_out = torch.from_numpy(prepare(validation.images, recipe.size, recipe.crop)).to(device)
    soft = torch.from_numpy(targets).to(device)
    watched = replace(validation, seen=copies(validation.images, faces.images))
    checkpoint: Checkpoint | None = None
    for epoch in range(first, recipe.epochs):
        began, size, total_loss = time.perf_counter(), recipe.size_at(epoch), torch.zeros((), device=device)
        seed = recipe.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        generator = torch.Generator(device=device).manual_seed(seed)
        order = torch.randperm(len(faces), device=device, generator=generator)
        net.train()
        for i in range(steps):
            update = epoch * steps + i
            schedule.step_update(update)
            chosen = order[i * batch : (i + 1) * batch]
            seen, wanted = augment(images[chosen], size, recipe.augment, generator), soft[chosen]
            if recipe.mixup:
                seen, wanted = mixed(seen, wanted, recipe.mixup)
            worse = recipe.augment.camera
            shown = as_a_poor_camera_sees(seen, worse, generator) if worse else seen
            views = ((shown - mean) / std).contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
                logits = forward(views)
                told = opinions(taught_by, seen, recipe.distil_temperature) if taught_by else None
            if told is None:
                loss = torch.nn.functional.cross_entropy(logits.float(), wanted)
            else:
                loss = distillation_loss(logits.float(), wanted, told, recipe.distil, recipe.distil_temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average.update(net, step=update)
            total_loss += loss.detach()
            step(i + 1, steps)
        mean_loss = float(total_loss) / steps
        if not math.isfinite(mean_loss):
            raise BadInput(
                f"the loss is {mean_loss} after epoch {epoch + 1}; lower --lr (now {recipe.lr}); {out} keeps the state before it"
            )
        seconds = time.perf_counter() - began

        answers = logits_of(average.module, held_out, mean, std)
        table = metrics.confusion(validation.labels, answers.argmax(1))
        accuracy = metrics.accuracy(table)
        checkpoint = Checkpoint(
            model={"name": recipe.model, "args": _net_args(recipe)},
            input={"size": recipe.size, "crop": recipe.crop, "channels": 1, "mean": mean, "std": std},
            state_dict=_weights(average.module, recipe),
            folded=recipe.quantise,
            recipe=recipe.to_dict(),
            metrics={
                "split": validation.split,
                "images": len(validation),
                "epoch": epoch + 1,
                "chosen_by": "last epoch",
                "precision": "int8, simulated" if recipe.quantise else "fp32",
                "training_images": len(faces),
                "training_data": faces.describe(),
                "began_with": origin,
                "teachers": teacher_records,
                "accuracy": accuracy,
                "macro_f1": metrics.macro_f1(table),
                "confusion": table.tolist(),
            },
            versions=_versions(),
            probabilities=calibrated(answers, watched),
        )
        save_checkpoint(out / LAST, checkpoint)
        if accuracy > best:
            best = accuracy
            chosen_by = f"best epoch on {validation.split}"
            save_checkpoint(
                out / BEST,
                Checkpoint(**{**vars(checkpoint), "metrics": {**checkpoint.metrics, "chosen_by": chosen_by}}),
            )
        line = Epoch(
            epoch + 1,
            recipe.epochs,
            size,
            optimizer.param_groups[0]["lr"],
            mean_loss,
            accuracy,
            steps * batch / seconds,
        )
        with (out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(vars(line)) + "\n")
        with whole_file(out / RESUME) as aside:
            torch.save(
                {
                    "net": net.state_dict(),
                    "average": average.module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epochs_done": epoch + 1,
                    "origin": json.dumps(origin),
                    "grey": (mean, std),
                    "settings": json.dumps(settings or {}),
                    "best": best,
                    **identity,
                },
                aside,
            )
        report(line)
    if checkpoint is None:
        raise BadInput(f"{out}: this run is complete ({first} epochs); its checkpoints are {LAST} and {BEST}")
    return checkpoint


def faster(net: nn.Module, device: str) -> nn.Module:
    """``net`` by torch.compile: each size of view is compiled once, when it first comes.

    Raises NotAvailable where torch has no compiler to do it with.
    """
    import torch

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        raise NotAvailable(
            f"--compile needs a C++ compiler, and {compiler} is not here; install it, or give --no-compile"
        )
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # each backend has its own; one that is none of the net's making is seen here first
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotAvailable(f"--compile fails here: {reason}; give --no-compile") from error
    made: nn.Module = torch.compile(net, dynamic=False)  # type: ignore[assignment]
    return made


def logits_of(net: nn.Module, images: torch.Tensor, mean: float, std: float) -> NDArray[np.float32]:
    """Logits ``[N, 7]`` of ``net``, which takes normalised floats, on uint8 images ``[N, 1, S, S]``."""
    import torch

    net.eval()
    answers = []
    with torch.inference_mode():
        for part in images.split(512):
            views = ((part.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            answers.append(net(views).float().cpu())
    return torch.cat(answers).numpy()


def calibrated(logits: NDArray[np.float32], watched: Faces) -> dict[str, Any] | None:
    """What ``calibrate`` says; None where the faces are too few, or all answered right, to say anything."""
    try:
        return calibrate(logits, watched)
    except BadInput:
        return None


def refuse_used(out: Path) -> None:
    """Raises BadInput if ``out`` holds a run already: hours of training are not overwritten."""
    if (out / RESUME).exists():
        raise BadInput(f"{out}: holds a run already; continue it with --resume {out} or choose another --out")


def recipe_of_run(out: Path) -> Recipe:
    """The recipe of a run that was begun in ``out``, so that --resume needs nothing else."""
    return recipe_from(json.loads(load_plain(out / RESUME, "a run to continue")["recipe"]), str(out / RESUME))


def settings_of_run(out: Path) -> dict[str, Any]:
    """The settings that ``train`` was given when the run in ``out`` was last active."""
    settings: dict[str, Any] = json.loads(load_plain(out / RESUME, "a run to continue")["settings"])
    return settings


def _first_net(
    recipe: Recipe, start: Path | None, faces: Faces
) -> tuple[nn.Module, dict[str, Any] | None, tuple[float, float]]:
    """The net with the weights that it begins with; what the new checkpoint records of these, None for random ones; mean and standard deviation of grey."""
    import torch
    from timm.utils import reparameterize_model

    from fer_train.grow import can_grow, grow
    from fer_train.quantised import quantised

    net, origin = build_net(recipe.model, recipe.size, **_net_args(recipe)), None
    grey = float(faces.images.mean() / 255), float(faces.images.std() / 255)
    before = None if start is None else load_checkpoint(start)
    if before is not None and start is not None:
        if before.folded and recipe.quantise:
            net = reparameterize_model(net)
        name = before.model["name"]
        if name == recipe.model:
            before.load_into(net)
        elif can_grow(name, recipe.model) and not before.folded:
            few = max(64, _GROWN_ON * 48**2 // recipe.size**2)
            some = np.asarray(faces.images[:: max(1, len(faces) // few)][:few])
            seen = torch.from_numpy(prepare(some, recipe.size, recipe.crop))
            grow(before.build(), net, (seen.float() / 255 - grey[0]) / grey[1])
        else:
            raise BadInput(
                f"{start}: its weights do not fit, they are of {name}{', folded' * before.folded}; {recipe.model} begins with a checkpoint of its own, "
                "or with an unfolded one of a smaller net of ours with summed blocks"
            )
        origin = {"checkpoint_sha256": sha256_of(start), "recipe": before.recipe, "epochs": before.metrics.get("epoch")}
    if not recipe.quantise:
        return net, origin, grey
    if before is None or not before.folded:
        net = reparameterize_model(net.eval())
    if before is not None:
        # BatchNorm, which would take up another mean, is folded away
        grey = before.input["mean"], before.input["std"]
        net = _evened_out(net, recipe, grey, faces)
    return quantised(net), origin, grey


def _evened_out(net: nn.Module, recipe: Recipe, grey: tuple[float, float], faces: Faces) -> nn.Module:
    """What a dead channel is read with gets no gradient, so that no training would mend the scale that it spoils."""
    from fer_train.deploy import Deployable
    from fer_train.equalise import IMAGES, equalise

    seen = prepare(np.asarray(faces.images[:IMAGES]), recipe.size, recipe.crop)
    return equalise(Deployable(net, *grey).eval(), seen)[0].net


def _check_runs(net: nn.Module, recipe: Recipe) -> None:
    """Raises BadInput where the architecture does not take views of the recipe's smallest size."""
    import torch

    side = min([recipe.size, *(size for _, size in recipe.sizes)])
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 1, side, side))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"model {recipe.model} does not run on {side}x{side} faces ({reason}); give a larger --size"
        ) from error


def _weights(net: nn.Module, recipe: Recipe) -> dict[str, torch.Tensor]:
    """A copy of the weights, as a checkpoint holds them."""
    from fer_train.quantised import unrounded

    state = unrounded(net.state_dict()) if recipe.quantise else net.state_dict()
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def _net_args(recipe: Recipe) -> dict[str, Any]:
    args = {"stem_stride": recipe.stem_stride, "drop_rate": recipe.drop_rate, "drop_path_rate": recipe.drop_path_rate}
    return {key: value for key, value in args.items() if value}


def _targets(faces: Faces, recipe: Recipe) -> NDArray[np.float32]:
    """Target distributions ``[N, 7]``: the smoothed label, mixed with the FER+ votes where there are any.

    Soft labels from several annotators beat their majority (Barsoum et al., arXiv 1608.01041).
    """
    hard = np.full((len(faces), len(LABELS)), recipe.smoothing / len(LABELS), np.float32)
    hard[np.arange(len(faces)), faces.labels] += 1 - recipe.smoothing
    if faces.votes is None or recipe.votes == 0:
        return hard
    totals = faces.votes.sum(1, keepdims=True)
    shares = np.divide(faces.votes, totals, out=hard.copy(), where=totals > 0)
    mixed: NDArray[np.float32] = ((1 - recipe.votes) * hard + recipe.votes * shares).astype(np.float32)
    return mixed


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise NotAvailable(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}; use --device cpu"
        ) from error


def _read_state(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    state = load_plain(out / RESUME, "a run to continue")
    for key, value in identity.items():
        before = state.get(key)
        if key == "recipe" and isinstance(before, str):  # one kept by an older version lacks what has a default now
            before = json.dumps(recipe_from(json.loads(before), str(out / RESUME)).to_dict(), sort_keys=True)
        if before != value:
            raise BadInput(
                f"{out}: was begun with another {key}; continue it with the same, or start anew with another --out"
            )
    return state


def _cut_log(out: Path, epochs: int) -> None:
    """Drops what was logged after the state that is continued from."""
    if (out / LOG).exists():
        lines = (out / LOG).read_text(encoding="utf-8").splitlines(keepends=True)
        with whole_file(out / LOG) as aside:
            aside.write_text("".join(lines[:epochs]), encoding="utf-8")


def _versions() -> dict[str, str]:
    import timm
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "numpy": np.__version__,
    }
