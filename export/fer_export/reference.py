"""The images on which parity is judged, and the truth about them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare

if TYPE_CHECKING:
    from torch import nn

FACES = 448
SMALLEST_MARGINS = 48


def make_reference(net: nn.Module, faces: Faces, size: int, crop: float = 1.0, seed: int = 0) -> Reference:
    """Chooses images from ``faces`` and adds hard ones; answers them with ``net`` in float64 and float32.

    net: the unfolded net, float32, eval, taking uint8 ``[N, 1, S, S]``. The images: faces at random,
    the faces whose two best classes lie closest, and what a camera gives when something is wrong
    (black, white, grey, noise, stripes, faces driven into saturation).
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(faces))
    pool = prepare(np.asarray(faces.images[np.sort(order[:4096])]), size, crop)
    ranked = np.argsort(_margins(_answers(net, pool)))
    closest, others = ranked[:SMALLEST_MARGINS], np.sort(random.permutation(ranked[SMALLEST_MARGINS:])[:FACES])
    parts = [
        (_kind(faces), pool[others]),
        ("smallest margin", pool[closest]),
        *hard_images(pool[others[:8]], size, random),
    ]
    images = np.concatenate([part for _, part in parts])
    kinds = np.concatenate([np.full(len(part), kind) for kind, part in parts])
    exact = copy.deepcopy(net).double()
    return Reference(
        images, _answers(exact, images).astype(np.float64), _answers(net, images).astype(np.float32), kinds
    )


def hard_images(
    faces: NDArray[np.uint8], size: int, random: np.random.Generator
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Pictures ``[N, 1, S, S]`` that are no faces, and ``faces`` driven into saturation, by kind."""
    shape = (1, 1, size, size)
    stripes = np.zeros(shape, np.uint8)
    stripes[..., ::2, :] = 255
    saturated = np.where(faces > 127, 255, 0).astype(np.uint8)
    return [
        ("constant", np.concatenate([np.full(shape, value, np.uint8) for value in (0, 128, 255)])),
        ("noise", random.integers(0, 256, (2, 1, size, size), dtype=np.uint8)),
        ("stripes", np.concatenate([stripes, stripes.transpose(0, 1, 3, 2)])),
        ("saturated", saturated),
    ]


def _answers(net: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    import torch

    with torch.inference_mode():
        return np.concatenate([net(part).numpy() for part in torch.from_numpy(images).split(256)])


def _margins(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    ordered = np.sort(logits, 1)
    margins: NDArray[np.floating] = ordered[:, -1] - ordered[:, -2]
    return margins


def answer(checkpoint: Path, faces: Faces) -> Reference:
    """What an unfolded checkpoint answers to all of ``faces``, in the order given, in float64 and float32.

    Raises BadInput for what is not a checkpoint, or is a folded one: folding is judged against the net before it.
    """
    from fer_train.checkpoint import load_checkpoint
    from fer_train.deploy import deployable

    loaded = load_checkpoint(checkpoint)
    if loaded.folded and not loaded.trained_folded:
        raise BadInput(f"{checkpoint}: is folded; give the checkpoint it was folded from")
    net = deployable(loaded)
    images = prepare(np.asarray(faces.images), loaded.input["size"], loaded.input["crop"])
    kinds = np.full(len(images), _kind(faces))
    return Reference(
        images,
        _answers(copy.deepcopy(net).double(), images).astype(np.float64),
        _answers(net, images).astype(np.float32),
        kinds,
    )


def _kind(faces: Faces) -> str:
    return "drawn face" if faces.name == "drawn-faces" else "face"
