"""INT8: one ONNX graph with explicit QuantizeLinear and DequantizeLinear nodes, made by NNCF, for every engine.

Weights are int8, symmetric, a scale for each output channel; activations one scale a tensor, with
zero-point 0: uint8 behind a ReLU, else int8. Biases stay float32. The normalisation of the images
stays outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import NotAvailable
from fer_runtimes.files import cache_dir, whole_file

if TYPE_CHECKING:
    import onnx

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# How the range of an activation is found: NNCF's name for it. The first is the default (docs/precision.md).
METHODS = {
    "mse": "HISTOGRAM",  # the range with the least squared rounding error on a histogram
    "minmax": "MINMAX",
    "percentile": "MEAN_QUANTILE",  # each image's 0.01 and 99.99 % quantiles, averaged
}
INSTALL = "pip install '.[quantise]' in fer-edge's checkout"
_BATCH = 64
_DIGEST = hashlib.sha256().digest_size
_WARM_UP, _TURNS, _LEAD_IN = 10, 60, 2  # of a comparison of graphs' times


def check_installed() -> None:
    """Raises NotAvailable where what quantises, or what its accuracy is measured with, is missing."""
    if missing := [name for name in ("nncf", "onnxruntime") if find_spec(name) is None]:
        raise NotAvailable(f"precision int8 needs {', '.join(missing)}, not installed here; {INSTALL}")


def quantise(
    model: onnx.ModelProto,
    images: NDArray[np.uint8],
    method: str,
    outside: Collection[str],
    bias_correction: bool = False,
) -> onnx.ModelProto:
    """The graph with Q/DQ nodes, calibrated on ``images`` (uint8 ``[N, 1, S, S]``, as the graph takes them).

    method: of ``METHODS``; outside: names of nodes that stay in float
    bias_correction: moves biases by what rounding shifts on average; it did harm (docs/precision.md)
    """
    with _quiet():
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
            QuantizationParameters,
        )
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        result: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset([images[i : i + 1] for i in range(len(images))], lambda image: {"images": image}),
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=sorted(outside)),
            advanced_parameters=AdvancedQuantizationParameters(
                # half the weights' range would be lost to spare CPUs without VNNI an overflow that the engines avoid
                overflow_fix=OverflowFix.DISABLE,
                disable_bias_correction=not bias_correction,
                # it would give what depthwise convolutions read a scale for each channel, with which ONNX Runtime computes
                # them in float and which TensorRT refuses
                activations_quantization_params=QuantizationParameters(per_channel=False),
                activations_range_estimator_params=getattr(RangeEstimatorParametersSet, METHODS[method]),
            ),
        )
    return result


def quantise_once(
    model: onnx.ModelProto, images: NDArray[np.uint8], method: str, outside: Collection[str]
) -> onnx.ModelProto:
    """``quantise``, whose graph is kept in the cache: the same net, images, method and versions are calibrated once."""
    import onnx

    from fer_runtimes.versions import installed_versions

    ours = Path(__file__).read_text(encoding="utf-8")  # how the quantiser is asked
    asked = repr((method, sorted(outside), images.shape, version("nncf"), sorted(installed_versions().items()), ours))
    content = asked.encode() + model.SerializeToString(deterministic=True) + images.tobytes()
    # the file holds the graph's hash, then the graph
    kept = cache_dir() / "int8" / f"{hashlib.sha256(content).hexdigest()[:32]}.onnx.sha256"
    with contextlib.suppress(OSError):
        found = kept.read_bytes()
        if hashlib.sha256(found[_DIGEST:]).digest() == found[:_DIGEST]:
            same = onnx.ModelProto()
            same.ParseFromString(found[_DIGEST:])
            return same
    made = quantise(model, images, method, outside)
    graph = made.SerializeToString()
    # a full disk costs the next one's time, not this one's result
    with contextlib.suppress(OSError), whole_file(kept) as aside:
        aside.write_bytes(hashlib.sha256(graph).digest() + graph)
    return made


def signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with uint8 activations in int8 over the same range: half the levels, and all that TensorRT takes."""
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    unsigned = {
        (node.input[1], node.input[2])
        for node in result.graph.node
        if node.op_type == "QuantizeLinear" and constants[node.input[2]].data_type == onnx.TensorProto.UINT8
    }
    for scale, zero_point in unsigned:
        step = numpy_helper.to_array(constants[scale])
        zero = numpy_helper.to_array(constants[zero_point])
        assert not zero.any()
        constants[scale].CopyFrom(numpy_helper.from_array((step * np.float32(255 / 127)).astype(np.float32), scale))
        constants[zero_point].CopyFrom(numpy_helper.from_array(zero.astype(np.int8), zero_point))
    del result.graph.value_info[:]  # they name the old types
    return result


def heavy_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of convolutions and matrix products, in the graph's order."""
    return [node.name for node in model.graph.node if node.op_type in HEAVY]


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of those convolutions and matrix products that do not read quantised tensors alone."""
    made_by = {name: node for node in model.graph.node for name in node.output}

    def quantised(name: str) -> bool:
        node = made_by.get(name)
        return node is not None and (
            node.op_type == "DequantizeLinear" or (node.op_type in MOVES and quantised(node.input[0]))
        )

    return [
        node.name
        for node in model.graph.node
        if node.op_type in HEAVY and not all(quantised(name) for name in node.input[:2])
    ]


# Operators that hand values on as they are.
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def answers(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits ``[N, 7]`` of a graph on ``images`` ``[N, 1, S, S]``, in ONNX Runtime on the CPU, in exact int8."""
    session = _session(model)
    parts = [session.run(["logits"], {"images": images[i : i + _BATCH]})[0] for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def times_as_long(model: onnx.ModelProto, than: onnx.ModelProto, images: NDArray[np.uint8]) -> float:
    """Median time of a single image of ``images`` ``[N, 1, S, S]`` over that in another graph; they take turns, on one thread."""
    first, second = single_times([model, than], images)
    return first / second


def single_times(models: Sequence[onnx.ModelProto], images: NDArray[np.uint8], careful: bool = False) -> list[float]:
    """Median milliseconds of a single image of ``images`` in each graph; they take turns, on one thread.

    careful: with ONNX Runtime's option against overflow, whether or not this CPU can overflow
    """
    sessions = [_session(one, 1, careful) for one in models]
    taken: list[list[int]] = [[] for _ in models]
    for i in range(_TURNS + _WARM_UP):
        for session, times in zip(sessions, taken, strict=True):
            for again in range(_LEAD_IN + 1):  # another graph has just had the caches
                image = images[(i + again) % len(images)][np.newaxis]
                began = time.perf_counter_ns()
                session.run(["logits"], {"images": image})
                ended = time.perf_counter_ns()
            times.append(ended - began)
    return [float(np.median(times[_WARM_UP:])) / 1e6 for times in taken]


def _session(model: onnx.ModelProto, threads: int = 0, careful: bool = False) -> Any:
    """ONNX Runtime on the CPU, in exact int8. threads: 0 for as many as it likes."""
    import onnxruntime

    from fer_runtimes.engines.ort import EXACT_INT8, compute_exactly

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    compute_exactly(settings)
    if careful:
        settings.add_session_config_entry(*EXACT_INT8)
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws progress bars, and tells its makers of each use unless it runs in CI; neither is for our user."""
    os.environ.setdefault("NNCF_CI", "1")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no CUDA
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        import nncf

        nncf.set_log_level(logging.ERROR)
        yield
