"""Weights on the int8 grid of their output channel, each rounded with regard to those that were rounded before it.

OPTQ (Frantar et al., arXiv 2210.17323): rounding the weights of a row to nearest adds up their errors as if what they read
were independent, and neighbouring pixels of a feature map are anything but. So the weights are rounded one input at a time,
and each error is made up for, as far as the inputs' correlations on real images allow, by the weights that are still to come.
A RepVGG block needs it: its identity branch gives a row one weight that is far larger than the others and sets their step.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fer_export.quantise import HEAVY

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

    from fer_export.fold import Size
    from fer_train.deploy import Deployable

LEVELS = 127
WIDEST = 4608  # values that one output reads (512 channels of 3x3); the correlations of more would fill the memory
_DAMPING = 0.01  # of the mean diagonal, as in the paper
MOST_WORK = 5e12  # multiply-accumulates of all passes together: a minute or two; a larger net is rounded to nearest
_BATCH = 32
_ROWS = 2**17  # of what is read, spread over all images: a large map has more than the correlations need


def round_weights(net: Deployable, images: NDArray[np.uint8], smallest: int, macs: int) -> tuple[Deployable, int]:
    """A copy whose weights of ``smallest`` values or more are whole multiples, -127 to 127, of a scale for each output channel; of how many layers.

    The largest weight of a channel is 127 scales, so whoever rounds them anew in this manner finds them as they are.
    images: uint8 ``[N, 1, S, S]``; layer after layer is rounded on what the rounded ones before it make of them.
    macs: multiply-accumulates of one image. Grouped convolutions, layers whose outputs read more than ``WIDEST`` values, and
    nets that would take over ``MOST_WORK`` are left as they are.
    """
    import torch
    from torch import nn

    rounded = copy.deepcopy(net)
    views = torch.from_numpy(np.ascontiguousarray(images))
    every = [part for part in rounded.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    layers = [layer for layer in every if _can_be_rounded(layer, smallest)]
    if macs * len(views) * len(layers) > MOST_WORK:
        return rounded, 0
    for layer in layers:
        correlations, weight = _correlations(rounded, layer, views), layer.weight.data
        layer.weight.data = _rounded(weight.flatten(1).double(), correlations).to(weight.dtype).view_as(weight)
    return rounded, len(layers)


def told(layers: int, size: Size) -> str:
    """In words, of how many of the net's layers the weights were rounded with regard to each other."""
    return (
        f"weights of {layers} layers rounded with regard to each other (OPTQ), those of others to nearest"
        if layers
        else (
            f"each weight rounded to nearest: OPTQ takes none of its layers, or would take too long for {size.macs / 1e6:.0f} M MACs"
        )
    )


def with_float(rounded: Deployable, before: Deployable, weights: Collection[str]) -> Deployable:
    """A copy of ``rounded`` in which the parameters of those names are as they were before."""
    import torch

    result = copy.deepcopy(rounded)
    own, old = dict(result.named_parameters()), dict(before.named_parameters())
    with torch.no_grad():
        for name in weights:
            own[name].copy_(old[name])
    return result


def parameters_of(model: onnx.ModelProto, net: Deployable) -> dict[str, str]:
    """Of each convolution and product of the net's graph, by its node's name, the net's parameter that it multiplies with.

    The exporter keeps a weight's name, but where it transposes it: such a one is known by its values. What multiplies two
    computed tensors, as attention does, has none.
    """
    from onnx import numpy_helper

    parameters = {name: value.detach().numpy() for name, value in net.named_parameters()}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in HEAVY:
            continue
        weight = node.input[1]
        if weight not in parameters and weight in stored:
            value = numpy_helper.to_array(stored[weight])
            weight = next((name for name, own in parameters.items() if np.array_equal(own.T, value)), "")
        if weight in parameters:
            found[node.name] = weight
    return found


def _can_be_rounded(layer: nn.Conv2d | nn.Linear, smallest: int) -> bool:
    reads = layer.weight[0].numel()
    whole = getattr(layer, "groups", 1) == 1 and not isinstance(getattr(layer, "padding", 0), str)
    return whole and layer.weight.numel() >= smallest and reads <= WIDEST


def _correlations(net: nn.Module, layer: nn.Conv2d | nn.Linear, views: torch.Tensor) -> torch.Tensor:
    """Mean products, float64 ``[K, K]``, of the K values that an output of the layer reads."""
    import torch
    from torch import nn
    from torch.nn import functional

    reads = layer.weight[0].numel()
    total, count = torch.zeros(reads, reads, dtype=torch.float64), 0

    def add(_: nn.Module, given: tuple[torch.Tensor]) -> None:
        nonlocal total, count
        for x in given[0].split(1):  # the columns of a whole batch may not fit the memory
            if isinstance(layer, nn.Conv2d):
                size, padding = cast("tuple[int, int]", layer.kernel_size), cast("tuple[int, int]", layer.padding)
                x = functional.unfold(x, size, layer.dilation, padding, layer.stride).transpose(1, 2)
            rows = x.reshape(-1, reads)
            rows = rows[:: -(-len(rows) * len(views) // _ROWS)]
            total += (rows.T @ rows).double()
            count += len(rows)

    hook = layer.register_forward_pre_hook(add)
    try:
        with torch.inference_mode():
            for part in views.split(_BATCH):
                net(part)
    finally:
        hook.remove()
    return total / max(count, 1)


def _rounded(weight: torch.Tensor, correlations: torch.Tensor) -> torch.Tensor:
    """``weight`` ``[O, K]`` on its grid; both are float64. The inputs of most energy are rounded first."""
    import torch

    largest = weight.abs().amax(1)
    scale = torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))
    peak, sign = weight.abs().argmax(1), weight.gather(1, weight.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    order = correlations.diagonal().argsort(descending=True)
    mean = float(correlations.diagonal().mean()) or 1.0
    damped = correlations[order][:, order] + torch.eye(len(order), dtype=weight.dtype) * _DAMPING * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    share = torch.linalg.cholesky(inverse, upper=True)
    left, grid = weight[:, order].clone(), torch.empty_like(weight)
    for i, column in enumerate(order.tolist()):
        steps = (left[:, i] / scale).round().clamp(-LEVELS, LEVELS)
        steps = torch.where(peak == column, sign * LEVELS, steps)
        grid[:, column] = steps * scale
        error = (left[:, i] - grid[:, column]) / share[i, i]
        left[:, i + 1 :] -= error[:, None] * share[i, i + 1 :]
    return grid
