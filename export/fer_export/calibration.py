"""The faces that INT8 is calibrated on, and those, kept apart, on which its accuracy is held to a budget.

Both come from the training split: what the net is judged on in the end (PublicTest, PrivateTest) has no
part in it. The choice is fixed, so the same data gives the same images, and their hash is recorded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.data import TRAIN_SPLITS, Faces, load_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.labels import LABELS

IMAGES = 512
HELD_OUT = 2000  # at most; a quarter of the split where that is less
FEWEST_HELD_OUT = 100  # on fewer a budget of half a point means nothing


@dataclass(frozen=True)
class Calibration:
    """Two sets of faces that share no picture.

    images: uint8 ``[N, 48, 48]`` to calibrate on, the classes as even as the data allows
    held_out: to measure on, the classes as frequent as in the data
    """

    images: NDArray[np.uint8]
    held_out: Faces
    record: dict[str, Any]


def choose(faces: Faces, count: int = IMAGES, seed: int = 0) -> Calibration:
    """Chooses ``count`` faces to calibrate on and others to hold out; a picture that stands twice is used once.

    Raises BadInput, saying what is needed, for faces of one class or too few of them.
    """
    pictures = {np.asarray(image).tobytes(): i for i, image in reversed(list(enumerate(faces.images)))}
    order = np.random.default_rng(seed).permutation(np.sort(list(pictures.values())))
    labels = np.asarray(faces.labels)
    if len(classes := np.unique(labels)) < 2:
        raise BadInput(
            f"{faces.name} {faces.split} holds one class alone, {LABELS[classes[0]]}; calibration needs faces of every class to be told apart"
        )
    by_class = order[np.argsort(labels[order], kind="stable")]
    held = by_class[np.linspace(0, len(order) - 1, min(HELD_OUT, len(order) // 4)).round().astype(int)]
    rest = order[~np.isin(order, held)]
    if count > len(rest) or len(held) < FEWEST_HELD_OUT:
        needed = max(-(-count * 4 // 3), 4 * FEWEST_HELD_OUT)
        raise BadInput(
            f"{faces.name} {faces.split} holds {len(order)} different faces; {count} to calibrate on and a quarter held out need about {needed}; "
            "give more, or fewer with --calibration-images"
        )
    rank = np.empty(len(rest), np.int64)  # how many of its class come before each
    for label in classes:
        of_class = labels[rest] == label
        rank[of_class] = np.arange(of_class.sum())
    chosen = rest[np.argsort(rank, kind="stable")[:count]]
    images = np.asarray(faces.images[np.sort(chosen)])
    apart = Faces(faces.name, faces.split, np.asarray(faces.images[np.sort(held)]), labels[np.sort(held)], faces.sha256)
    record = {
        "data": faces.name,
        "split": faces.split,
        "data_sha256": faces.sha256,
        "images": count,
        "images_sha256": _digest(images),
        "classes": dict(zip(LABELS, np.bincount(labels[chosen], minlength=len(LABELS)).tolist(), strict=True)),
        "held_out": {"images": len(held), "images_sha256": _digest(apart.images)},
    }
    return Calibration(images, apart, record)


def load_calibration(path: Path, count: int = IMAGES) -> Calibration:
    """``choose`` from the training split of fer2013.csv or a folder. Raises BadInput as that and ``load_faces`` do."""
    return choose(load_faces(path, TRAIN_SPLITS), count)


def _digest(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
