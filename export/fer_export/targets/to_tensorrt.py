"""TensorRT: the ONNX that its builder is given on the device, with the precision in the graph, and what can be checked of it here.

TensorRT builds a strongly typed network: it computes each tensor in the type that the graph gives
it. So an fp16 engine needs an fp16 graph: normalisation in float32, one Cast down, the net in
float16, one Cast up, logits in float32. An int8 engine needs a graph with QuantizeLinear and
DequantizeLinear, int8 and zero-point 0 throughout. The engine itself is built where it is to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fer_export.pipeline import Source
from fer_export.quantise import signed
from fer_export.targets import to_onnx
from fer_export.targets.tensorrt_operators import OPERATORS, OPSETS
from fer_runtimes.errors import CheckFailed, NotAvailable

if TYPE_CHECKING:
    import onnx

_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


def convert(source: Source, precision: str, folder: Path) -> None:
    """Writes ``model.onnx`` in the precision, checked by ``check_graph``."""
    import onnx

    to_onnx.convert(source, "int8" if precision == "int8" else "fp32", folder)
    path = folder / "model.onnx"
    model = onnx.load(path)
    read_images_once(model)
    if precision == "fp16":
        model = halve(model)
    elif precision == "int8":
        model = signed(model)
    check_graph(model, precision)
    onnx.save(model, str(path))


def read_images_once(model: onnx.ModelProto) -> None:
    """Lets everything but the first Cast read the Cast's output in place of the uint8 images, whose shape is the same.

    Transformers ask for the images' shape, and TensorRT takes uint8 at the network's door alone.
    """
    images = model.graph.input[0].name
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and images in node.input)
    for node in model.graph.node:
        if node is not cast:
            node.input[:] = [cast.output[0] if name == images else name for name in node.input]
    first = [node for node in model.graph.node if node.name == cast.name]
    others = [node for node in model.graph.node if node.name != cast.name]
    del model.graph.node[:]
    model.graph.node.extend([*first, *others])


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything behind the normalisation in float16; input uint8, output float32 as before."""
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = model.graph
    head = normalisation(model)
    door = head[-1].output[0]
    inside = {name for node in head for name in node.output}
    # The converter can leave nodes in float32, but then casts down and up again between each two of
    # them; so it is given the net alone, and the normalisation is put back before it.
    body = onnx.ModelProto()
    body.CopyFrom(model)
    del body.graph.node[:], body.graph.input[:], body.graph.initializer[:], body.graph.value_info[:]
    names = {node.name for node in head}
    body.graph.node.extend(node for node in graph.node if node.name not in names)
    for node in body.graph.node:
        node.input[:] = [door if name in inside else name for name in node.input]  # elementwise: one shape for all
    constants = {name for node in head for name in node.input}
    body.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in constants)
    body.graph.input.add().CopyFrom(graph.input[0])
    body.graph.input[0].name = door
    body.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    half = convert_float_to_float16(body, keep_io_types=True)
    half.graph.node.extend(head)
    half.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in constants)
    half.graph.input[0].CopyFrom(graph.input[0])
    sorted_model = onnx_ir.from_proto(half)
    TopologicalSortPass()(sorted_model)  # the converter appends its casts at the end
    result: onnx.ModelProto = onnx_ir.to_proto(sorted_model)
    return result


def normalisation(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes from the images to the first convolution's input: the Cast, then elementwise arithmetic with constants.

    Raises CheckFailed if the graph does not begin so.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    found: list[onnx.NodeProto] = []
    tensor = graph.input[0].name
    while True:
        readers = [node for node in graph.node if tensor in node.input and node.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type not in (_ARITHMETIC if found else ("Cast",)):
            break
        if not constants.issuperset(set(readers[0].input) - {tensor}):
            break
        found.append(readers[0])
        tensor = readers[0].output[0]
    if len(found) < 2:
        raise CheckFailed(
            "the graph does not begin with a Cast of the images and their normalisation; export it with to_onnx"
        )
    return found


def check_graph(model: onnx.ModelProto, precision: str) -> None:
    """Checks, without TensorRT, what TensorRT will hold the graph to.

    Raises NotAvailable for an operator or opset that its parser lacks, or int8 without quantised
    tensors; CheckFailed where the graph is not valid ONNX, uint8 stands anywhere but at the input
    before a Cast, the normalisation or the output is not in float32, or a convolution or matrix
    product is not in the precision.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the graph is not valid ONNX: {error}") from error
    _check_operators(model)
    types = _types(inferred)
    _check_uint8(inferred, types)
    _check_float32(inferred, types, precision)
    if precision == "int8":
        _check_quantised(model)
    else:
        _check_heavy(inferred, types, precision)


def _check_operators(model: onnx.ModelProto) -> None:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in OPSETS:
        raise NotAvailable(f"TensorRT parses opsets {OPSETS[0]} to {OPSETS[-1]}, the graph is of opset {opset}")
    for node in _nodes(model.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise NotAvailable(
                f"TensorRT's parser has no operator {name} (node {node.name}); choose another model, or --target onnx"
            )


def _check_uint8(model: onnx.ModelProto, types: dict[str, int]) -> None:
    import onnx

    images = model.graph.input[0].name
    if types[images] != onnx.TensorProto.UINT8:
        raise CheckFailed(f"the graph's input {images} is not uint8")
    if wrong := [name for name, kind in types.items() if kind == onnx.TensorProto.UINT8 and name != images]:
        raise CheckFailed(f"tensor {wrong[0]} is uint8, which TensorRT takes at the network's input alone")
    for node in _nodes(model.graph):
        if images in node.input and node.op_type != "Cast":
            raise CheckFailed(f"node {node.name} ({node.op_type}) reads the uint8 images; in TensorRT a Cast alone may")


def _check_float32(model: onnx.ModelProto, types: dict[str, int], precision: str) -> None:
    import onnx

    if types[model.graph.output[0].name] != onnx.TensorProto.FLOAT:
        raise CheckFailed(f"the graph's output {model.graph.output[0].name} is not float32")
    for node in normalisation(model):
        if types[node.output[0]] != onnx.TensorProto.FLOAT:
            raise CheckFailed(f"node {node.name} ({node.op_type}) of the normalisation is not in float32")
    if precision == "fp32" and (half := [name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16]):
        raise CheckFailed(f"an fp32 graph was asked for and tensor {half[0]} is float16")


def _check_heavy(model: onnx.ModelProto, types: dict[str, int], precision: str) -> None:
    import onnx

    wanted = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16}[precision]
    heavy = [node for node in _nodes(model.graph) if node.op_type in _HEAVY]
    for node in heavy:
        if wrong := [name for name in node.input if name and types.get(name) != wanted]:
            found = onnx.TensorProto.DataType.Name(types.get(wrong[0], 0)).lower()
            raise CheckFailed(
                f"an {precision} graph was asked for and node {node.name} ({node.op_type}) reads {wrong[0]} in {found}"
            )


def _check_quantised(model: onnx.ModelProto) -> None:
    kinds = {node.op_type for node in _nodes(model.graph)}
    if not {"QuantizeLinear", "DequantizeLinear"} <= kinds:
        raise NotAvailable(
            "int8 is what the graph's QuantizeLinear and DequantizeLinear say, and this graph has none; "
            "quantise it first, or use --precision fp16"
        )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        if node.op_type != "QuantizeLinear":
            continue
        if (
            node.input[0] not in constants
            and node.input[1] in constants
            and math.prod(constants[node.input[1]].dims) > 1
        ):
            raise NotAvailable(f"node {node.name} has a scale for each channel, which TensorRT takes for weights alone")
        if len(node.input) > 2 and node.input[2] in constants:
            from onnx import numpy_helper

            if numpy_helper.to_array(constants[node.input[2]]).any():
                raise NotAvailable(f"node {node.name} has another zero-point than 0, the only one that TensorRT takes")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of inner graphs (If, Loop) too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(inner)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the main graph that has a known one."""
    graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }
