"""ONNX: one graph with dynamic batch, bytes in, logits out, its facts in the metadata."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fer_export.pipeline import Source
from fer_export.weights8 import store_weights_in_int8

if TYPE_CHECKING:
    import onnx

    from fer_train.deploy import Deployable

# 18 is what torch's exporter writes natively; TensorRT 10, OpenVINO 2025 and ONNX Runtime 1.20 all read it.
OPSET = 18
# The graph of each net that is in use, with what the net was when it was made: three targets and six precisions start from it.
_MADE: WeakKeyDictionary[Deployable, tuple[str, onnx.ModelProto]] = WeakKeyDictionary()


def convert(source: Source, precision: str, folder: Path) -> None:
    """Writes ``model.onnx``: input ``images`` uint8 ``[N, 1, S, S]``, output ``logits`` float32 ``[N, 7]``.

    precision int8-weights stores large weights in int8, to be dequantised by the engine.
    """
    import onnx

    model = int8_graph(source) if precision == "int8" else graph(source)
    if precision == "int8-weights":
        store_weights_in_int8(model)
    for key, value in source.describe().items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(folder / "model.onnx"))


def int8_graph(source: Source) -> onnx.ModelProto:
    """A copy of the source's quantised graph."""
    assert source.quantised is not None  # the pipeline asks for it
    return _copy(source.quantised.model)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def graph(source: Source) -> onnx.ModelProto:
    """The net in float32 as an ONNX graph of the caller's own; traced once, and again where the net has changed since."""
    now = _state(source)
    before, made = _MADE.get(source.net, ("", None))
    if made is None or now != before:
        made = _traced(source)
        _MADE[source.net] = now, made
    return _copy(made)


def _state(source: Source) -> str:
    """A hash of all that the graph is made from: input size, modules with their settings, weights."""
    found = sha256(repr((source.checkpoint.input["size"], source.net)).encode())
    for name, tensor in source.net.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _traced(source: Source) -> onnx.ModelProto:
    import onnxslim
    import torch

    size = source.checkpoint.input["size"]
    images = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            source.net,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        assert program is not None
        model: onnx.ModelProto = onnxslim.slim(program.model_proto)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own deprecations; neither is for our user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
