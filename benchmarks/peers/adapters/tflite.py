"""Counts the parameters of a TensorFlow Lite file."""

from __future__ import annotations

from math import prod
from pathlib import Path


def count_parameters(file: Path) -> int:
    """Numbers in the file's constant tensors, index and shape constants left out."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    weights = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.INT8, schema.TensorType.UINT8}
    model = flatbuffer_utils.read_model(str(file))
    return sum(
        prod(map(int, tensor.shape))
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in weights and model.buffers[tensor.buffer].data is not None
    )
