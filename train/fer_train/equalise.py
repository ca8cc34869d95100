"""Evens out the ranges of a tensor's channels before weights or activations get int8 scales; no bit of the float answers changes.

What a layer writes to channel i is divided by s_i, and what the next one reads from it multiplied: between them stand only
operators that commute with a positive factor, such as ReLU (Nagel et al., arXiv 1906.04721). How far to go is weighed as in
SmoothQuant (Xiao et al., arXiv 2211.10438), s_i = sqrt(max |x_i| / max |w_i|). Here s_i is a power of two, so nothing is rounded.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node

    from fer_train.deploy import Deployable

IMAGES = 128  # on which channels are weighed against each other, of those given
# A channel that no image makes active counts as one of this share of the tensor's range. RepVGG's identity branch gives
# such channels the largest weights of all (BatchNorm divides by their spread), and each spoils a whole row's scale.
FLOOR = 1e-3
_LARGEST = 24  # exponent of a factor: a weight that has all but vanished must not make one that float32 cannot hold
# Layers whose second and third arguments are weight and bias, the channels that they write along the first axis.
_WRITERS = ("aten.conv2d.default", "aten.linear.default", "aten.batch_norm.default")
# Operators f with f(s x) = s f(x) for s > 0, channel by channel.
_COMMUTING = (
    "aten.adaptive_avg_pool2d.default",
    "aten.alias.default",
    "aten.avg_pool2d.default",
    "aten.dropout.default",
    "aten.flatten.using_ints",
    "aten.leaky_relu.default",
    "aten.leaky_relu_.default",
    "aten.max_pool2d.default",
    "aten.mean.dim",
    "aten.relu.default",
    "aten.relu_.default",
    "aten.reshape.default",
    "aten.view.default",
)


@dataclass(frozen=True)
class _Pair:
    """A layer that writes channels and the one that reads them: names of parameters; axis: of the reader's weight."""

    read: Node
    written_by: tuple[str, ...]
    weight: str
    axis: int


def equalise(net: Deployable, images: NDArray[np.uint8]) -> tuple[Deployable, int]:
    """A float net with the same answers and more even channels, and how many pairs of layers were evened out.

    net: folded, in eval mode; images: uint8 ``[N, 1, S, S]``, of which the first ``IMAGES`` give the channels' ranges
    """
    import torch

    result = copy.deepcopy(net)
    seen = torch.from_numpy(images[:IMAGES])
    with torch.no_grad():
        program = torch.export.export(result, (seen,))
        pairs = _pairs(program)
        ranges = _ranges(program, {pair.read for pair in pairs}, seen)
        values = dict(result.named_parameters())
        for pair in pairs:
            weight = values[pair.weight]
            factors = _factors(ranges[pair.read], weight.abs().transpose(0, pair.axis).flatten(1).amax(1))
            weight.mul_(factors.reshape([-1 if axis == pair.axis else 1 for axis in range(weight.ndim)]))
            for name in pair.written_by:
                values[name].div_(factors.reshape(-1, *[1] * (values[name].ndim - 1)))
    return result, len(pairs)


def _pairs(program: ExportedProgram) -> list[_Pair]:
    """Layers with nothing but commuting operators between them, nobody else reading on the way, and parameters of their own."""
    parameters = program.graph_signature.inputs_to_parameters
    found = []
    for reader in program.graph.nodes:
        if (axis := _read_axis(reader)) is None:
            continue
        read: Node = reader.args[0]
        writer, channels = read, _shape(read)[1]
        while str(writer.target) in _COMMUTING and _alone(writer, channels):
            writer = writer.args[0]  # type: ignore[assignment]
        if str(writer.target) not in _WRITERS or not _alone(writer, channels):
            continue
        constants = [node for node in (*writer.args[1:3], reader.args[1]) if node is not None]
        if len(constants) > 1 and all(len(node.users) == 1 and node.name in parameters for node in constants):
            *written, weight = (parameters[node.name] for node in constants)
            found.append(_Pair(read, tuple(written), weight, axis))
    return found


def _read_axis(node: Node) -> int | None:
    """The axis of a layer's weight for the channels ``[N, C, ...]`` that it reads; None for other operators, and for groups of several."""
    if str(node.target) == "aten.linear.default":
        return 1 if len(_shape(node.args[0])) == 2 else None
    if str(node.target) != "aten.conv2d.default":
        return None
    groups = node.args[6] if len(node.args) > 6 else 1
    if groups == 1:
        return 1
    return 0 if groups == _shape(node.args[1])[0] and _shape(node.args[1])[1] == 1 else None


def _alone(node: Node, channels: int) -> bool:
    """Whether one node alone reads this one, whose second axis still is those channels."""
    return len(node.users) == 1 and len(_shape(node)) > 1 and _shape(node)[1] == channels


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(getattr(value, "shape", ()))


def _ranges(program: ExportedProgram, wanted: set[Node], images: torch.Tensor) -> dict[Node, torch.Tensor]:
    """Of each wanted tensor ``[N, C, ...]``: max |x| of each channel."""
    from torch.fx import Interpreter

    found = {}

    class Watching(Interpreter):
        def run_node(self, node: Node) -> Any:
            value = super().run_node(node)
            if node in wanted:
                found[node] = value.abs().transpose(0, 1).flatten(1).amax(1)
            return value

    constants = {**program.state_dict, **program.constants}
    named = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    places = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    Watching(program.graph_module).run(*(images if named[name] is None else constants[named[name]] for name in places))
    return found


def _factors(activations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """s_i ``[C]``, powers of two around 1; 1 where a channel is never read."""
    import torch

    exponents = torch.zeros_like(activations)
    used = (weights > 0) & activations.any()
    if used.any():
        active = activations.clamp(min=FLOOR * float(activations.max()))
        exponents[used] = torch.log2(active[used] / weights[used]) / 2
        exponents[used] -= exponents[used].median()
    return torch.exp2(exponents.round().clamp(-_LARGEST, _LARGEST))
