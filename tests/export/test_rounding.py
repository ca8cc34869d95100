from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fer_export.pipeline import Source
from fer_export.rounding import WIDEST, parameters_of, round_weights, with_float
from fer_export.targets.to_onnx import graph
from fer_export.weights8 import quantise
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.images import prepare
from fer_train.deploy import Deployable


def net_of(*layers: nn.Module) -> Deployable:
    torch.manual_seed(0)
    return Deployable(nn.Sequential(*layers), 0.5, 0.25).eval()


def identity_heavy() -> Deployable:
    """A folded RepVGG block as it comes out: one weight of each row far larger than the others."""
    net = net_of(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten())
    middle = net.net[2].weight.data
    middle *= 0.1
    middle[range(16), range(16), 1, 1] += 3
    return net


def nearest(layer: nn.Conv2d) -> torch.Tensor:
    values, scale = quantise(layer.weight.detach().numpy(), 0)
    return torch.from_numpy(values * scale.reshape(-1, 1, 1, 1))


def faces(seed: int) -> np.ndarray:
    return prepare(drawn_faces(70, seed).images, 48)


def test_a_layer_answers_closer_than_with_each_weight_rounded_to_nearest() -> None:
    net, shown = identity_heavy(), torch.from_numpy(faces(2))
    made = round_weights(net, faces(1), 2048, 10**6)[0]
    with torch.no_grad():
        truth, found = net(shown), made(shown)
        net.net[2].weight.data = nearest(net.net[2])
        plain = net(shown)
    assert (found - truth).square().mean() < 0.25 * (plain - truth).square().mean()


def test_who_rounds_them_anew_finds_them_as_they_are() -> None:
    layer = round_weights(identity_heavy(), faces(1), 2048, 10**6)[0].net[2]
    values, _ = quantise(layer.weight.detach().numpy(), 0)
    assert (np.abs(values).reshape(16, -1).max(1) == 127).all()
    assert torch.allclose(nearest(layer), layer.weight, rtol=1e-6, atol=0)
    assert (nearest(layer) != nearest(identity_heavy().net[2])).any()
    half = quantise(layer.weight.detach().half().float().numpy(), 0)[0]  # coremltools rounds from float16
    np.testing.assert_array_equal(half, values)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 64, 3, padding=1, groups=2),
        nn.Conv2d(32, 7, 3, padding=1),  # 2,016 weights
        nn.Conv2d(32, 8, 13),  # an output reads 5,408 values
    ],
    ids=["grouped", "small", "wide"],
)
def test_what_is_grouped_small_or_too_wide_stays_as_it_is(layer: nn.Conv2d) -> None:
    assert layer.groups > 1 or layer.weight.numel() < 2048 or layer.weight[0].numel() > WIDEST
    net = net_of(nn.Conv2d(1, 32, 3, padding=1), layer)
    made = round_weights(net, faces(1)[:4], 2048, 10**6)[0]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), made.parameters(), strict=True))


def test_channels_of_zeros_and_inputs_that_are_never_active_do_no_harm() -> None:
    net = identity_heavy()
    net.net[2].weight.data[3] = 0
    net.net[0].weight.data[5], net.net[0].bias.data[5] = 0, -1  # behind the ReLU this channel is 0
    made = round_weights(net, faces(1), 2048, 10**6)[0]
    assert all(bool(value.isfinite().all()) for value in made.parameters())
    assert not made.net[2].weight[3].any()


def test_a_net_that_would_take_too_long_stays_as_it_is() -> None:
    net = identity_heavy()
    made = round_weights(net, faces(1), 2048, 10**12)[0]
    assert torch.equal(made.net[2].weight, net.net[2].weight)


def test_a_weight_that_the_exporter_transposed_is_found_and_given_back(source: Source) -> None:
    tokens = nn.Linear(36, 16), nn.ReLU(), nn.Flatten(), nn.Linear(128, 7)
    net = net_of(nn.Conv2d(1, 8, 8, stride=8), nn.Flatten(2), *tokens)
    model = graph(dataclasses.replace(source, net=net))
    heavy = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    product = next(node for node in heavy if node.op_type == "MatMul")
    assert product.input[1] not in dict(net.named_parameters())
    read = parameters_of(model, net)
    assert [read[node.name] for node in heavy] == ["net.0.weight", "net.2.weight", "net.5.weight"]
    rounded = round_weights(net, faces(1), 1, 10**6)[0]
    assert not torch.equal(rounded.net[2].weight, net.net[2].weight)
    given_back = with_float(rounded, net, [read[product.name]])
    assert torch.equal(given_back.net[2].weight, net.net[2].weight)
    assert torch.equal(given_back.net[5].weight, rounded.net[5].weight)
