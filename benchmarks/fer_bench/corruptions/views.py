"""Faces cut out a little differently: what a detector that is not FER2013's gives."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class View:
    """zoom: above 1 the face is larger and its rim is lost; degrees: counter-clockwise; right, down: pixels that the face moves by."""

    zoom: float = 1.0
    degrees: float = 0.0
    right: float = 0.0
    down: float = 0.0


def seen_as(images: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Zooms and rotates around the centre and shifts, bilinear: uint8 ``[N, S, S]`` to the same shape.

    What lies outside a face is not known; its outermost pixels are repeated there.
    """
    if view == View():
        return images
    side = images.shape[1]
    rim = side // 2
    centre, middle = (side - 1) / 2, (side - 1) / 2 + rim
    c, s = cos(radians(view.degrees)) / view.zoom, sin(radians(view.degrees)) / view.zoom
    # Pillow maps an output point (x + 0.5, y + 0.5) to a source point
    half = 0.5
    x, y = centre + half + view.right, centre + half + view.down
    matrix = (c, -s, middle + half - (c * x - s * y), s, c, middle + half - (s * x + c * y))
    wide = np.pad(images, ((0, 0), (rim, rim), (rim, rim)), mode="edge")
    return np.stack(
        [
            np.asarray(
                Image.fromarray(image).transform(
                    (side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
                )
            )
            for image in wide
        ]
    )
