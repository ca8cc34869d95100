"""The table of runtimes. A new one is one file beside this and one line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    opener: dotted name of a Session class; targets: bundles it runs, () for any; needs: modules; install: the remedy
    device: where it runs unless told otherwise; probe: dotted name of a function that gives one line
    if this machine lacks the hardware, else None
    system: the one operating system that has it (``platform.system()``), "" for any
    timed: False where the time it takes says nothing of the engine that it stands for
    tracer: dotted name of a function that opens a bundle to show its tensors (``fer_runtimes.tracing``), "" where it cannot
    """

    opener: str
    targets: tuple[str, ...]
    needs: tuple[str, ...]
    install: str
    device: str = "cpu"
    probe: str = ""
    system: str = ""
    timed: bool = True
    tracer: str = ""


ENGINES: dict[str, Engine] = {
    "pytorch": Engine(
        "fer_runtimes.engines.pt:TorchSession",
        ("pytorch",),
        ("torch", "timm"),
        "pip install '.[train]' in fer-edge's checkout",
        tracer="fer_runtimes.engines.pt:trace",
    ),
    "onnxruntime": Engine(
        "fer_runtimes.engines.ort:OrtSession",
        ("onnx", "tensorrt"),
        ("onnxruntime",),
        "pip install '.[onnx]' in fer-edge's checkout",
        tracer="fer_runtimes.engines.ort:trace",
    ),
    "openvino": Engine(
        "fer_runtimes.engines.ov:OpenVinoSession",
        ("openvino", "onnx"),
        ("openvino",),
        "pip install '.[openvino]' in fer-edge's checkout",
        tracer="fer_runtimes.engines.ov:trace",
    ),
    "coreml": Engine(
        "fer_runtimes.engines.coreml:CoreMLSession",
        ("coreml",),
        ("coremltools",),
        "pip install '.[coreml]' in fer-edge's checkout",
        "all",
        system="Darwin",
    ),
    "coreml-reference": Engine(
        "fer_runtimes.engines.coreml_reference:CoreMLReferenceSession",
        ("coreml",),
        ("coremltools",),
        "pip install '.[coreml]' in fer-edge's checkout",
        timed=False,
        tracer="fer_runtimes.engines.coreml_reference:trace",
    ),
    "onnxruntime-cuda": Engine(
        "fer_runtimes.engines.ort:OrtSession",
        ("onnx", "tensorrt"),
        ("onnxruntime",),
        "pip install '.[onnx-gpu]' in fer-edge's checkout",
        "cuda",
        "fer_runtimes.cuda:why_no_gpu",
    ),
    "tensorrt": Engine(
        "fer_runtimes.engines.trt:TensorRtSession",
        ("tensorrt",),
        ("tensorrt", "cuda.bindings"),
        "pip install '.[tensorrt]' in fer-edge's checkout; on a Jetson tensorrt comes with JetPack",
        "cuda",
        "fer_runtimes.cuda:why_no_cuda",
    ),
    "tensorrt-rtx": Engine(
        "fer_runtimes.engines.rtx:RtxSession",
        ("onnx", "tensorrt"),
        ("onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"),
        "pip install '.[rtx]' in fer-edge's checkout",
        "cuda",
        "fer_runtimes.cuda:why_no_gpu",
    ),
    "null": Engine("fer_runtimes.engines.null:NullSession", (), (), ""),
}
