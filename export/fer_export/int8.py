"""From a source and calibration faces to one INT8 graph whose accuracy is within a budget, or to an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_export.calibration import Calibration
from fer_export.reference import hard_images
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.images import prepare

if TYPE_CHECKING:
    import onnx

    from fer_export.noise import Noise
    from fer_export.pipeline import Source
    from fer_train.deploy import Deployable

MAX_DROP = 0.005
QUANTISER = "nncf"
NOISE_IMAGES = 128  # a ratio of energies needs few


@dataclass(frozen=True)
class HeldOut:
    """Faces on which every engine is held to the budget.

    images: uint8 ``[N, 1, S, S]``; labels: ``[N]``; truth: float32 logits ``[N, 7]`` of the float graph
    max_drop: share of right answers that may be lost
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    truth: NDArray[np.float32]
    max_drop: float

    def judge(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Accuracy of both, drop, agreement, and how many answers turned from right to wrong and back."""
        before, after = self.truth.argmax(1) == self.labels, logits.argmax(1) == self.labels
        return {
            "images": len(self.labels),
            "fp32": float(before.mean()),
            "int8": float(after.mean()),
            "drop": float(before.mean() - after.mean()),
            "max_drop": self.max_drop,
            "agreement": float((self.truth.argmax(1) == logits.argmax(1)).mean()),
            "right_to_wrong": int((before & ~after).sum()),
            "wrong_to_right": int((~before & after).sum()),
        }

    def check(self, logits: NDArray[np.float32], what: str) -> dict[str, Any]:
        """``judge``; raises CheckFailed where the drop is over the budget or an answer is not finite."""
        found = self.judge(logits)
        if not np.isfinite(logits).all():
            raise CheckFailed(f"{what} gives answers that are not finite on the held-out faces")
        if found["drop"] > self.max_drop:
            raise CheckFailed(
                f"{what} reaches {found['int8']:.2%} on {found['images']} held-out faces, {found['drop'] * 100:.2f} points under float32's "
                f"{found['fp32']:.2%}; --max-drop allows {self.max_drop * 100:.2f}"
            )
        return found


@dataclass(frozen=True)
class Quantised:
    """The INT8 graph and how it came about.

    net: that it was made of, evened out, its weights on their grid, in float; images: that calibrated it, uint8 ``[N, 1, S, S]``, for a target with
    a quantiser of its own; record: for the manifest's ``calibration``; layers: worst first; kept: names of the graph's nodes
    that are in float for the budget's sake
    """

    model: onnx.ModelProto
    net: Deployable
    images: NDArray[np.uint8]
    held_out: HeldOut
    record: dict[str, Any]
    layers: tuple[Noise, ...]
    kept: tuple[str, ...] = ()

    def record_of(self, quantiser: str) -> dict[str, Any]:
        """``record``, or that of a target whose own quantiser rounds all but ``kept``, by the largest and least values seen."""
        if quantiser == QUANTISER:
            return self.record
        own = {"quantiser": f"{quantiser} {_version(quantiser)}", "method": "minmax", "layers": []}
        return self.record | own | {"keep_float": list(self.kept), "quantised": self.record["of"] - len(self.kept)}


def quantise_source(
    source: Source,
    calibration: Calibration,
    method: str = "mse",
    max_drop: float = MAX_DROP,
    say: Callable[[str], None] = lambda _: None,
) -> Quantised:
    """Quantises the source's graph; leaves the noisiest layers in float, twice as many at each step, until the budget holds.

    Channels are evened out first (``equalise``). The float graph is then compared with the reference: what is wrong before
    rounding is not excused by it. Then weights are rounded (``round_weights``), and the graph's activations calibrated.

    Raises CheckFailed where the float graph is wrong, or where the budget cannot be held with half of the layers in float.
    """
    from fer_export.noise import measure, readiness
    from fer_export.quantise import (
        METHODS,
        answers,
        check_installed,
        float_nodes,
        heavy_nodes,
        quantise_once,
        times_as_long,
    )
    from fer_export.rounding import parameters_of, round_weights, told, with_float
    from fer_export.targets import FP32
    from fer_export.targets.to_onnx import graph
    from fer_export.targets.to_tensorrt import normalisation
    from fer_runtimes.parity import check, compare
    from fer_train.equalise import equalise

    if method not in METHODS:
        raise BadInput(f"calibration method {method!r} is unknown; known are {', '.join(METHODS)}")
    check_installed()
    size, crop = source.checkpoint.input["size"], source.checkpoint.input["crop"]
    to_calibrate = calibrating_images(calibration, size, crop)
    even, pairs = equalise(source.net, to_calibrate)
    model = graph(replace(source, net=even))
    check(compare(source.reference, answers(model, source.reference.images)), FP32, "the graph to be quantised")
    faces = calibration.held_out
    images = prepare(np.asarray(faces.images), size, crop)
    held_out = HeldOut(images, faces.labels, answers(model, images), max_drop)
    ready = readiness(model)
    widest = max(ready, key=lambda row: row.range_ratio)
    say(
        f"int8: {len(ready)} layers, {pairs} pairs of them equalised; weight ranges of channels differ most in {widest.layer}, {widest.range_ratio:.0f} times: "
        f"{widest.per_tensor_db:.0f} dB with one scale, {widest.per_channel_db:.0f} dB with one a channel"
    )
    outside = {node.name for node in normalisation(model)}
    weights = parameters_of(model, even)
    rounded, rounded_layers = round_weights(even, to_calibrate, 1, source.size.macs)
    say(f"int8: {told(rounded_layers, source.size)}")
    layers: list[Noise] = []
    kept: list[str] = []
    while True:
        net = with_float(rounded, even, [weights[name] for name in kept if name in weights])
        quantised = quantise_once(graph(replace(source, net=net)), to_calibrate, method, outside | set(kept))
        found = held_out.judge(answers(quantised, images))
        if not layers:
            whole = quantised
            layers = measure(model, quantised, images[:NOISE_IMAGES], held_out.truth[:NOISE_IMAGES])
        if found["drop"] <= max_drop:
            break
        more = max(1, 2 * len(kept))
        if more > len(layers) // 2:
            held_out.check(
                answers(quantised, images),
                f"int8 with {len(kept)} of {len(layers)} layers left in float" if kept else "int8",
            )
        kept = [row.readiness.node for row in layers[:more]]
        say(
            f"int8: {found['drop'] * 100:.2f} points lost, {max_drop * 100:.2f} allowed; in float: {_named(layers, kept)}"
        )
    left = float_nodes(quantised)
    longer = times_as_long(quantised, whole, images) if kept else None
    if longer is not None:
        say(f"int8: that takes {longer:.2f} times as long as all layers in int8 (ONNX Runtime here, one thread)")
    say(
        f"int8: {len(heavy_nodes(model)) - len(left)} of {len(heavy_nodes(model))} convolutions and products quantised, "
        f"{found['int8']:.2%} on {found['images']} held-out faces, float32 {found['fp32']:.2%}, agreement {found['agreement']:.2%}; "
        f"noisiest is {layers[0].readiness.layer}, {layers[0].logits_db or 0:.0f} dB"
    )
    record = calibration.record | {
        "method": method,
        "quantiser": f"{QUANTISER} {_version(QUANTISER)}",
        "no_faces": len(to_calibrate) - len(calibration.images),
        "equalised": pairs,
        "rounded_as_optq": rounded_layers,
        "quantised": len(heavy_nodes(model)) - len(left),
        "of": len(heavy_nodes(model)),
        "keep_float": left,
        "keep_float_times_as_long": longer,
        "layers": [row.to_dict() for row in layers],
    }
    record["held_out"] = calibration.record["held_out"] | found
    return Quantised(quantised, net, to_calibrate, held_out, record, tuple(layers), tuple(kept))


def calibrating_images(calibration: Calibration, size: int, crop: float) -> NDArray[np.uint8]:
    """The calibration's faces, uint8 ``[N, 1, S, S]``, and before them a few pictures that are none.

    On faces alone a channel that only stripes make active would be clipped, and a net be sure of another answer there.
    """
    faces = prepare(calibration.images, size, crop)
    others = [images for _, images in hard_images(faces[:8], size, np.random.default_rng(1))]
    return np.concatenate([*others, faces])


def _named(layers: list[Noise], nodes: list[str]) -> str:
    return ", ".join(row.readiness.layer for row in layers if row.readiness.node in nodes)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
