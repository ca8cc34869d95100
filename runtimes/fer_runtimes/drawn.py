"""Faces drawn by rule, for tests and for the demo where no data set is at hand.

They are called ``drawn-faces`` wherever a figure from them is printed: they say that the pipeline
works, nothing about people.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fer_runtimes.data import SIDE, Faces
from fer_runtimes.labels import LABELS

# Per expression: mouth curve (1 smiles, -1 frowns), mouth opening, brow slant (1 inner ends down),
# brow height, eye opening; in units that _draw turns into pixels.
_LOOKS: dict[str, tuple[float, float, float, float, float]] = {
    "angry": (-0.5, 0.1, 1.0, -0.6, 0.7),
    "disgust": (-0.8, 0.25, 0.5, -0.3, 0.35),
    "fear": (-0.3, 0.6, -1.0, 0.6, 1.3),
    "happy": (1.0, 0.4, 0.0, 0.2, 0.8),
    "sad": (-1.0, 0.0, -0.8, 0.0, 0.6),
    "surprise": (0.0, 1.2, 0.0, 1.0, 1.4),
    "neutral": (0.0, 0.0, 0.0, 0.0, 1.0),
}


def drawn_faces(count: int, seed: int, split: str = "PublicTest") -> Faces:
    """``count`` faces, the seven expressions in turn, the same for the same seed on every machine."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(LABELS)
    images = np.stack([_draw(LABELS[label], random) for label in labels])
    return Faces("drawn-faces", split, images, labels, hashlib.sha256(images.tobytes()).hexdigest())


def _draw(expression: str, random: np.random.Generator) -> NDArray[np.uint8]:
    scale = 4  # drawn large and brought down, so that lines have soft edges
    side = SIDE * scale
    curve, opening, slant, height, eyes = (value + random.normal(0, 0.12) for value in _LOOKS[expression])
    skin, dark, ground = random.integers(120, 230), random.integers(10, 70), random.integers(0, 256)
    image = Image.new("L", (side, side), int(ground))
    pen = ImageDraw.Draw(image)
    x, y = side / 2 + random.normal(0, side / 40), side / 2 + random.normal(0, side / 40)
    wide, high = side * random.uniform(0.32, 0.4), side * random.uniform(0.4, 0.48)
    pen.ellipse([x - wide, y - high, x + wide, y + high], fill=int(skin))
    line = int(side / 40 * random.uniform(0.8, 1.4))
    for direction in (-1, 1):
        eye_x, eye_y = x + direction * wide * 0.45, y - high * 0.2
        eye_high = max(1.0, side / 22 * eyes)
        pen.ellipse(
            [eye_x - side / 14, eye_y - eye_high, eye_x + side / 14, eye_y + eye_high],
            fill=min(255, int(skin) + 40),
            outline=int(dark),
            width=line,
        )
        pen.ellipse([eye_x - side / 40, eye_y - side / 40, eye_x + side / 40, eye_y + side / 40], fill=int(dark))
        brow_y = eye_y - side / 11 - height * side / 22
        pen.line(
            [
                eye_x - direction * side / 11,
                brow_y + slant * side / 24,
                eye_x + direction * side / 11,
                brow_y - slant * side / 24,
            ],
            fill=int(dark),
            width=line + 2,
        )
    mouth_y, half = y + high * 0.5, wide * 0.5
    steps = np.linspace(-1, 1, 17)
    bend = -curve * side / 14 * (steps**2 - 0.5)
    upper = [
        (x + t * half, mouth_y + b - opening * side / 18 * math.sqrt(1 - t * t))
        for t, b in zip(steps, bend, strict=True)
    ]
    lower = [
        (x + t * half, mouth_y + b + opening * side / 18 * math.sqrt(1 - t * t))
        for t, b in zip(steps, bend, strict=True)
    ]
    pen.polygon(upper + lower[::-1], fill=int(dark))
    pen.line(upper, fill=int(dark), width=line)
    pen.line(lower, fill=int(dark), width=line)
    image = image.rotate(random.normal(0, 6), Image.Resampling.BILINEAR, fillcolor=int(ground)).resize(
        (SIDE, SIDE), Image.Resampling.BOX
    )
    pixels = np.asarray(image, np.float64) * random.uniform(0.75, 1.15) + random.normal(0, 8, (SIDE, SIDE))
    return pixels.clip(0, 255).astype(np.uint8)
