"""The table of targets. A new one is one file beside this and one line here."""

from __future__ import annotations

from dataclasses import dataclass, field

from fer_runtimes.parity import Tolerance

# A float32 engine sums in another order than PyTorch; ten times PyTorch's own error is room for
# that and far below what any wrong constant, kernel or branch causes.
FP32 = Tolerance(error_ratio=10, mean_kl=1e-9, flip_margin=1e-3)
# Weights rounded to float16: their relative error is 2**13 times float32's. The logits' error
# follows in proportion, less what averages out over each sum.
FP16_WEIGHTS = Tolerance(error_ratio=2**13, mean_kl=1e-5, flip_margin=0.05)
# Every op rounded to float16: each rounding of float32 PyTorch's becomes one 2**13 times as large,
# so the ratio of their sums is at most that, the order of summation aside.
FP16 = Tolerance(error_ratio=2**13, mean_kl=1e-4, flip_margin=0.1)
# The same with 2**16, for bfloat16's eight bits of significand. Rounded so by PyTorch, the shipped nets' mean KL was
# 5e-5 to 9e-5 on their references, and no changed label had a margin over 0.06.
BF16 = Tolerance(error_ratio=2**16, mean_kl=1e-3, flip_margin=0.2)
# Rounding to 256 levels is no multiple of float32's error. On two trained nets' references (closest calls,
# noise, stripes) mean KL was 0.001 to 0.004 and no changed label had a margin over 0.34; sums that overflow, or one wrong scale,
# lie far beyond. Accuracy is held to a budget apart (fer_export.int8).
INT8 = Tolerance(error_ratio=None, mean_kl=0.02, flip_margin=1.0)

# Weights rounded to int8 steps of their channel's largest, all else at least float16: half a step is
# 2**-8 of the largest, 2**16 times float32's; twice that, since most weights of a channel are smaller.
INT8_WEIGHTS = Tolerance(error_ratio=2**17, mean_kl=1e-3, flip_margin=0.2)


@dataclass(frozen=True)
class Target:
    """A row of the table.

    converter: dotted name of ``convert``; runtime: the engine that checks it; tolerances: one per precision that it has
    settings: the values that each further keyword of ``convert`` may take, its default first
    finish: dotted name of what builds an engine from the bundle on the device; such a target takes build settings
    quantiser: the package that makes its int8; needed: settings that a precision needs, by default its first
    """

    converter: str
    runtime: str
    needs: tuple[str, ...]
    install: str
    tolerances: dict[str, Tolerance]
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finish: str = ""
    quantiser: str = "nncf"
    needed: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


TARGETS: dict[str, Target] = {
    "pytorch": Target("fer_export.targets.to_pytorch:convert", "pytorch", (), "", {"fp32": FP32}),
    "onnx": Target(
        "fer_export.targets.to_onnx:convert",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxslim", "onnxruntime"),
        "pip install '.[export,onnx]' in fer-edge's checkout",
        {"fp32": FP32, "int8-weights": INT8_WEIGHTS, "int8": INT8},
    ),
    "openvino": Target(
        "fer_export.targets.to_openvino:convert",
        "openvino",
        ("onnx", "onnxscript", "onnxslim", "openvino"),
        "pip install '.[export,openvino]' in fer-edge's checkout",
        {"fp32": FP32, "fp16": FP16_WEIGHTS, "bf16": BF16, "int8-weights": INT8_WEIGHTS, "int8": INT8},
    ),
    "tensorrt": Target(
        "fer_export.targets.to_tensorrt:convert",
        "onnxruntime",
        ("onnx", "onnxscript", "onnxslim", "onnxruntime"),
        "pip install '.[export,onnx]' in fer-edge's checkout",
        {"fp32": FP32, "fp16": FP16, "int8": INT8},
        finish="fer_export.finish:finish_tensorrt",
    ),
    "coreml": Target(
        "fer_export.targets.to_coreml:convert",
        "coreml-reference",
        ("coremltools",),
        "pip install '.[export,coreml]' in fer-edge's checkout",
        {"fp32": FP32, "fp16": FP16, "int8-weights": INT8_WEIGHTS, "int8": INT8},
        # iOS 16 and macOS 13 run on every device since 2017; later ones have ops that fuse more
        {"deployment_target": ("iOS16", "iOS15", "iOS17", "iOS18")},
        quantiser="coremltools",
        # earlier ones have no ops for weights, or for activations, in int8
        needed={
            "int8-weights": {"deployment_target": ("iOS16", "iOS17", "iOS18")},
            "int8": {"deployment_target": ("iOS17", "iOS18")},
        },
    ),
}
