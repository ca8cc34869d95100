"""The figures of the gate and their bounds, with numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import metrics

ALPHA = 0.05
Z_95 = 1.645  # one-sided 95 % of a normal distribution
Z_TWO_SIDED = 1.96


@dataclass(frozen=True)
class Bounds:
    """What a build may cost.

    accuracy_loss: share of images by which accuracy may be lower
    flips_floor, flips_share: right answers that may turn wrong in a class: so many, or that share of its images
    ece_rise: rise of the expected calibration error, 0..1
    slowdown: latency ratio, and multiply-accumulates, over the baseline's
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


@dataclass(frozen=True)
class Loss:
    """Accuracy lost between two answers to the same images.

    worse, better: right answers turned wrong, wrong ones turned right, of ``images``
    upper: of the share lost, its upper 95 % bound
    chance: that so many of the changed verdicts, or more, are losses where either way is as likely (the exact sign test)
    """

    worse: int
    better: int
    images: int
    upper: float
    chance: float

    def within(self, bound: float) -> bool | None:
        """True where at most ``bound`` is lost with 95 % confidence, False where a loss is shown with as much, None where neither is."""
        return True if self.upper <= bound else False if self.chance <= ALPHA else None


def loss(was_right: NDArray[np.bool_], is_right: NDArray[np.bool_]) -> Loss:
    """Both ``[N]``, of the same images.

    Pairing is what makes it sharp: only images whose verdict changed add to the variance. Two
    unpaired accuracies of 0.70 on 3,589 images differ by 1.1 points (one standard error) though
    nothing changed.
    """
    return loss_of(int((was_right & ~is_right).sum()), int((~was_right & is_right).sum()), len(is_right))


def loss_of(worse: int, better: int, images: int) -> Loss:
    """The same from the counts."""
    return Loss(worse, better, images, loss_bound(worse, better, images), sign_test(worse, better))


def loss_bound(worse: int, better: int, images: int, z: float = Z_95) -> float:
    """Upper bound of the share lost, at 95 % or as ``z`` says: Tango's score bound for paired proportions (1998).

    The largest loss that a test of it would not reject. It keeps its confidence at the small counts
    that occur here: none of 1,400 images changed is at most 0.19 % lost, where the normal
    approximation would say 0.
    """
    low, high = (worse - better) / images, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        rejected = worse - better - images * middle <= -z * math.sqrt(_variance(worse, better, images, middle))
        low, high = (low, middle) if rejected else (middle, high)
    return high


def loss_interval(worse: int, better: int, images: int) -> tuple[float, float]:
    """Two-sided 95 % interval of the share lost, by the same bound from both sides; a gain is below 0."""
    return -loss_bound(better, worse, images, Z_TWO_SIDED), loss_bound(worse, better, images, Z_TWO_SIDED)


def _variance(worse: int, better: int, images: int, lost: float) -> float:
    """Of ``worse - better`` where the share ``lost`` is true; what else is unknown has its likeliest value then."""
    b = (2 * images - worse + better) * lost - worse - better
    turned_right = (math.sqrt(b * b + 8 * images * better * lost * (1 - lost)) - b) / (4 * images)
    return images * (2 * turned_right + lost * (1 - lost))


def sign_test(worse: int, better: int) -> float:
    """Chance of ``worse`` heads or more in ``worse + better`` throws of a coin."""
    changed = worse + better
    ways = every = math.comb(changed, worse)
    for heads in range(worse, changed):
        ways = ways * (changed - heads) // (heads + 1)
        every += ways
    return every / (1 << changed)


def images_needed(found: Loss, bound: float) -> int | None:
    """How many images would tell, in steps of a tenth, if as many in a hundred changed; None if a million would not."""
    scale = 1.0
    while (images := int(found.images * scale)) <= 1_000_000:
        more = loss_of(round(found.worse * scale), round(found.better * scale), images)
        if more.within(bound) is not None:
            return images
        scale *= 1.1
    return None


def calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Expected calibration error of softmax(logits), 0..1; an answer that is not finite counts as sure and wrong.

    A bundle's temperature has no part in it: the gate guards what the graph gives.
    """
    probabilities = np.full(logits.shape, np.nan)
    finite = np.isfinite(logits).all(1)
    probabilities[finite] = metrics.softmax(logits[finite])
    return metrics.calibration_error(probabilities, labels)


def top1(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """Predicted classes ``[N]`` of logits ``[N, 7]``; not-a-number never wins."""
    classes: NDArray[np.int64] = np.nan_to_num(logits, nan=-np.inf).argmax(1)
    return classes
