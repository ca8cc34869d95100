"""Faces cut out a little differently: what a detector that is not FER2013's gives."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class View:
    """zoom: above 1 the face is larger and its rim is lost; degrees: counter-clockwise."""

    zoom: float = 1.0
    degrees: float = 0.0


# column of the table: the views whose accuracies are averaged in it
VIEWS: dict[str, tuple[View, ...]] = {
    "zoom 0.85": (View(zoom=0.85),),
    "zoom 1.15": (View(zoom=1.15),),
    "zoom 1.3": (View(zoom=1.3),),
    "rotation ±15°": (View(degrees=-15), View(degrees=15)),
}


def seen_as(images: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Zooms and rotates around the centre, bilinear: uint8 ``[N, S, S]`` to the same shape.

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
    matrix = (c, -s, middle + half - (c - s) * (centre + half), s, c, middle + half - (s + c) * (centre + half))
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
