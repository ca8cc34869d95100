"""The figures of the gate and their bounds, with numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.metrics import softmax

Z_95 = 1.645  # one-sided 95 % of a normal distribution
ECE_BINS = 15


@dataclass(frozen=True)
class Bounds:
    """What a build may cost.

    accuracy_loss: share of images by which accuracy may be lower, to be excluded with 95 % confidence
    flips_floor, flips_share: right answers that may turn wrong in a class: so many, or that share of its images
    ece_rise: rise of the expected calibration error, 0..1
    slowdown: latency ratio over the baseline's
    grey_levels: by how much a prepared pixel may differ from exact arithmetic
    """

    accuracy_loss: float = 0.003
    flips_floor: int = 1
    flips_share: float = 0.02
    ece_rise: float = 0.01
    slowdown: float = 1.25
    grey_levels: float = 1.001  # two roundings to bytes

    def flips(self, images: int) -> int:
        """Right answers that may turn wrong in a class of ``images``."""
        return max(self.flips_floor, int(self.flips_share * images))


def loss_bound(was_right: NDArray[np.bool_], is_right: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Right-to-wrong count, wrong-to-right count, and the upper 95 % bound of the loss of accuracy.

    Both ``[N]``, of the same images. Pairing is what makes it sharp: only images whose verdict
    changed add to the variance. Two unpaired accuracies of 0.70 on 3,589 images differ by 1.1 points
    (one standard error) though nothing changed.
    """
    worse, better, n = int((was_right & ~is_right).sum()), int((~was_right & is_right).sum()), len(is_right)
    variance = worse + better - (worse - better) ** 2 / n
    return worse, better, (worse - better) / n + Z_95 * math.sqrt(variance) / n


def calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Expected calibration error, 0..1: mean |confidence - accuracy| over 15 equal bins of confidence, weighted by images.

    An answer that is not finite counts as fully confident and wrong.
    """
    finite = np.isfinite(logits).all(1)
    confidence, right = np.ones(len(labels)), np.zeros(len(labels), dtype=bool)
    if finite.any():
        confidence[finite] = softmax(logits[finite]).max(1)
        right[finite] = logits[finite].argmax(1) == labels[finite]
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, confidence - right, ECE_BINS)  # per bin: images * (mean confidence - accuracy)
    return float(np.abs(gaps).sum() / len(labels))


def top1(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Predicted classes ``[N]`` of logits ``[N, 7]``; not-a-number never wins."""
    classes: NDArray[np.int64] = np.nan_to_num(logits, nan=-np.inf).argmax(1)
    return classes
