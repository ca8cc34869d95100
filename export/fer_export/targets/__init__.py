"""The table of targets. A new one is one file beside this and one line here."""

from __future__ import annotations

from dataclasses import dataclass

from fer_runtimes.parity import Tolerance

# A float32 engine sums in another order than PyTorch; ten times PyTorch's own error is room for
# that and far below what any wrong constant, kernel or branch causes.
FP32 = Tolerance(error_ratio=10, mean_kl=1e-9, flip_margin=1e-3)
# Weights rounded to float16: their relative error is 2**13 times float32's. The logits' error
# follows in proportion, less what averages out over each sum. The same bound holds where activations
# and sums are rounded to float16 too: each rounding is 2**13 times float32's own, in the same place.
FP16 = Tolerance(error_ratio=2**13, mean_kl=1e-5, flip_margin=0.05)


@dataclass(frozen=True)
class Target:
    """A target.

    converter: dotted name of ``convert``; runtime: the engine that checks it; tolerances: one per precision that it has
    finish: dotted name of what builds an engine from the bundle on the device; such a target takes build settings
    """

    converter: str
    runtime: str
    needs: tuple[str, ...]
    install: str
    tolerances: dict[str, Tolerance]
    finish: str = ""


TARGETS: dict[str, Target] = {
    "pytorch": Target("fer_export.targets.to_pytorch:convert", "pytorch", (), "", {"fp32": FP32}),
    "onnx": Target(
        "fer_export.targets.to_onnx:convert",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxslim", "onnxruntime"),
        "pip install 'fer-edge[export,onnx]'",
        {"fp32": FP32},
    ),
    "openvino": Target(
        "fer_export.targets.to_openvino:convert",
        "openvino",
        ("onnx", "onnxscript", "onnxslim", "openvino"),
        "pip install 'fer-edge[export,openvino]'",
        {"fp32": FP32, "fp16": FP16},
    ),
    "tensorrt": Target(
        "fer_export.targets.to_tensorrt:convert",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxslim", "onnxruntime"),
        "pip install 'fer-edge[export,onnx]'",
        {"fp32": FP32, "fp16": FP16},
        "fer_export.finish:finish_tensorrt",
    ),
}
