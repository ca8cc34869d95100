"""What INT8 costs, by quantiser and by cure: ``python -m evidence.int8 --data fer2013.csv``.

Every graph is calibrated on the same faces of the training split, and measured in ONNX Runtime on the
held-out part of it and on the test split, on which nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from evidence.output import show
from fer_bench import options
from fer_export.calibration import IMAGES, load_calibration
from fer_export.int8 import calibrating_images
from fer_export.pipeline import find_checkpoint, load_source
from fer_export.quantise import METHODS, answers, float_nodes, heavy_nodes, quantise, signed, single_times
from fer_export.rounding import round_weights
from fer_export.targets.to_onnx import graph
from fer_export.targets.to_tensorrt import normalisation
from fer_runtimes import console
from fer_runtimes.cpu import has_vnni
from fer_runtimes.data import TEST_SPLITS, load_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare
from fer_runtimes.metrics import softmax
from fer_train.equalise import equalise

if TYPE_CHECKING:
    import onnx

Images = NDArray[np.uint8]
EXPORTED = f"NNCF, {next(iter(METHODS))}, equalised, rounded as OPTQ does"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.command()
def int8(
    data: Annotated[Path, typer.Option(help="fer2013.csv (plain, .gz, .xz, .zip) or a folder.")],
    checkpoint: options.Checkpoint = None,
    calibration_images: Annotated[int, typer.Option(help="Faces of the training split to calibrate on.")] = IMAGES,
    markdown_out: options.MarkdownOut = None,
) -> None:
    """Quantises a net in several ways and says what each costs: held-out faces of the training split, and the test split.

    Examples:

    * `python -m evidence.int8 --data fer2013.csv`
    """
    from rich.console import Console

    calibration = load_calibration(data, calibration_images)
    test = load_faces(data, TEST_SPLITS)
    source = load_source(find_checkpoint(checkpoint), test)
    size, crop = source.checkpoint.input["size"], source.checkpoint.input["crop"]
    to_calibrate = calibrating_images(calibration, size, crop)
    even = equalise(source.net, to_calibrate)[0]
    rounded, layers_rounded = round_weights(even, to_calibrate, 1, source.size.macs)
    if not layers_rounded:
        raise BadInput(f"{source.checkpoint.model['name']}: none of its layers can be rounded as OPTQ does in time")
    nets = {"as trained": source.net, "even": even, "rounded": rounded}
    floats = {key: graph(replace(source, net=net)) for key, net in nets.items()}
    sets = [
        (np.asarray(faces.labels), prepare(np.asarray(faces.images), size, crop))
        for faces in (calibration.held_out, replace(test, images=np.asarray(test.images)))
    ]
    truths = [answers(floats["as trained"], images) for _, images in sets]
    graphs, rows = [], []
    with Console(stderr=True).status("") as status:
        for name, (net, make) in GRAPHS.items():
            status.update(name)
            made = make(floats[net], to_calibrate)
            graphs.append(made)
            logits = [answers(made, images) for _, images in sets]
            held, tested = (
                float((found.argmax(1) == labels).mean()) for found, (labels, _) in zip(logits, sets, strict=True)
            )
            agreement = float((logits[1].argmax(1) == truths[1].argmax(1)).mean())
            p, q = softmax(truths[0]), softmax(logits[0])
            divergence = float((p * (np.log(p) - np.log(q))).sum(1).mean())
            if name == EXPORTED:
                there = in_openvino(made, sets[1][1]).argmax(1)
                alike = float((logits[1].argmax(1) == there).mean())
                right = float((there == sets[1][0]).mean())
            of = len(heavy_nodes(made))
            layers = f"{of - len(float_nodes(made))} of {of}"
            size_mb = f"{made.ByteSize() / 1e6:.2f}"
            rows.append(
                [name, layers, size_mb, f"{held:.2%}", f"{divergence:.1e}", f"{tested:.2%}", f"{agreement:.2%}"]
            )
    times = single_times(graphs, sets[1][1])
    exported = graphs[list(GRAPHS).index(EXPORTED)]
    careful = single_times([exported], sets[1][1], careful=True)[0]
    for row, time in zip(rows, times, strict=True):
        row += [f"{time:.3f}", f"{times[0] / time:.2f}x"]
    held_out, judged = f"held out ({len(sets[0][0])})", f"{test.split} ({len(test)})"
    headings = [
        "graph",
        "layers quantised",
        "MB",
        held_out,
        "mean KL there",
        judged,
        "agreement there",
        "p50 ms",
        "times as fast",
    ]
    words = [
        "in ONNX Runtime, which computes the last product in float32; agreement and mean KL are with float32; time of one face on one "
        "thread, the graphs in turns",
        f"the graph that is exported (“{EXPORTED}”) in OpenVINO: {right:.2%} of {test.split}, and ONNX Runtime's label on {alike:.2%}",
    ]
    if has_vnni():
        words.append(
            f"with ONNX Runtime's option against overflow, which this CPU does not need, it takes {careful:.3f} ms"
        )
    show(headings, rows, words, markdown_out)


def in_openvino(model: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    """Logits ``[N, 7]`` of a graph in OpenVINO on the CPU, with the precision that its runtime asks for."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    return np.concatenate([compiled([images[i : i + 64]])[0] for i in range(0, len(images), 64)])


def ours(method: str, bias_correction: bool = False) -> Callable[[onnx.ModelProto, Images], onnx.ModelProto]:
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


# The net that each graph is made of, and how.
GRAPHS: dict[str, tuple[str, Callable[[onnx.ModelProto, Images], onnx.ModelProto]]] = {
    "float32": ("as trained", lambda model, _: model),
    "naive: ONNX Runtime, one scale a weight tensor, min-max": ("as trained", onnxruntimes(per_channel=False)),
    "ONNX Runtime, one scale a channel, min-max": ("as trained", onnxruntimes(per_channel=True)),
    "ONNX Runtime, one scale a channel, percentile": ("as trained", onnxruntimes(True, "Percentile")),
    **{f"NNCF, {method}": ("as trained", ours(method)) for method in METHODS},
    "ONNX Runtime, one scale a channel, min-max, equalised": ("even", onnxruntimes(per_channel=True)),
    "NNCF, mse, equalised": ("even", ours("mse")),
    **{f"NNCF, {method}, equalised, rounded as OPTQ does": ("rounded", ours(method)) for method in METHODS},
    "the same by mse, with bias correction": ("rounded", ours("mse", bias_correction=True)),
    "the same by mse, signed as for TensorRT": (
        "rounded",
        lambda model, images: signed(ours("mse")(model, images)),
    ),
}


if __name__ == "__main__":
    console.run(app)
