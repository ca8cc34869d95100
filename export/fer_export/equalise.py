"""Evens out the ranges of a tensor's channels before it gets one int8 scale, without changing one bit of the float answers.

What a convolution writes to channel i is divided by s_i, and what the next one reads from it multiplied: between them
stand only operators that commute with a positive factor, such as ReLU (Nagel et al., arXiv 1906.04721). Weights have a
scale a channel of their own, so it is the activations that gain; how far to go is weighed against the reader's weights as
in SmoothQuant (Xiao et al., arXiv 2211.10438), s_i = sqrt(max |x_i| / max |w_i|). Here s_i is a power of two, so nothing is rounded.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fer_export.quantise import outputs

if TYPE_CHECKING:
    import onnx

# Operators f with f(s x) = s f(x) for s > 0, channel by channel.
COMMUTING = (
    "AveragePool",
    "Flatten",
    "GlobalAveragePool",
    "Identity",
    "LeakyRelu",
    "MaxPool",
    "ReduceMean",
    "Relu",
    "Reshape",
)

# A channel that no image makes active counts as one of this share of the tensor's range. RepVGG's identity branch gives
# such channels the largest weights of all (BatchNorm divides by their spread), and each spoils a whole row's scale.
FLOOR = 1e-3


def equalise(model: onnx.ModelProto, images: NDArray[np.uint8]) -> tuple[onnx.ModelProto, int]:
    """A float graph with the same answers and more even channels, and how many pairs of layers were evened out.

    images: uint8 ``[N, 1, S, S]``, as the graph takes them, on which the channels' ranges are found
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    pairs = _pairs(result)
    ranges = _ranges(result, [reader.input[0] for _, reader, _ in pairs], images)
    for writer, reader, axis in pairs:
        weights = numpy_helper.to_array(constants[reader.input[1]]).copy()
        factors = _factors(
            ranges[reader.input[0]], np.abs(np.moveaxis(weights, axis, 0)).reshape(weights.shape[axis], -1).max(1)
        )
        weights *= np.expand_dims(factors, [other for other in range(weights.ndim) if other != axis])
        constants[reader.input[1]].CopyFrom(numpy_helper.from_array(weights, reader.input[1]))
        for name in writer.input[1:]:
            values = numpy_helper.to_array(constants[name])
            made = values / factors.reshape(-1, *[1] * (values.ndim - 1))
            constants[name].CopyFrom(numpy_helper.from_array(made, name))
    return result, len(pairs)


def _pairs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto, int]]:
    """Layers (writer, reader) with nothing but commuting operators between them, nobody else reading on the way, and the axis of the reader's weights that is read."""
    nodes = model.graph.node
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    made_by = {name: node for node in nodes for name in node.output}
    uses = Counter(name for node in nodes for name in node.input)
    uses.update(output.name for output in model.graph.output)
    found = []
    for reader in nodes:
        axis = _read_axis(reader, shapes)
        writer = made_by.get(reader.input[0]) if axis is not None else None
        alone = writer is not None and uses[reader.input[0]] == 1
        while alone and writer is not None and writer.op_type in COMMUTING:
            alone = uses[writer.input[0]] == 1
            writer = made_by.get(writer.input[0])
        if not alone or writer is None or axis is None or not _writes_by_channel(writer, shapes):
            continue
        own = [*writer.input[1:], reader.input[1]]
        if shapes[writer.input[1]][0] == shapes[reader.input[1]][axis] and all(uses[name] == 1 for name in own):
            found.append((writer, reader, axis))
    return found


def _read_axis(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """The axis of a layer's constant weights along which it reads channels; None for another operator, or groups of several."""
    if node.op_type not in ("Conv", "Gemm") or node.input[1] not in shapes:
        return None
    given = {entry.name: entry.i for entry in node.attribute}
    if node.op_type == "Gemm":
        return None if given.get("transA") else 1 if given.get("transB") else 0
    if given.get("group", 1) == 1:
        return 1
    return 0 if given["group"] == shapes[node.input[1]][0] and shapes[node.input[1]][1] == 1 else None


def _writes_by_channel(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the first axis of a layer's constants, all of them, is the channel that it writes."""
    across = any(entry.name == "transB" and entry.i for entry in node.attribute)
    kind = node.op_type == "Conv" or (node.op_type == "Gemm" and across)
    return kind and all(name in shapes and len(shapes[name]) > 0 for name in node.input[1:])


def _ranges(model: onnx.ModelProto, names: list[str], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Of each tensor ``[N, C, ...]``: max |x| of each channel over the images."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    found = outputs(watched, images, names)
    return {
        name: np.abs(np.moveaxis(values, 1, 0)).reshape(values.shape[1], -1).max(1) for name, values in found.items()
    }


def _factors(activations: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """s_i ``[C]``, powers of two around 1; 1 where a channel is never read."""
    used = (weights > 0) & bool(activations.any())
    active = np.maximum(activations, FLOOR * activations.max())
    exponents = np.zeros(len(activations), np.float32)
    exponents[used] = np.log2(active[used] / weights[used]) / 2
    exponents[used] -= np.median(exponents[used]) if used.any() else 0
    return np.exp2(np.round(exponents)).astype(np.float32)
