"""From a picture to what a net takes: one function, used by training and by every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fer_runtimes.errors import BadInput


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Reads a picture file as grey, uint8 ``[H, W]``. Raises BadInput if it is not a picture."""
    try:
        return np.asarray(Image.open(path).convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"{path}: not a readable picture ({error})") from error


def prepare(
    images: NDArray[np.uint8], size: int, crop: float = 1.0, right: float = 0, down: float = 0
) -> NDArray[np.uint8]:
    """Brings grey faces to a net's input: uint8 ``[N, H, W]`` to uint8 ``[N, 1, size, size]``.

    crop: share, above 0 to 1, of the shorter side that the net is shown, around the centre. A net
        trained on zoomed views is best shown faces as large as those were (Touvron et al., arXiv
        1906.06423); checkpoints and bundles say what theirs is.
    right, down: where the crop lies in the room that it leaves, -1 to 1; 0 is the centre

    Resizing is bilinear with antialiasing (Pillow's), on bytes, so that a device needs nothing but
    Pillow to do the same. Normalisation is not done here: it is part of every exported graph.
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise BadInput(f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, H, W]")
    if not 0 < crop <= 1:
        raise BadInput(f"crop is {crop}, expected a share above 0 and at most 1")
    height, width = images.shape[1:]
    side = min(height, width) * crop
    left, top = (width - side) / 2 * (1 + right), (height - side) / 2 * (1 + down)
    if (height, width, crop) == (size, size, 1):
        return np.array(images[:, None])
    out = np.empty((len(images), 1, size, size), np.uint8)
    for i, image in enumerate(images):
        box = (left, top, left + side, top + side)
        out[i, 0] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    return out
