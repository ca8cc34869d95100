from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fer_export.pipeline import Source, export
from fer_export.quantise import answers, quantise
from fer_export.reference import make_reference
from fer_export.targets.to_onnx import graph
from fer_export.targets.to_tensorrt import normalisation
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.metrics import softmax
from fer_train.deploy import Deployable
from fer_train.equalise import equalise


def widened(first: nn.Conv2d, second: nn.Conv2d) -> None:
    """One channel a thousand times as wide between two layers: a ReLU hands factors on."""
    channel = int(first.weight.abs().flatten(1).amax(1).argmax())
    first.weight.data[channel] *= 1000
    first.bias.data[channel] *= 1000  # type: ignore[union-attr]
    second.weight.data[:, channel] /= 1000


def dead(first: nn.Conv2d, second: nn.Conv2d) -> None:
    """A channel that is never active, and read with weights a thousand times the others': RepVGG's identity branch makes such."""
    first.bias.data[0] = -1e3  # type: ignore[index]
    second.weight.data[:, 0] = 1e3 * second.weight.data.abs().max()


@pytest.mark.parametrize("spoil", [widened, dead])
def test_what_one_scale_a_tensor_cannot_hold_is_evened_out_and_no_bit_of_the_float_answers_changes(
    source: Source, spoil: Callable[[nn.Conv2d, nn.Conv2d], None]
) -> None:
    spoilt = copy.deepcopy(source)
    spoil(*[module for module in spoilt.net.modules() if isinstance(module, nn.Conv2d)][2:4])
    images = drawn_faces(105, seed=5).images[:, None]
    net, pairs = equalise(spoilt.net, images[:70])
    assert pairs == 7  # of seven convolutions and the head
    model, even = graph(spoilt), graph(dataclasses.replace(spoilt, net=net))
    truth = answers(model, images)
    np.testing.assert_array_equal(answers(even, images), truth)

    def divergence(of: onnx.ModelProto) -> float:
        made = quantise(of, images[:70], "minmax", [node.name for node in normalisation(of)])
        p, q = softmax(truth), softmax(answers(made, images))
        return float((p * (np.log(p) - np.log(q))).sum(1).mean())

    assert divergence(even) < divergence(model) / 10


class Branching(nn.Module):
    """A residual connection around the second convolution, and after the sum a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shared = self.first(images).relu()
        total = (self.second(shared) + shared).relu()
        logits: torch.Tensor = self.head(self.norm(self.depthwise(total)).relu().mean((2, 3)))
        return logits


def test_a_tensor_that_others_read_too_is_left_alone() -> None:
    """The first two convolutions have a reader beside them, the third an addition before it; its norm and the head are a pair."""
    torch.manual_seed(0)
    net = Deployable(Branching(), 0.5, 0.25).eval()
    images = np.random.default_rng(0).integers(0, 256, (16, 1, 6, 6), dtype=np.uint8)
    even, pairs = equalise(net, images)
    assert pairs == 1
    before, after = net.state_dict(), even.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"net.norm.weight", "net.head.weight"}  # its bias is zero
    with torch.no_grad():
        assert torch.equal(net(torch.from_numpy(images)), even(torch.from_numpy(images)))


def test_int8_weights_of_a_net_with_a_dead_channel_keep_their_bound(source: Source, tmp_path: Path) -> None:
    spoilt = copy.deepcopy(source)
    dead(*[module for module in spoilt.net.modules() if isinstance(module, nn.Conv2d)][2:4])
    spoilt = dataclasses.replace(spoilt, reference=make_reference(spoilt.net, drawn_faces(160, seed=0), 48, 1.0))
    bundle = export(spoilt, "onnx", tmp_path, "int8-weights")
    assert bundle.manifest.parity is not None
