"""The table of runtimes. A new one is one file beside this and one line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """opener: dotted name of a Session class; targets: bundles it runs, () for any; needs: modules; install: the remedy."""

    opener: str
    targets: tuple[str, ...]
    needs: tuple[str, ...]
    install: str


ENGINES: dict[str, Engine] = {
    "pytorch": Engine(
        "fer_runtimes.engines.pt:TorchSession", ("pytorch",), ("torch", "timm"), "pip install 'fer-edge[train]'"
    ),
    "onnxruntime": Engine(
        "fer_runtimes.engines.ort:OrtSession", ("onnx",), ("onnxruntime",), "pip install 'fer-edge[onnx]'"
    ),
    "openvino": Engine(
        "fer_runtimes.engines.ov:OpenVinoSession",
        ("openvino", "onnx"),
        ("openvino",),
        "pip install 'fer-edge[openvino]'",
    ),
    "null": Engine("fer_runtimes.engines.null:NullSession", (), (), ""),
}
