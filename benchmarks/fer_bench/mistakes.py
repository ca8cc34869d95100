"""The images that a person should look at: where a row departs from its reference, and where it is most surely wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import metrics

SHOWN = 12


def disagreements(
    logits: NDArray[np.floating],
    truth: NDArray[np.floating] | None,
    labels: NDArray[np.int64],
    temperature: float = 1.0,
) -> list[dict[str, Any]] | None:
    """Up to 12 images that the row answers otherwise than its reference, the widest margin first.

    logits, truth: ``[N, 7]``, of the row and of its reference; labels: ``[N]``;
    temperature: the bundle's, for the probabilities shown.
    None without a reference's logits, an empty list where all agree.
    """
    if truth is None:
        return None
    margins = _margins(truth)
    departs = np.flatnonzero(logits.argmax(1) != truth.argmax(1))
    return _described(departs[np.argsort(-margins[departs], kind="stable")], logits, truth, labels, temperature)


def worst_mistakes(
    logits: NDArray[np.floating],
    truth: NDArray[np.floating] | None,
    labels: NDArray[np.int64],
    temperature: float = 1.0,
) -> list[dict[str, Any]]:
    """Up to 12 images that the row answers otherwise than their label, the most probable answer first.

    Arguments as of ``disagreements``; ``reference`` and ``margin`` are None without a reference's logits.
    """
    probabilities = metrics.softmax(logits, temperature).max(1)
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    return _described(wrong[np.argsort(-probabilities[wrong], kind="stable")], logits, truth, labels, temperature)


def _margins(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """By how much the best logit of each image exceeds the second, float ``[N]``."""
    ordered = np.sort(logits, axis=1)
    margins: NDArray[np.floating] = ordered[:, -1] - ordered[:, -2]
    return margins


def _described(
    chosen: NDArray[np.intp],
    logits: NDArray[np.floating],
    truth: NDArray[np.floating] | None,
    labels: NDArray[np.int64],
    temperature: float,
) -> list[dict[str, Any]]:
    chosen = chosen[:SHOWN]
    if not len(chosen):
        return []
    probabilities = metrics.softmax(logits[chosen], temperature).max(1)
    margins = None if truth is None else _margins(truth[chosen])
    return [
        {
            "image": int(image),
            "label": int(labels[image]),
            "reference": None if truth is None else int(truth[image].argmax()),
            "answer": int(logits[image].argmax()),
            "margin": None if margins is None else _finite(margins[i]),
            "probability": _finite(probabilities[i]),
        }
        for i, image in enumerate(chosen)
    ]


def _finite(value: float) -> float | None:
    """A plain float; None for what an overflow left, which JSON cannot hold."""
    return float(value) if np.isfinite(value) else None
