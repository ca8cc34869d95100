"""Knowledge distillation: a small net learns what larger ones, or several, think of the views it sees.

Hinton et al. (arXiv 1503.02531): the teachers' softened probabilities say more than a label. MEAL V2 (Shen and Savvides,
arXiv 2009.08453): the mean of several strong teachers' probabilities is enough without the label. Beyer et al. (arXiv
2106.05237): the teachers must see the very view that the student sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_runtimes.files import sha256_of
from fer_train.checkpoint import load_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Teacher:
    """A trained net, folded, with the input it was trained for."""

    net: nn.Module
    size: int
    mean: float
    std: float


def load_teachers(paths: Sequence[Path], device: str) -> tuple[list[Teacher], list[dict[str, Any]]]:
    """The teachers, and what a checkpoint records of each: ``sha256``, ``model``, ``accuracy`` on its own watched split.

    Raises BadInput for what is no checkpoint.
    """
    import torch
    from timm.utils import reparameterize_model

    teachers, records = [], []
    for path in paths:
        checkpoint = load_checkpoint(path)
        built = checkpoint.build()
        net = (built if checkpoint.folded else reparameterize_model(built)).eval().requires_grad_(False)
        net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        given = checkpoint.input
        teachers.append(Teacher(net, given["size"], given["mean"], given["std"]))
        accuracy = checkpoint.metrics.get("accuracy")
        records.append({"sha256": sha256_of(path), "model": checkpoint.model["name"], "accuracy": accuracy})
    return teachers, records


def opinions(teachers: Sequence[Teacher], views: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of the teachers' probabilities ``[N, 7]`` at that temperature, for views float32 ``[N, 1, S, S]`` in 0..1.

    Each teacher is shown the views at its own input size.
    """
    import torch
    from torch.nn import functional

    found = []
    with torch.no_grad():
        for teacher in teachers:
            shown = views
            if views.shape[-1] != teacher.size:
                shown = functional.interpolate(
                    views, size=(teacher.size, teacher.size), mode="bilinear", antialias=True, align_corners=False
                )
            shown = ((shown - teacher.mean) / teacher.std).contiguous(memory_format=torch.channels_last)
            found.append(functional.softmax(teacher.net(shown).float() / temperature, 1))
    return torch.stack(found).mean(0)


def distillation_loss(
    logits: torch.Tensor, labels: torch.Tensor, teachers: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """``(1 - weight) CE(logits, labels) + weight T^2 CE(logits / T, teachers)``; all ``[N, 7]``, the last two distributions.

    T^2 keeps the gradient's size when T changes (arXiv 1503.02531, section 2).
    """
    from torch.nn.functional import cross_entropy

    taught = temperature**2 * cross_entropy(logits / temperature, teachers)
    return (1 - weight) * cross_entropy(logits, labels) + weight * taught
