"""What INT8 costs, by quantiser and by cure: the table of docs/precision.md.

    python benchmarks/int8_table.py --data fer2013.csv

Every graph is calibrated on the same faces of the training split, and measured in ONNX Runtime on the
held-out part of it and on the test split, on which nothing was chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_export.calibration import IMAGES, load_calibration
from fer_export.pipeline import load_source, shipped_checkpoint
from fer_export.quantise import METHODS, answers, float_nodes, heavy_nodes, quantise, signed
from fer_export.targets.to_onnx import graph
from fer_export.targets.to_tensorrt import normalisation
from fer_runtimes.data import TEST_SPLITS, load_faces
from fer_runtimes.images import prepare
from fer_runtimes.metrics import softmax

if TYPE_CHECKING:
    import onnx

Images = NDArray[np.uint8]


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--calibration-images", type=int, default=IMAGES)
    given = parser.parse_args()
    calibration = load_calibration(given.data, given.calibration_images)
    test = load_faces(given.data, TEST_SPLITS)
    source = load_source(given.checkpoint or shipped_checkpoint(), test)
    size, crop = source.checkpoint.input["size"], source.checkpoint.input["crop"]
    model = graph(source)
    to_calibrate = prepare(calibration.images, size, crop)
    sets = [
        (np.asarray(faces.labels), prepare(np.asarray(faces.images), size, crop))
        for faces in (calibration.held_out, replace(test, images=np.asarray(test.images)))
    ]
    truths = [answers(model, images) for _, images in sets]
    print(
        f"| graph | layers in int8 | MB | held out ({len(sets[0][0])}) | mean KL there | {test.split} ({len(test)}) | agreement there |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, make in GRAPHS.items():
        made = make(model, to_calibrate)
        logits = [answers(made, images) for _, images in sets]
        held, tested = (
            float((found.argmax(1) == labels).mean()) for found, (labels, _) in zip(logits, sets, strict=True)
        )
        agreement = float((logits[1].argmax(1) == truths[1].argmax(1)).mean())
        p, q = softmax(truths[0]), softmax(logits[0])
        divergence = float((p * (np.log(p) - np.log(q))).sum(1).mean())
        of = len(heavy_nodes(made))
        print(
            f"| {name} | {of - len(float_nodes(made))} of {of} | {made.ByteSize() / 1e6:.2f} | {held:.2%} | {divergence:.1e} | {tested:.2%} | {agreement:.2%} |",
            flush=True,
        )


def ours(method: str, bias_correction: bool = True) -> Callable[[onnx.ModelProto, Images], onnx.ModelProto]:
    """NNCF, as fer-export uses it."""

    def make(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
        return quantise(model, images, method, [node.name for node in normalisation(model)], bias_correction)

    return make


def onnxruntimes(per_channel: bool, method: str = "MinMax") -> Callable[[onnx.ModelProto, Images], onnx.ModelProto]:
    """ONNX Runtime's own quantiser, int8 weights and activations, symmetric."""

    def make(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            left = iter(np.split(images, len(images)))

            def get_next(self) -> dict[str, Any] | None:
                image = next(self.left, None)
                return None if image is None else {"images": image}

        with TemporaryDirectory() as scratch:
            plain, path = Path(scratch) / "fp32.onnx", Path(scratch) / "int8.onnx"
            onnx.save(model, str(plain))  # given the graph itself it moves the weights out of it
            quantize_static(
                plain,
                path,
                Reader(),
                per_channel=per_channel,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                calibrate_method=CalibrationMethod[method],
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
            return onnx.load(path)

    return make


GRAPHS: dict[str, Callable[[onnx.ModelProto, Images], onnx.ModelProto]] = {
    "float32": lambda model, _: model,
    "naive: ONNX Runtime, one scale a weight tensor, min-max": onnxruntimes(per_channel=False),
    "ONNX Runtime, one scale a channel, min-max": onnxruntimes(per_channel=True),
    "ONNX Runtime, one scale a channel, percentile": onnxruntimes(True, "Percentile"),
    "NNCF, min-max, without bias correction": ours("minmax", bias_correction=False),
    **{f"NNCF, {method}": ours(method) for method in METHODS},
    "NNCF, mse, signed as for TensorRT": lambda model, images: signed(ours("mse")(model, images)),
}


if __name__ == "__main__":
    main()
