"""From a peer's own answers to figures on FER2013's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.labels import LABELS


def in_fer2013_order(answers: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.float64]:
    """A peer's probabilities ``[N, K]`` as ``[N, 7]`` in FER2013's order, float64, rows summing to 1.

    classes: FER2013's name of each of the K outputs; others (contempt) are dropped and the rest rescaled.
    A class that the peer does not have is never its answer.
    """
    if answers.ndim != 2 or answers.shape[1] != len(classes):
        raise ValueError(f"answers are {list(answers.shape)}, expected [N, {len(classes)}]: {', '.join(classes)}")
    if not np.isfinite(answers).all():
        raise ValueError("answers are not finite")
    ordered = np.zeros((len(answers), len(LABELS)))
    for label, name in enumerate(LABELS):
        if name in classes:
            ordered[:, label] = answers[:, classes.index(name)]
    scaled: NDArray[np.float64] = ordered / np.maximum(ordered.sum(1, keepdims=True), np.finfo(float).tiny)
    return scaled


def missing_classes(classes: Sequence[str]) -> list[str]:
    """FER2013's classes that a peer cannot answer."""
    return [name for name in LABELS if name not in classes]


def accuracy(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Share of images whose most probable class is their label, 0..1."""
    return float((probabilities.argmax(1) == labels).mean())
