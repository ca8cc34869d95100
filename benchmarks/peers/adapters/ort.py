"""What the peers that are an ONNX file share: open it on the CPU with so many threads, count it, feed it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.opened import Opened, Predict


def open_onnx(file: Path, threads: int, prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Opened:
    """``prepare``: uint8 ``[N, 48, 48]`` to the network's float32 input; the first output is taken as it is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), session_options(threads), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        answers: NDArray[np.float32] = session.run(None, {name: prepare(images)})[0]
        return answers

    return Opened(one_at_a_time(predict), file.stat().st_size, count_parameters(file))


def session_options(threads: int):  # type: ignore[no-untyped-def]  # onnxruntime has no types
    """Options of a session with so many threads, which says errors only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def count_parameters(file: Path) -> int:
    """Floating-point numbers in the file's initialisers."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    return sum(prod(tensor.dims) for tensor in onnx.load(file).graph.initializer if tensor.data_type in floats)


def one_at_a_time(predict: Predict) -> Predict:
    """For networks whose file fixes the batch at one."""
    return lambda images: np.concatenate([predict(images[i : i + 1]) for i in range(len(images))])


def corner_bilinear(size: int, side: int = 48) -> NDArray[np.float32]:
    """TensorFlow 1's bilinear resize, which TensorFlow.js keeps, as a matrix ``[size, side]``: ``m @ image @ m.T``.

    Sample points are ``i * side / size`` (corners aligned at the top left, no half-pixel shift).
    """
    points = np.arange(size) * side / size
    low = points.astype(int)
    matrix = np.zeros((size, side), np.float32)
    matrix[np.arange(size), low] += 1 - (points - low)
    matrix[np.arange(size), np.minimum(low + 1, side - 1)] += points - low
    return matrix
