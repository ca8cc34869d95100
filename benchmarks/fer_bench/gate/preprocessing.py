"""Is a face brought to the net's input as it was for training? Judged against exact arithmetic, not against a copy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def exact(image: NDArray[np.uint8], size: int, crop: float) -> NDArray[np.float64]:
    """What ``fer_runtimes.images.prepare`` is defined to do to one face ``[H, W]``, in float64: ``[size, size]``, 0..255.

    Bilinear with antialiasing is a triangle of the width of an output pixel (of an input pixel,
    where the image grows) laid over the input, once along each axis.
    """
    height, width = image.shape
    side = min(height, width) * crop
    rows = _weights(height, (height - side) / 2, side, size)
    columns = _weights(width, (width - side) / 2, side, size)
    return rows @ image.astype(np.float64) @ columns.T


def _weights(length: int, start: float, extent: float, size: int) -> NDArray[np.float64]:
    """How much each of ``length`` pixels adds to each of ``size``, ``[size, length]``; rows sum to 1."""
    scale = extent / size
    centres = start + (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.clip(1 - distance, 0, None)
    totals: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return totals


def departure(images: NDArray[np.uint8], prepared: NDArray[np.uint8], crop: float) -> float:
    """Largest difference in grey levels between ``prepared``, uint8 ``[N, 1, S, S]``, and exact arithmetic on ``images``, ``[N, H, W]``.

    Bytes are rounded after each axis, so up to 1 is the resampling itself.
    """
    size = prepared.shape[-1]
    return max(
        float(np.abs(exact(image, size, crop) - out[0]).max()) for image, out in zip(images, prepared, strict=True)
    )
