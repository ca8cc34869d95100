"""Temperature scaling: one number that logits are divided by, so that a probability of 0.8 is right 8 times in 10.

Guo et al., "On Calibration of Modern Neural Networks", 2017 (arXiv 1706.04599). It is fitted on one
half of held-out faces and judged on the other, since a figure on the half it was fitted on is no
test. Order and argmax of the logits stay as they are.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import metrics
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput

LOWEST, HIGHEST = 0.05, 20.0
FEWEST = 100  # faces a half; on fewer, chance moves the temperature by more than it mends
SEED = 0


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood of softmax(logits / temperature).

    logits: ``[N, 7]``; labels: ``[N]``. Raises BadInput where logits are not finite, or where the best
    lies beyond 0.05 or 20: all answers right bound it as little as answers by chance.
    """
    if not np.isfinite(logits).all():
        raise BadInput("a temperature needs finite logits; these are not")
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    own = z[np.arange(len(z)), labels]

    def slope(temperature: float) -> float:
        """Of the likelihood's negative log by 1 / temperature, in which it is convex: mean logit less the label's."""
        return float(((metrics.softmax(z, temperature) * z).sum(1) - own).mean())

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if not slope(LOWEST) > 0 > slope(HIGHEST):
        raise BadInput(
            f"{len(z)} faces, {(z.argmax(1) == labels).mean():.1%} answered right, bound no temperature; give more, or other ones"
        )
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(middle)


def first_half(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int = SEED) -> NDArray[np.bool_]:
    """Bool ``[N]``: the half to fit on, half of each class; copies of a picture stand on the same side.

    A picture's side depends on the pictures of its class and the seed alone, not on their order, nor on the kind of
    file that they come from.
    """
    digests = _digests(images, seed)
    classes: dict[bytes, int] = {}
    for digest, label in zip(digests, labels.tolist(), strict=True):  # copies may be labelled differently
        classes[digest] = min(label, classes.get(digest, label))
    ranks: dict[int, int] = {}
    fitted = {}
    for digest in sorted(classes):
        rank = ranks[classes[digest]] = ranks.get(classes[digest], -1) + 1
        fitted[digest] = rank % 2 == 0
    return np.array([fitted[digest] for digest in digests], dtype=bool)


def half_digest(images: NDArray[np.uint8]) -> str:
    """SHA-256 over these pictures, whatever their order."""
    return hashlib.sha256(b"".join(sorted(_digests(images, SEED)))).hexdigest()


def calibrate(logits: NDArray[np.floating], faces: Faces) -> dict[str, Any]:
    """The temperature fitted on the first half of ``faces``, as checkpoints and manifests record it (docs/calibration.md).

    logits: ``[N, 7]`` of the faces. Faces that stand in the training split too (``faces.seen``) are left out of both
    halves: a net is surer of what it knows by heart. Raises BadInput as ``fit_temperature``, and for too few faces.
    """
    half = first_half(faces.images, faces.labels)
    unseen = np.ones(len(faces), dtype=bool) if faces.seen is None else ~faces.seen
    fitted, held_out = half & unseen, ~half & unseen
    if min(fitted.sum(), held_out.sum()) < FEWEST:
        raise BadInput(
            f"{faces.name} {faces.split} has {unseen.sum()} faces that are not in the training split; a temperature needs {2 * FEWEST}"
        )
    temperature = fit_temperature(logits[fitted], faces.labels[fitted])
    return {
        "temperature": temperature,
        "fitted_on": {
            "data": faces.name,
            "split": faces.split,
            "images": int(fitted.sum()),
            "half_sha256": half_digest(faces.images[half]),
        },
        "held_out": {"images": int(held_out.sum())} | judge(logits[held_out], faces.labels[held_out], temperature),
    }


def judge(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> dict[str, dict[str, float]]:
    """``nll`` (mean, nats) and ``calibration_error`` (0..1), each without (``raw``) and with (``scaled``) the temperature."""
    found: dict[str, dict[str, float]] = {"nll": {}, "calibration_error": {}}
    for name, divisor in (("raw", 1.0), ("scaled", temperature)):
        probabilities = metrics.softmax(logits, divisor)
        own = probabilities[np.arange(len(labels)), labels]
        found["nll"][name] = float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())
        found["calibration_error"][name] = metrics.calibration_error(probabilities, labels)
    return found


def held_out_part(faces: Faces, record: dict[str, Any] | None) -> tuple[NDArray[np.bool_], str]:
    """Which of ``faces`` (bool ``[N]``) may judge a temperature, and what they are in a few words.

    Where the record's half is among them, that is the other half; copies of training faces are left out where they are known.
    """
    chosen, words = np.ones(len(faces), dtype=bool), "all"
    if record is not None:
        half = first_half(faces.images, faces.labels)
        if half_digest(faces.images[half]) == record["fitted_on"]["half_sha256"]:
            chosen, words = ~half, "the half that it was not fitted on"
    if faces.seen is not None and faces.seen.any():
        chosen, words = chosen & ~faces.seen, f"{words}, unseen in training"
    return chosen, words


def in_words(record: dict[str, Any]) -> str:
    """What was fitted on what, and what it changed, in one line."""
    fitted, held = record["fitted_on"], record["held_out"]
    error, nll = held["calibration_error"], held["nll"]
    return (
        f"temperature {record['temperature']:.3f}, fitted on {fitted['images']} faces of {fitted['data']} {fitted['split']}; on the other "
        f"{held['images']}: calibration error {error['raw']:.4f} before, {error['scaled']:.4f} after; "
        f"negative log-likelihood {nll['raw']:.4f} before, {nll['scaled']:.4f} after"
    )


def check_record(record: Any, source: str) -> None:
    """Raises BadInput unless ``record``, from a file called ``source``, is None or as ``calibrate`` gives it."""
    if record is None:
        return
    try:
        fitted, held = record["fitted_on"], record["held_out"]
        texts = [fitted[key] for key in ("data", "split", "half_sha256")]
        counts = [fitted["images"], held["images"]]
        figures = [held[key][name] for key in ("nll", "calibration_error") for name in ("raw", "scaled")]
        temperature = record["temperature"]
        whole = (
            all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count > 0 for count in counts)
            and all(type(value) in (int, float) and math.isfinite(value) for value in (*figures, temperature))
        )
    except (KeyError, TypeError, OverflowError):
        raise BadInput(f"{source}: what it says of probabilities is damaged; calibrate and export it again") from None
    if not whole or not temperature > 0:
        raise BadInput(
            f"{source}: temperature {str(temperature)[:40]} and what stands beside it, expected finite figures and a "
            "temperature above 0; calibrate and export it again"
        )


def _digests(images: NDArray[np.uint8], seed: int) -> list[bytes]:
    salt = str(seed).encode()
    return [hashlib.sha256(salt + np.asarray(image).tobytes()).digest() for image in images]
