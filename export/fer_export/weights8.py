"""Weights in int8 where computation stays in float: an ONNX graph that stores them so, for every engine that reads it.

Symmetric, one scale for each output channel: a weight becomes ``scale * q`` with q in -127..127 and
scale the channel's largest magnitude over 127. Rounding to nearest here, it leaves weights that lie on that grid already
(``rounding``) as they are. It makes files smaller, not engines faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

# Tensors of fewer elements stay in float: a first convolution or a small head, where int8 costs accuracy and saves nothing.
SMALLEST = 2048
_LEVELS = 127


def quantise(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Int8 values of a weight's shape, and float32 scales, one for each channel along ``axis``.

    A channel of zeros has scale 1. Values are nearest to ``weight / scale``, halves to even.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = np.abs(weight.astype(np.float32)).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(_LEVELS), np.float32(1)).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale.ravel()


def store_weights_in_int8(model: onnx.ModelProto) -> list[str]:
    """Puts int8 and a DequantizeLinear in the place of every large weight, in the model given; the names of those weights.

    Large is ``SMALLEST`` elements or more. Biases and everything else stay as they are, and so do
    the tensors' names: a reader of the weight reads what DequantizeLinear gives.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    axes = _channel_axes(model)
    chosen = [tensor for tensor in graph.initializer if tensor.name in axes and np.prod(tensor.dims) >= SMALLEST]
    nodes = []
    for tensor in chosen:
        axis = axes[tensor.name] % len(tensor.dims)
        values, scale = quantise(numpy_helper.to_array(tensor), axis)
        stored, scales = f"{tensor.name}_int8", f"{tensor.name}_scale"
        graph.initializer.extend([numpy_helper.from_array(values, stored), numpy_helper.from_array(scale, scales)])
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [stored, scales], [tensor.name], f"{tensor.name}_dequantise", axis=axis
            )
        )
        graph.initializer.remove(tensor)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return [tensor.name for tensor in chosen]


def _channel_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis of output channels of each float32 initialiser that only convolutions and products read, as their weight."""
    import onnx

    axes: dict[str, set[int | None]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            axes.setdefault(name, set()).add(_weight_axis(node) if position == 1 else None)
    outputs = {value.name for value in model.graph.output}
    return {
        tensor.name: axis
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and tensor.name not in outputs
        for axis in axes.get(tensor.name, set())
        if axis is not None and len(axes[tensor.name]) == 1
    }


def _weight_axis(node: onnx.NodeProto) -> int | None:
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return {"Conv": 0, "MatMul": -1}.get(node.op_type)
