from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from torch import nn

from fer_export.equalise import equalise
from fer_export.pipeline import Source
from fer_export.quantise import answers, quantise
from fer_export.targets.to_onnx import graph
from fer_export.targets.to_tensorrt import normalisation
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.metrics import softmax


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
    model, images = graph(spoilt), drawn_faces(105, seed=5).images[:, None]
    even, pairs = equalise(model, images[:70])
    assert pairs == 7  # of seven convolutions and the head
    truth = answers(model, images)
    np.testing.assert_array_equal(answers(even, images), truth)

    def divergence(of: onnx.ModelProto) -> float:
        made = quantise(of, images[:70], "minmax", [node.name for node in normalisation(of)])
        p, q = softmax(truth), softmax(answers(made, images))
        return float((p * (np.log(p) - np.log(q))).sum(1).mean())

    assert divergence(even) < divergence(model) / 10


SIDE_READERS = """
agraph (uint8[N,4,6,6] images) => (float[N,4] logits)
<float[4,4,1,1] a, float[4] ab, float[4,4,1,1] b, float[4,1,3,3] d, float[4,4] g, float[4] gb> {
    x = Cast<to=1>(images)
    y = Conv(x, a, ab)
    r = Relu(y)
    z = Conv(r, b)
    s = Add(z, r)
    t = Relu(s)
    u = Conv<group=4>(t, d)
    v = Relu(u)
    p = GlobalAveragePool(v)
    f = Flatten(p)
    logits = Gemm<transB=1>(f, g, gb)
}
"""


def test_a_tensor_that_others_read_too_is_left_alone() -> None:
    """The first pair has a residual connection between them, the second an addition; the depthwise one and the head are a pair."""
    random = np.random.default_rng(0)
    function = onnx.parser.parse_graph(SIDE_READERS)
    shapes = {"a": (4, 4, 1, 1), "ab": (4,), "b": (4, 4, 1, 1), "d": (4, 1, 3, 3), "g": (4, 4), "gb": (4,)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    del function.initializer[:]
    function.initializer.extend(constants)
    model = onnx.helper.make_model(function, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    images = random.integers(0, 256, (16, 4, 6, 6), dtype=np.uint8)
    even, pairs = equalise(model, images)
    assert pairs == 1
    changed = [now.name for was, now in zip(model.graph.initializer, even.graph.initializer, strict=True) if was != now]
    assert changed == ["d", "g"]
    np.testing.assert_array_equal(answers(even, images), answers(model, images))
