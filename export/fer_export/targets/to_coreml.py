"""Core ML: an ML Program package, a classifier of grey images, checked by executing what was saved."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_export.pipeline import Source
from fer_export.weights8 import SMALLEST
from fer_runtimes.errors import CheckFailed
from fer_runtimes.labels import LABELS
from fer_runtimes.mil.execute import Executor
from fer_runtimes.mil.program import Program, quiet_coremltools, read_program

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from fer_export.int8 import Quantised

# What the program computes in. int8-weights: what is stored in int8 becomes float16, as all else is. int8: what stands
# between a dequantize and the next quantize is declared so; an engine with int8 products computes these as a whole.
_COMPUTE = {"fp32": "FLOAT32", "fp16": "FLOAT16", "int8-weights": "FLOAT16", "int8": "FLOAT16"}
_QUANTISE_WEIGHTS = "compression::linear_quantize_weights"
_QUANTISE_ACTIVATIONS = "compression::insert_prefix_quantize_dequantize_pair"
_LAYERS = ("conv", "linear", "matmul")
_FLOAT16_STEP = 2.0**-10
_RANGE_IMAGES = 128  # that ranges are taken from: one by one on numpy, so not all of the calibration's
# Nodes that torch.export leaves and coremltools does not know; each only hands its input on.
_PASSED_THROUGH = ("aten.alias.default", "aten.lift_fresh_copy.default")


def convert(source: Source, precision: str, folder: Path, deployment_target: str) -> None:
    """Writes ``model.mlpackage``: a grey image of S x S in; class label, probabilities and ``logits`` out.

    precision int8: the evened-out net that was quantised for the other targets, on the same faces, by coremltools' own
    quantiser. That one finds ranges by predicting, which macOS alone does; here the reference executor finds them.
    """
    if precision != "int8":
        _save(source, precision, folder, deployment_target)
        return
    quantised = source.quantised
    assert quantised is not None  # the pipeline asks for it
    source = replace(source, net=quantised.net)
    with tempfile.TemporaryDirectory() as aside:
        _save(source, "fp16", Path(aside), deployment_target)
        program = read_program(Path(aside) / "model.mlpackage")
    ranges = _ranges(program, quantised.images[:_RANGE_IMAGES])
    _save(source, precision, folder, deployment_target, ranges, _left_in_float(program, quantised))


def _left_in_float(program: Program, quantised: Quantised) -> list[str]:
    """Names, in a float16 program, of the layers that the other targets' graph has in float for the budget's sake.

    A layer is known by its weights, since the graph's nodes were sorted anew. A product of two activations has none;
    coremltools rounds the inputs of none such.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in quantised.model.graph.initializer}
    weights = {
        op.outputs[0].name: np.asarray(program.constants[op.inputs["weight"][0]], np.float32)
        for op in program.ops
        if op.kind in ("conv", "linear") and op.inputs["weight"][0] in program.constants
    }
    names = []
    for node in quantised.model.graph.node:
        if node.name not in quantised.kept or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if node.op_type == "MatMul":
            weight = weight.T
        step = float(np.abs(weight).max()) * _FLOAT16_STEP
        same = [
            name
            for name, one in weights.items()
            if one.shape == weight.shape and float(np.abs(one - weight).max()) <= step
        ]
        if len(same) != 1:
            raise CheckFailed(
                f"coreml int8: {node.name} is to stay in float, and {len(same)} layers of the program have its weights; "
                "allow more with --max-drop, or export at --precision fp16"
            )
        names += same
    return names


def _ranges(program: Program, images: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """Least and largest value of every tensor of a float program, by name, as coremltools' quantiser wants them."""
    run = Executor(program)
    found: dict[str, dict[str, float]] = {}
    for image in images:
        for name, value in run({program.inputs[0].name: image[np.newaxis].astype(np.float32)}).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32 and name not in run.constants:
                row = found.setdefault(name, {"rmin": np.inf, "rmax": -np.inf})
                row["rmin"], row["rmax"] = min(row["rmin"], float(value.min())), max(row["rmax"], float(value.max()))
    return found


def _save(
    source: Source,
    precision: str,
    folder: Path,
    deployment_target: str,
    ranges: dict[str, dict[str, float]] | None = None,
    in_float: Sequence[str] = (),
) -> None:
    """Converts in two steps, since coremltools 9.0 cannot name the outputs of a ``torch.export`` program and make it a classifier in one."""
    with quiet_coremltools(), _quiet():
        import coremltools as ct

        size = source.checkpoint.input["size"]
        image = ct.ImageType("images", (1, 1, size, size), color_layout=ct.colorlayout.GRAYSCALE)
        common: dict[str, Any] = {
            "inputs": [image],
            "minimum_deployment_target": ct.target[deployment_target],
            "compute_precision": ct.precision[_COMPUTE[precision]],
        }
        program = ct.convert(
            _exported(source),
            convert_to="milinternal",
            outputs=[ct.TensorType("logits"), ct.TensorType("probabilities")],
            pass_pipeline=ct.PassPipeline.EMPTY,
            **common,
        )
        program.functions["main"].set_output_types(None)  # else it is refused for the outputs that a classifier adds
        model = ct.convert(
            program,
            classifier_config=ct.ClassifierConfig(list(LABELS), predicted_probabilities_output="probabilities"),
            skip_model_load=True,
            pass_pipeline=_passes(precision, ranges or {}, in_float),
            **common,
        )
        _describe(model, source)
        model.save(str(folder / "model.mlpackage"))
    # coremltools' debugging aid for another project; Core ML does not read it
    (folder / "model.mlpackage" / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)


def _passes(precision: str, ranges: dict[str, dict[str, float]], in_float: Sequence[str]) -> Any:
    """coremltools' own passes, and for int8 its quantisers as the last: symmetric, weights per output channel.

    The quantisers' usual doors, ``linear_quantize_weights`` and ``..._activations`` on a finished model, read the model
    back first, and coremltools 9.0 does not write a float16 classifier again that it has read.
    """
    import coremltools as ct
    import coremltools.optimize.coreml as optimise

    def config(smallest: int) -> Any:
        row = optimise.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=smallest)
        return optimise.OptimizationConfig(
            op_type_configs=dict.fromkeys(_LAYERS, row), op_name_configs=dict.fromkeys(in_float)
        )

    passes = ct.PassPipeline.DEFAULT
    if precision == "int8":
        passes.append_pass(_QUANTISE_ACTIVATIONS)
        passes.set_options(_QUANTISE_ACTIVATIONS, {"config": config(0), "activation_stats": ranges})
    if precision.startswith("int8"):
        passes.append_pass(_QUANTISE_WEIGHTS)
        passes.set_options(_QUANTISE_WEIGHTS, {"config": config(0 if precision == "int8" else SMALLEST - 1)})
    return passes


def _exported(source: Source) -> ExportedProgram:
    """Float image in, logits and probabilities out, in the few operators that coremltools converts."""
    import torch
    from torch import nn

    record = source.checkpoint.probabilities
    temperature = None if record is None else record["temperature"]

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = source.net

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.net(images)
            return logits, (logits if temperature is None else logits / temperature).softmax(1)

    size = source.checkpoint.input["size"]
    program: ExportedProgram = torch.export.export(
        Classifier().eval(), (torch.zeros(1, 1, size, size),)
    ).run_decompositions({})
    for node in list(program.graph.nodes):
        if str(node.target) in _PASSED_THROUGH:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program


def _describe(model: Any, source: Source) -> None:
    """What Xcode shows, and the facts that every format carries."""
    from importlib.metadata import metadata

    facts = metadata("fer-edge")
    model.author = facts["Author"]
    model.license = facts["License-Expression"]
    model.version = facts["Version"]
    model.short_description = f"Facial expression of a face that fills a grey image: {', '.join(LABELS)}."
    model.input_description["images"] = "A face, grey, cropped as the bundle's manifest says."
    model.output_description["classLabel"] = "The most probable expression."
    model.output_description["classLabel_probs"] = "The probability of each expression."
    model.output_description["logits"] = "The net's answer before temperature and softmax, in the order of the labels."
    model.user_defined_metadata["com.apple.coreml.model.preview.type"] = "imageClassifier"
    for key, value in source.describe().items():
        model.user_defined_metadata[key] = value if isinstance(value, str) else json.dumps(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """coremltools draws a progress bar for each of its pipelines."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
