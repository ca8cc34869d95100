"""Corruptions of 48-pixel grey faces, five severities each, after ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261).

Severities are sized for a face of 48 pixels, where a blur of sigma 2 leaves hardly an eye. What is
drawn at random (noise, a direction, a place) comes from the seed, the corruption's name and the
image's number alone: the same for every net, for every subset of the images, and for all five
severities, so that these differ in strength and in nothing else.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_bench.corruptions.views import View, seen_as

Face = NDArray[np.uint8]
Make = Callable[[Face, float, np.random.Generator], Face]
READ_NOISE = 4.0  # grey levels; what a dark picture is left with however little light there is


@dataclass(frozen=True)
class Corruption:
    """A row of the table. levels: from the mildest to the worst, in ``unit``; make: uint8 ``[S, S]`` to the same."""

    unit: str
    levels: tuple[float, float, float, float, float]
    make: Make


def corrupted(images: NDArray[np.uint8], name: str, severity: int, seed: int, numbers: NDArray[np.int64]) -> Face:
    """uint8 ``[N, S, S]`` to the same shape, the originals untouched.

    name: of ``CORRUPTIONS``; severity: 1 to 5; numbers: int ``[N]``, each image's place in its split
    """
    row = CORRUPTIONS[name]
    level, salt = row.levels[severity - 1], zlib.crc32(name.encode())
    made: Face = np.stack(
        [
            row.make(np.asarray(image), level, np.random.default_rng((seed, salt, int(number))))
            for image, number in zip(images, numbers, strict=True)
        ]
    )
    return made


def _bytes(values: NDArray[np.floating]) -> Face:
    made: Face = np.rint(values).clip(0, 255).astype(np.uint8)
    return made


def _seen(image: Face, view: View) -> Face:
    made: Face = seen_as(image[None], view)[0]
    return made


def _gaussian_blur(image: Face, sigma: float, random: np.random.Generator) -> Face:
    """Separable, out to four sigma, edges repeated."""
    radius = ceil(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    side = len(image)
    rows = np.pad(image.astype(np.float64), radius, mode="edge")
    across = np.sum([weight * rows[:, i : i + side] for i, weight in enumerate(weights)], axis=0)
    return _bytes(np.sum([weight * across[i : i + side] for i, weight in enumerate(weights)], axis=0))


def _motion_blur(image: Face, length: float, random: np.random.Generator) -> Face:
    """The mean along a straight line of so many pixels, in a direction drawn at random."""
    angle = random.uniform(0, pi)
    steps = np.linspace(-(length - 1) / 2, (length - 1) / 2, round(length))
    moved = [_seen(image, View(right=step * cos(angle), down=step * sin(angle))) for step in steps]
    return _bytes(np.mean(moved, axis=0))


def _gaussian_noise(image: Face, sigma: float, random: np.random.Generator) -> Face:
    return _bytes(image + random.normal(0, sigma, image.shape))


def _shot_noise(image: Face, photons: float, random: np.random.Generator) -> Face:
    """Light comes in photons, so many for white; their number is Poisson's."""
    return _bytes(random.poisson(image / 255 * photons) / photons * 255)


def _low_light(image: Face, gain: float, random: np.random.Generator) -> Face:
    """Less light, and the sensor's noise as it was."""
    return _bytes(image * gain + random.normal(0, READ_NOISE, image.shape))


def _contrast(image: Face, factor: float, random: np.random.Generator) -> Face:
    return _bytes((image - image.mean()) * factor + image.mean())


def _jpeg(image: Face, quality: float, random: np.random.Generator) -> Face:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "JPEG", quality=round(quality))
    return np.asarray(Image.open(packed))


def _rotation(image: Face, degrees: float, random: np.random.Generator) -> Face:
    return _seen(image, View(degrees=degrees * random.choice((-1, 1))))


def _zoom(image: Face, factor: float, random: np.random.Generator) -> Face:
    return _seen(image, View(zoom=factor))


def _shift(image: Face, pixels: float, random: np.random.Generator) -> Face:
    angle = random.uniform(0, 2 * pi)
    return _seen(image, View(right=pixels * cos(angle), down=pixels * sin(angle)))


def _occlusion(image: Face, side: float, random: np.random.Generator) -> Face:
    """A square of one grey, wholly inside the picture."""
    grey, place = random.integers(0, 256), random.random(2)
    top, left = (place * (len(image) - side + 1)).astype(int)
    hidden = image.copy()
    hidden[top : top + int(side), left : left + int(side)] = grey
    return hidden


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian blur": Corruption("sigma, pixels", (0.5, 0.8, 1.1, 1.5, 2.0), _gaussian_blur),
    "motion blur": Corruption("length, pixels", (3, 5, 7, 9, 12), _motion_blur),
    "gaussian noise": Corruption("sigma, grey levels", (5, 10, 18, 26, 38), _gaussian_noise),
    "shot noise": Corruption("photons for white", (1000, 400, 150, 60, 25), _shot_noise),
    "low light": Corruption("share of the light; read noise 4 grey levels", (0.6, 0.4, 0.25, 0.15, 0.1), _low_light),
    "contrast": Corruption("share of the contrast", (0.7, 0.5, 0.35, 0.2, 0.1), _contrast),
    "JPEG": Corruption("quality", (60, 40, 25, 15, 8), _jpeg),
    "rotation": Corruption("degrees, either way", (5, 10, 15, 20, 30), _rotation),
    "zoom in": Corruption("times", (1.1, 1.2, 1.3, 1.45, 1.6), _zoom),
    "zoom out": Corruption("times", (0.93, 0.86, 0.79, 0.72, 0.65), _zoom),
    "shift": Corruption("pixels, any direction", (1, 2, 4, 6, 8), _shift),
    "occlusion": Corruption("side of a square, pixels", (8, 12, 16, 20, 24), _occlusion),
}
SEVERITIES = (1, 2, 3, 4, 5)
