"""Classification figures, with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int = 7) -> NDArray[np.int64]:
    """Counts ``[classes, classes]``: row is the true class, column the predicted one."""
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def accuracy(table: NDArray[np.int64]) -> float:
    """Share of images on the diagonal of a confusion table, 0..1."""
    return float(np.trace(table) / table.sum())


def recall(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall per class, 0..1; NaN for a class with no image."""
    totals = table.sum(1)
    shares: NDArray[np.float64] = np.divide(np.diag(table), totals, out=np.full(len(table), np.nan), where=totals > 0)
    return shares


def macro_f1(table: NDArray[np.int64]) -> float:
    """Unweighted mean of the F1 scores of the classes that occur in labels or predictions, 0..1."""
    hits, totals = np.diag(table), table.sum(0) + table.sum(1)
    return float((2 * hits[totals > 0] / totals[totals > 0]).mean())


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities ``[N, 7]`` in float64, from logits ``[N, 7]``."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    exponents = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponents / exponents.sum(1, keepdims=True)
    return probabilities
