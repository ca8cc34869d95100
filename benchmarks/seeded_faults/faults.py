"""The faults: what goes wrong in practice, each at several strengths, and the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_bench.gate.answers import Prepared
from fer_export.pipeline import Source
from fer_runtimes.labels import LABELS


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    seed: puts the fault into a source, at a strength; folded: into the folded net, else into the net before folding
    cell: the bundle that is made from it, a key of ``builds.CELLS``; check: the one that must see it at full strength
    strengths: from faint to full; unit: what they are counted in
    """

    name: str
    seed: Callable[[Source, float], None]
    folded: bool
    cell: str
    check: str
    strengths: tuple[float, ...]
    unit: str


def wrong_mean(source: Source, grey_levels: float) -> None:
    source.net.offset += grey_levels * source.net.scale


def labels_permuted(source: Source, classes: float) -> None:
    """The first so many classes in reverse order."""
    order = list(range(len(LABELS)))
    order[: int(classes)] = order[: int(classes)][::-1]
    head = _net(source).head.fc
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]


def a_dropped_branch(source: Source, share: float) -> None:
    block = _net(source).stages[0][1]
    # a norm of its own makes MobileOne's and RepVGG's identity a branch with weights; fer_small's stands behind the sum
    for parameter in block.identity.parameters() if hasattr(block, "identity") else [block.conv.point]:
        parameter.data *= 1 - share


def a_fold_in_train_mode(source: Source, momentum: float) -> None:
    """What a forward pass before the fold does to a net that nobody put into eval mode: its statistics move."""
    import torch  # noqa: TID251 - as all that makes bundles; nothing here runs on a board

    for module in source.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
    with torch.no_grad():
        source.net.train()(torch.from_numpy(source.reference.images[:64]))
    source.net.eval()


def one_layer_rounded(source: Source, bits: float) -> None:
    weight = next(p for p in _net(source).stages.parameters() if p.ndim == 4)
    step = weight.data.abs().max() / (2 ** (bits - 1) - 1)
    weight.data = (weight.data / step).round() * step


def an_fp16_overflow(source: Source, log2: float) -> None:
    """The same function in exact arithmetic: what two layers give is 2**log2 times as large, and two more undo it.

    ONNX Runtime's CPU computes in float32 around each operator: what a GPU makes infinite stays finite there, and wrong.
    """
    blocks = [block for stage in _net(source).stages[:2] for block in stage][:4]
    half = log2 / 2
    for block, weight, bias in zip(blocks, (half, half, -half, -half), (half, log2, half, 0), strict=True):
        block.reparam_conv.weight.data *= 2.0**weight
        block.reparam_conv.bias.data *= 2.0**bias


FAULTS = (
    Fault("wrong mean", wrong_mean, True, "onnx fp32", "logits", (0.01, 0.1, 1, 6), "grey levels"),
    Fault("labels permuted", labels_permuted, True, "onnx fp32", "accuracy", (2, 7), "classes"),
    Fault("a dropped branch", a_dropped_branch, False, "onnx fp32", "logits", (0.0001, 0.01, 1), "of the branch"),
    Fault("a fold in train mode", a_fold_in_train_mode, False, "onnx fp32", "logits", (0.001, 0.01, 0.1), "momentum"),
    Fault("one layer rounded", one_layer_rounded, True, "onnx fp32", "logits", (20, 12, 8, 6), "bits"),
    Fault("an fp16 overflow", an_fp16_overflow, True, "tensorrt fp16", "logits", (12, 16, 20, 24), "log2 of the scale"),
)

# Pillow's other kernels, from near to far
WRONG_RESIZES = {
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


class WronglyResized(Prepared):
    """Faces brought to the net's input by another kernel than the one that training and every runtime use."""

    def __init__(self, images: NDArray[np.uint8], kind: Image.Resampling) -> None:
        super().__init__(images)
        self._kind = kind

    def at(self, size: int, crop: float) -> NDArray[np.uint8]:
        """uint8 ``[N, 1, size, size]``."""
        side = self.faces.shape[1]
        low, high = side / 2 * (1 - crop), side / 2 * (1 + crop)
        resized = [
            Image.fromarray(face).resize((size, size), self._kind, (low, low, high, high)) for face in self.faces
        ]
        return np.stack([np.asarray(image)[None] for image in resized])


def _net(source: Source) -> Any:
    """The architecture within: its parts are found by the names that timm gives them."""
    return source.net.net
