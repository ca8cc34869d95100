"""How much rounding to int8 costs, layer by layer: foretold from the weights, and measured on real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_export.quantise import HEAVY, MOVES, answers

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Readiness:
    """What a layer's weights foretell, before any calibration.

    range_ratio: largest over smallest max |weight| of an output channel; one scale for all costs the smallest channel this factor
    per_tensor_db, per_channel_db: signal to rounding noise of the weights with one scale, and with one a channel
    """

    node: str
    layer: str
    kind: str
    range_ratio: float
    per_tensor_db: float
    per_channel_db: float


@dataclass(frozen=True)
class Noise:
    """One layer's share in the loss. logits_db: signal to noise of the logits with this layer alone in int8; None where it stays in float."""

    readiness: Readiness
    logits_db: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, flat."""
        return {**asdict(self.readiness), "logits_db": self.logits_db}


def readiness(model: onnx.ModelProto) -> list[Readiness]:
    """Each convolution and matrix product with constant weights, of a float graph, in its order."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    rows = []
    for node in model.graph.node:
        if node.op_type not in HEAVY or node.input[1] not in constants:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        channels = np.moveaxis(weights, _channel_axis(node, weights.ndim), 0).reshape(_channels(node, weights), -1)
        ranges = np.abs(channels).max(1)
        used = ranges[ranges > 0]
        layer = node.input[1].removeprefix("net.").removesuffix(".weight").removesuffix(".reparam_conv")
        grouped = any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
        rows.append(
            Readiness(
                node.name,
                layer,
                f"{'grouped ' if grouped else ''}{node.op_type}",
                float(used.max() / used.min()) if len(used) else 1.0,
                decibel(channels, channels - _rounded(channels, ranges.max())),
                decibel(channels, channels - _rounded(channels, ranges[:, None])),
            )
        )
    return rows


def measure(
    model: onnx.ModelProto, quantised: onnx.ModelProto, images: NDArray[np.uint8], truth: NDArray[np.float32]
) -> list[Noise]:
    """Noise of each layer, worst first. truth: logits of ``model``, the float graph, on ``images``."""
    rows = []
    for row in readiness(model):
        alone = isolate(model, quantised, row.node)
        found = None if alone is None else decibel(_centred(truth), _centred(truth) - _centred(answers(alone, images)))
        rows.append(Noise(row, found))
    return sorted(rows, key=lambda row: np.inf if row.logits_db is None else row.logits_db)


def isolate(model: onnx.ModelProto, quantised: onnx.ModelProto, name: str) -> onnx.ModelProto | None:
    """The float graph with one layer as it stands in the quantised one, bias included; None if it is in float there."""
    import onnx

    made_by = {output: node for node in quantised.graph.node for output in node.output}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    wanted = next(node for node in quantised.graph.node if node.name == name)
    reader = next(node for node in nodes if node.name == name)
    names: set[str] = set()
    added: list[tuple[str, list[onnx.NodeProto]]] = []
    for place, tensor in enumerate(wanted.input[:2]):
        of, at = name, place
        source = made_by.get(tensor)
        while source is not None and source.op_type in MOVES:  # the pair stands before what only hands values on
            of, at = source.name, 0
            source = made_by.get(source.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            return None
        chain = [source]
        if (quantiser := made_by.get(source.input[0])) is not None:
            chain.insert(0, quantiser)
        next(node for node in nodes if node.name == of).input[at] = source.output[0]
        added.append((of, chain))
        names |= {one for node in chain for one in node.input}
    if len(wanted.input) > 2:
        bias = next(tensor for tensor in quantised.graph.initializer if tensor.name == wanted.input[2])
        mended = onnx.TensorProto()
        mended.CopyFrom(bias)
        mended.name = f"{name}.int8_bias"
        reader.input[2] = mended.name
        result.graph.initializer.append(mended)
    present = {tensor.name for tensor in result.graph.initializer}
    result.graph.initializer.extend(tensor for tensor in quantised.graph.initializer if tensor.name in names - present)
    for of, chain in added:
        spot = next(i for i, node in enumerate(nodes) if node.name == of)
        nodes[spot:spot] = [node for node in chain if node not in nodes]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def decibel(signal: NDArray[np.floating], noise: NDArray[np.floating]) -> float:
    """Ratio of their energies, dB; 200 at most, where there is hardly any noise."""
    power = float(np.square(signal, dtype=np.float64).sum()), float(np.square(noise, dtype=np.float64).sum())
    return 200.0 if power[1] <= 1e-20 * power[0] else float(10 * np.log10(power[0] / power[1]))


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """What is common to all classes changes no probability."""
    wide = logits.astype(np.float64)
    return wide - wide.mean(1, keepdims=True)  # type: ignore[no-any-return]


def _rounded(weights: NDArray[np.float64], limit: NDArray[np.float64] | float) -> NDArray[np.float64]:
    step = np.where(np.asarray(limit) > 0, np.asarray(limit) / 127, 1)
    return (weights / step).round() * step


def _channel_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """Where a weight's output channels are: first in Conv and Gemm with transB, second in ConvTranspose and Gemm, last in MatMul."""
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if transposed else 1, "MatMul": dimensions - 1}[node.op_type]


def _channels(node: onnx.NodeProto, weights: NDArray[np.float64]) -> int:
    return int(weights.shape[_channel_axis(node, weights.ndim)])
