"""OpenVINO IR, made from the same ONNX graph as every other engine's."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from fer_export.pipeline import Source
from fer_export.targets import to_onnx


def convert(source: Source, precision: str, folder: Path) -> None:
    """Writes ``model.xml`` and ``model.bin``; precision fp16 stores the weights in half the bytes, int8 and int8-weights in a quarter."""
    import openvino

    with tempfile.TemporaryDirectory() as aside:
        to_onnx.convert(source, precision if precision.startswith("int8") else "fp32", Path(aside))
        model = openvino.convert_model(Path(aside) / "model.onnx")
    for key, value in source.describe().items():
        model.set_rt_info(value if isinstance(value, str) else json.dumps(value), ["model_info", key])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=precision == "fp16")
