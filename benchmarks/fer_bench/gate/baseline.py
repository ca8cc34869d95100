"""What a build is held against: a JSON file made from a build that was found good.

It holds answers, not images: for each row the predicted classes, and for the checkpoint the
unfolded net's logits in float64. So a bundle that vouches for itself with a reference of its own
making is still judged by answers that it had no hand in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fer_runtimes.bundle import Reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput
from fer_runtimes.files import whole_file
from fer_runtimes.labels import LABELS
from fer_runtimes.parity import Tolerance

FORMAT = 2
_AGAIN = "make it again with fer-bench gate --update-baseline"


@dataclass(frozen=True)
class Key:
    """Which row: the same runtime, target, precision and form of the net, whatever file it runs."""

    runtime: str
    target: str
    precision: str
    folded: bool

    def __str__(self) -> str:
        return f"{self.runtime}, {self.target} {self.precision}{'' if self.folded else ' unfolded'}"


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference row of the same run; low, high: 95 % interval; queries: that it comes from."""

    value: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Kept:
    """One row of the baseline.

    predictions: int64 ``[N]``; ece: 0..1; tolerance: that it was exported under
    speed: beside ``Baseline.latency_reference``, or None; device: that it was measured on
    macs: multiply-accumulates of an image, None in a baseline made before they were kept
    """

    key: Key
    bundle_sha256: str
    compute: str
    tolerance: Tolerance
    predictions: NDArray[np.int64]
    accuracy: float
    ece: float
    speed: Speed | None = None
    device: str | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Baseline:
    """A whole baseline.

    data: what ``describe`` gives; logits, logits_fp32: ``[N, 7]`` of the unfolded net on those images
    in order, in float64 and as float32 PyTorch gives them
    """

    data: dict[str, Any]
    checkpoint_sha256: str
    logits: NDArray[np.float64]
    logits_fp32: NDArray[np.float32]
    rows: tuple[Kept, ...]
    latency_reference: str | None = None

    def truth(self, images: NDArray[np.uint8], kind: str) -> Reference:
        """The unfolded net's answers as a reference for parity. images: those images, prepared."""
        return Reference(images, self.logits, self.logits_fp32, np.full(len(self.logits), kind))

    def row(self, key: Key) -> Kept | None:
        """The row of that key, or None."""
        return next((row for row in self.rows if row.key == key), None)


def describe(faces: Faces) -> dict[str, Any]:
    """What tells one set of images from another: name, split, count, and a digest over pixels, labels and their order."""
    digest = hashlib.sha256(repr(faces.images.shape).encode())
    digest.update(np.ascontiguousarray(faces.images).tobytes())
    digest.update(faces.labels.astype("<i8").tobytes())
    return {"name": faces.name, "split": faces.split, "images": len(faces), "sha256": digest.hexdigest()}


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Writes a baseline, whole or not at all."""
    content = {
        "format": FORMAT,
        "data": baseline.data,
        "labels": list(LABELS),
        "checkpoint_sha256": baseline.checkpoint_sha256,
        "logits": _packed(baseline.logits, "<f8"),
        "logits_fp32": _packed(baseline.logits_fp32, "<f4"),
        "latency_reference": baseline.latency_reference,
        "rows": [asdict(row) | {"predictions": _packed(row.predictions, "u1")} for row in baseline.rows],
    }
    with whole_file(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_baseline(path: Path, faces: Faces) -> Baseline:
    """Reads a baseline that was made on ``faces``.

    Raises BadInput, naming what is wrong, if it is absent, damaged, cut short, of another format, or of other images.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: no baseline can be read there ({error.strerror}); {_AGAIN}") from error
    except ValueError as error:
        raise BadInput(f"{path}: not a whole baseline ({error}); {_AGAIN}") from error
    if not isinstance(content, dict) or "checkpoint_sha256" not in content:
        raise BadInput(f"{path}: not a baseline of fer-bench gate; {_AGAIN}")
    if content.get("format") != FORMAT:
        raise BadInput(f"{path}: baseline format {content.get('format')}, this version reads {FORMAT}; {_AGAIN}")
    if content.get("labels") != list(LABELS):
        raise BadInput(f"{path}: its classes are {content.get('labels')}, expected {', '.join(LABELS)}; {_AGAIN}")
    try:
        _same_data(path, content["data"], describe(faces))
        baseline = Baseline(
            content["data"],
            str(content["checkpoint_sha256"]),
            _unpacked(content["logits"], "<f8", (len(faces), len(LABELS))).astype(np.float64),
            _unpacked(content["logits_fp32"], "<f4", (len(faces), len(LABELS))).astype(np.float32),
            tuple(_row(row, faces) for row in content["rows"]),
            content["latency_reference"],
        )
    except (KeyError, TypeError, ValueError) as error:  # binascii's error is a ValueError
        raise BadInput(f"{path}: a damaged baseline ({type(error).__name__}: {error}); {_AGAIN}") from error
    if not baseline.rows:
        raise BadInput(f"{path}: a baseline without rows; {_AGAIN}")
    return baseline


def _same_data(path: Path, kept: dict[str, Any], here: dict[str, Any]) -> None:
    if kept["sha256"] != here["sha256"]:
        told = [
            f"{data['images']} images of {data['name']} {data['split']} ({data['sha256'][:12]})"
            for data in (kept, here)
        ]
        raise BadInput(
            f"{path}: a baseline of {told[0]}, this run is on {told[1]}; give the same --data and --split, or {_AGAIN}"
        )


def _row(content: dict[str, Any], faces: Faces) -> Kept:
    predictions = _unpacked(content["predictions"], "u1", (len(faces),)).astype(np.int64)
    speed, device = content["speed"], content["device"]
    row = Kept(
        Key(**content["key"]),
        str(content["bundle_sha256"]),
        str(content["compute"]),
        _tolerance(**content["tolerance"]),
        predictions,
        float(content["accuracy"]),
        float(content["ece"]),
        None if speed is None else _speed(**speed),
        None if device is None else str(device),
        int(content.get("macs") or 0) or None,
    )
    if predictions.max() >= len(LABELS) or float((predictions == faces.labels).mean()) != row.accuracy:
        raise ValueError(f"the predictions of {row.key} are not those that its accuracy was counted from")
    return row


def _tolerance(error_ratio: float | None, mean_kl: float, flip_margin: float) -> Tolerance:
    return Tolerance(None if error_ratio is None else float(error_ratio), float(mean_kl), float(flip_margin))


def _speed(value: float, low: float, high: float, queries: int) -> Speed:
    if not 0 < low <= high < math.inf or not 0 < value < math.inf or queries < 1:
        raise ValueError(f"a speed of {value} within {low} to {high}")
    return Speed(float(value), float(low), float(high), int(queries))


def _packed(values: NDArray[Any], dtype: DTypeLike) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def _unpacked(text: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype).reshape(shape)
    except binascii.Error as error:
        raise ValueError(f"answers that are not base64: {error}") from error
