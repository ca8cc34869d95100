"""Classification figures, with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of confidence, as Guo et al. take them (arXiv 1706.04599)


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


def f1(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 per class, 0..1; NaN for a class that occurs neither in labels nor in predictions."""
    totals = table.sum(0) + table.sum(1)
    scores: NDArray[np.float64] = np.divide(
        2 * np.diag(table), totals, out=np.full(len(table), np.nan), where=totals > 0
    )
    return scores


def macro_f1(table: NDArray[np.int64]) -> float:
    """Unweighted mean of the F1 scores of the classes that occur in labels or predictions, 0..1."""
    return float(np.nanmean(f1(table)))


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities ``[N, 7]`` in float64, from logits ``[N, 7]``: softmax(logits / temperature).

    temperature: above 0, a bundle's own is ``manifest.temperature``. It changes how sure an answer is, never which it is.
    """
    shifted = (logits.astype(np.float64) - logits.max(1, keepdims=True)) / temperature
    exponents = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponents / exponents.sum(1, keepdims=True)
    return probabilities


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], bins: int = BINS
) -> NDArray[np.float64]:
    """Equally wide bins of confidence, float64 ``[bins, 3]``: images, sum of their confidence, right answers.

    probabilities: ``[N, 7]``; confidence is the largest of a row, and a row that is not finite is sure and wrong.
    """
    finite = np.isfinite(probabilities).all(1)
    confidence = np.where(finite, probabilities.max(1), 1.0)
    right = finite & (probabilities.argmax(1) == labels)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return np.stack([np.bincount(place, weights, bins) for weights in (np.ones(len(labels)), confidence, right)], 1)


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[np.int64], bins: int = BINS) -> float:
    """Expected calibration error, 0..1: mean of |accuracy - confidence| over the bins of ``reliability``, weighted by images."""
    images, confidence, right = reliability(probabilities, labels, bins).T
    return float(np.abs(right - confidence).sum() / images.sum())
