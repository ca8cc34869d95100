"""Checkpoints: plain data that ``torch.load(weights_only=True)`` accepts, never code."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_runtimes.errors import BadInput
from fer_runtimes.files import whole_file
from fer_runtimes.labels import LABELS
from fer_runtimes.temperature import check_record
from fer_train.nets import build_net
from fer_train.recipe import Recipe, recipe_from

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 1
# What unpickling raises for bytes that are no pickle at all.
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)
CHECKPOINTS = Path(__file__).parent / "checkpoints"  # that come with this package
SHIPPED = CHECKPOINTS / "fer_small.pt"  # where none is named


@dataclass(frozen=True)
class Checkpoint:
    """A trained net and what must be known of it.

    model: ``name`` and ``args``, what ``build_net`` takes beside the input size
    input: ``size`` (pixels), ``crop`` (share of the face shown), ``channels`` (1), ``mean`` and ``std`` of grey in 0..1
    state_dict: of the net as trained (branches apart), or of the folded net if ``folded``
    probabilities: the temperature that makes them of logits (``fer_runtimes.temperature.calibrate``), or None
    """

    model: dict[str, Any]
    input: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    labels: list[str] = field(default_factory=lambda: list(LABELS))
    folded: bool = False
    probabilities: dict[str, Any] | None = None
    format: int = FORMAT

    def build(self) -> nn.Module:
        """The net, in eval mode, with these weights, on the CPU. Raises BadInput where they do not fit."""
        from timm.utils import reparameterize_model

        try:
            net = build_net(self.model["name"], self.input["size"], **self.model["args"])
        except TypeError as error:
            raise BadInput(f"the checkpoint's model {self.model} cannot be built: {error}") from error
        if self.folded:
            net = reparameterize_model(net)
        self.load_into(net)
        return net.eval()

    @property
    def trained_folded(self) -> bool:
        """Whether it was folded before it was trained last (``fer-train --quantise``), so that no unfolded original exists."""
        return self.folded and bool(self.recipe.get("quantise"))

    def recipe_for_int8(self) -> Recipe:
        """The recipe of five more epochs with int8 rounding, at a hundredth of the learning rate. Raises BadInput for a damaged one."""
        base = self._own_recipe()
        return replace(base, quantise=True, epochs=5, warmup=0.5, lr=base.lr / (1 if base.quantise else 100))

    def recipe_for_tuning(self) -> Recipe:
        """The recipe of ten more epochs, at a tenth of the learning rate. Raises BadInput for a damaged one, and for a folded net."""
        if self.folded:
            raise BadInput(
                "the checkpoint's branches are folded; fine-tune it with --quantise, or the one that it was made from"
            )
        base = self._own_recipe()
        return replace(base, epochs=10, warmup=0.5, lr=base.lr / 10)

    def _own_recipe(self) -> Recipe:
        """The recipe it was trained with, for this net and input, all views of the input's size."""
        known = {key: self.model["args"][key] for key in ("stem_stride",) if key in self.model["args"]}
        of_net = {"model": self.model["name"], "size": self.input["size"], "crop": self.input["crop"], **known}
        return recipe_from({**self.recipe, **of_net, "sizes": ()}, "the checkpoint's recipe")

    def load_into(self, net: nn.Module) -> None:
        """Gives a net these weights. Raises BadInput where they do not fit."""
        try:
            net.load_state_dict(self.state_dict)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise BadInput(f"the weights of {self.model['name']} do not fit: {reason}") from error


def checkpoint_path(given: Path) -> Path:
    """The file as given, or the checkpoint of that name that comes with this package, e.g. ``fer_small``."""
    named = CHECKPOINTS / f"{given.name}.pt"
    return named if len(given.parts) == 1 and not given.exists() and named.is_file() else given


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, whole or not at all."""
    import torch

    with whole_file(path) as aside:
        torch.save(vars(checkpoint), aside)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint. Raises BadInput for anything else, without running what it holds."""
    content = load_plain(path, "a checkpoint")
    wanted = {"format", "model", "input", "labels", "state_dict"}
    if missing := sorted(wanted - content.keys()):
        raise BadInput(
            f"{path}: not a checkpoint of fer-train, it lacks {', '.join(missing)}; train one with fer-train"
        )
    if content["format"] != FORMAT:
        raise BadInput(f"{path}: checkpoint format {content['format']}, this version reads {FORMAT}")
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": dict,
        "input": dict,
        "labels": (list, tuple),
        "state_dict": dict,
        "recipe": dict,
        "metrics": dict,
    }
    if wrong := [key for key, kind in kinds.items() if key in content and not isinstance(content[key], kind)]:
        raise BadInput(f"{path}: damaged, its {wrong[0]} is {content[wrong[0]]!r:.60}; train one with fer-train")
    if lacking := sorted(
        {"name", "args"} - content["model"].keys() | {"size", "crop", "mean", "std"} - content["input"].keys()
    ):
        raise BadInput(f"{path}: damaged, its model or input lacks {', '.join(lacking)}; train one with fer-train")
    if list(content["labels"]) != list(LABELS):
        raise BadInput(
            f"{path}: {len(content['labels'])} classes {content['labels']}, expected the {len(LABELS)} of FER2013: {', '.join(LABELS)}"
        )
    check_record(content.get("probabilities"), str(path))
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    return Checkpoint(**{"recipe": {}, "metrics": {}, "versions": {}, **known})


def load_plain(path: Path, what: str) -> dict[str, Any]:
    """Reads a dict of tensors and plain values. Raises BadInput if the file is damaged or holds code."""
    import torch

    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CHECKPOINTS.glob("*.pt")))
        raise BadInput(f"{path}: no such file; expected {what}; by name there are {known}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle protocol: what follows says it in our words
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path}: refused, it is not {what} but a pickle that holds code or is damaged; make one with fer-train"
        ) from error
    except (*_UNREADABLE, zipfile.BadZipFile, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not {what}, or cut short ({reason})") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: holds a {type(content).__name__}, expected {what}")
    return content
