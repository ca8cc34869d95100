"""Is an engine what was asked for? Judged by what TensorRT's own inspector says of its layers.

A builder that drops a precision without a word is nothing rare: flags that asked for FP16 were
removed in TensorRT 11, and code that guards them writes float32 engines and exits 0. So after
each build the layers are read back. Pure functions over the inspector's JSON.

The JSON, with profiling verbosity DETAILED: ``Layers``, each with ``Name``, ``LayerType``,
``Inputs`` and ``Outputs``, mostly ``TacticName`` and ``Metadata`` (``[ONNX Layer: node]``, one for
each node fused into the layer), and ``Weights: {"Type": "Half", ...}`` for convolutions. A tensor's
type stands in ``Format/Datatype`` up to TensorRT 10 (``Half``, ``Row major linear FP16 format``) and
in ``Datatype`` beside ``Format`` in 11. Described in TensorRT's documentation under "Engine
Inspector" and "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fer_runtimes.errors import CheckFailed

# What a type is called in formats, in data types and in weights.
_TYPES = (
    ("fp16", re.compile(r"\b(half|fp16|float16)\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\b(fp8|float8)\w*", re.IGNORECASE)),
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("uint8", re.compile(r"\buint8\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32|float32)\b", re.IGNORECASE)),
    ("int", re.compile(r"\b(int32|int64|bool)\b", re.IGNORECASE)),
)
_TYPE_KEYS = ("Format/Datatype", "Datatype", "DataType", "Format")
# Layers that multiply and add: TensorRT's own kernels and what its graph compiler calls its own.
_HEAVY = re.compile(r"conv(?!er)|gemm|matrixmultiply|matmul|fullyconnected|mha|attention", re.IGNORECASE)
# One layer that stands for many nodes, of which it names the first and the last: a DLA's share of the net.
_OPAQUE = re.compile(r"\bDLA\b|ForeignNode", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Audit:
    """What the layers are.

    layers: how many; types: how many of each type
    heavy: those that convolve or multiply matrices, counted by precision
    untraced: nodes of the network that no such layer names; fusion can hide one inside a kernel
    """

    layers: int
    types: dict[str, int]
    heavy: dict[str, int]
    untraced: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the engine's record."""
        return asdict(self)


def audit(information: str, precision: str, nodes: Sequence[str] = ()) -> Audit:
    """Reads the inspector's JSON of a whole engine and compares it with the precision asked.

    nodes: names of the network's convolutions and matrix products; a layer made from one counts as such.

    Raises CheckFailed, naming the layer, if the engine is another than asked: fp32 with any layer
    in a smaller type or a TF32 kernel; fp16 or int8 whose convolutions are not; or if the layers'
    types cannot be read at all, since then nothing is known.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(
            f"TensorRT's engine inspector gives no list of layers ({error}); nothing is known of the engine"
        ) from error
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise CheckFailed(
            "the engine does not say what its layers are; it was built without profiling verbosity DETAILED"
        )
    heavy = [layer for layer in layers if _is_heavy(layer, set(nodes))]
    if not heavy:
        raise CheckFailed("no layer of the engine convolves or multiplies; the inspector's JSON is of an unknown kind")
    _RULES[precision](layers, heavy)
    named = {node for layer in heavy for node in onnx_nodes(str(layer.get("Metadata", "")), _name(layer))}
    return Audit(
        len(layers),
        dict(Counter(str(layer.get("LayerType", "?")) for layer in layers)),
        dict(Counter(_precision(layer) for layer in heavy)),
        tuple(node for node in nodes if node not in named),
    )


def onnx_nodes(metadata: str, name: str) -> list[str]:
    """Names of the ONNX nodes that a layer was made from: its metadata says so, else its name, ``a + b``."""
    return _NODE.findall(metadata) or name.split(" + ")


def _only_fp32(layers: Sequence[Mapping[str, Any]], heavy: Sequence[Mapping[str, Any]]) -> None:
    for layer in layers:
        if small := _types(layer) & {"fp16", "bf16", "fp8", "int8"}:
            raise CheckFailed(f"an fp32 engine was asked for and layer {_name(layer)} is in {', '.join(sorted(small))}")
        if "tf32" in str(layer.get("TacticName", "")).lower():
            raise CheckFailed(
                f"an fp32 engine was asked for and layer {_name(layer)} computes in TF32 ({layer['TacticName']})"
            )
    _check_each(heavy, "fp32")


def _all_fp16(layers: Sequence[Mapping[str, Any]], heavy: Sequence[Mapping[str, Any]]) -> None:
    _check_each(heavy, "fp16")


def _some_int8(layers: Sequence[Mapping[str, Any]], heavy: Sequence[Mapping[str, Any]]) -> None:
    # Which layers are quantised is the graph's choice: where it has no QuantizeLinear, they stay wider.
    if not any(_precision(layer) == "int8" for layer in heavy):
        raise CheckFailed(
            f"an int8 engine was asked for and none of its {len(heavy)} convolutions and matrix products is in int8"
        )


_RULES = {"fp32": _only_fp32, "fp16": _all_fp16, "int8": _some_int8}


def _check_each(heavy: Sequence[Mapping[str, Any]], precision: str) -> None:
    wrong = [layer for layer in heavy if _precision(layer) != precision]
    if wrong:
        raise CheckFailed(
            f"an {precision} engine was asked for and {len(wrong)} of its {len(heavy)} convolutions and matrix products are not: "
            f"{_name(wrong[0])} is in {_precision(wrong[0])}"
        )


def _is_heavy(layer: Mapping[str, Any], nodes: set[str]) -> bool:
    """By the nodes it was made from where they are known, else by what it calls itself."""
    kind = str(layer.get("LayerType", ""))
    if kind.lower() in ("reformat", "constant", "noop", "shuffle"):  # copies carry their consumer's nodes in their name
        return False
    return (
        bool(_HEAVY.search(kind))
        or layer.get("ParameterType") == "Convolution"
        or _is_opaque(layer)
        or not nodes.isdisjoint(onnx_nodes(str(layer.get("Metadata", "")), _name(layer)))
    )


def _is_opaque(layer: Mapping[str, Any]) -> bool:
    return bool(_OPAQUE.search(f"{layer.get('LayerType', '')} {_name(layer)}"))


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("Name", "without a name"))


def _precision(layer: Mapping[str, Any]) -> str:
    """What a layer multiplies in: the type of its weights where they are told, else the smallest type that it reads.

    Outputs do not count: a kernel may write wider than it reads, as the last one does.
    """
    weights = layer.get("Weights")
    if isinstance(weights, dict) and (found := _type(str(weights.get("Type", "")))):
        return found
    read = {_tensor_type(tensor) for tensor in _tensors(layer, "Inputs")}
    return next((kind for kind in ("int8", "fp8", "fp16", "bf16", "fp32") if kind in read), "an unknown type")


def _types(layer: Mapping[str, Any]) -> set[str]:
    tensors = [*_tensors(layer, "Inputs"), *_tensors(layer, "Outputs")]
    return {_precision(layer), *(found for tensor in tensors if (found := _tensor_type(tensor)))}


def _tensors(layer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [tensor for tensor in layer.get(key) or [] if isinstance(tensor, dict)]


def _tensor_type(tensor: Mapping[str, Any]) -> str | None:
    return next((found for key in _TYPE_KEYS if key in tensor and (found := _type(str(tensor[key])))), None)


def _type(text: str) -> str | None:
    return next((name for name, pattern in _TYPES if pattern.search(text)), None)
