from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_train.blocks import SummedRepBlock
from fer_train.grow import can_grow, grow
from fer_train.loop import LAST, logits_of, train
from fer_train.nets import FACE_NETS, build_net
from fer_train.recipe import Recipe

SMALL, LARGE = "small_for_tests", "large_for_tests"


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACE_NETS, SMALL, ("sum", 1, 8, ((1, 12, 2), (2, 16, 2), (1, 24, 2))))
    monkeypatch.setitem(FACE_NETS, LARGE, ("sum", 1, 8, ((2, 30, 2), (4, 24, 2), (1, 48, 2))))


def trained_like(name: str) -> torch.nn.Module:
    """A net whose norms have statistics, scales and offsets of their own, as training leaves them."""
    net = build_net(name, 48)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
        net.head.fc.weight.normal_()
        for _ in range(20):
            net.train()(torch.randn(32, 1, 48, 48))
    return net.eval()


def test_a_grown_net_answers_as_the_one_it_was_made_of() -> None:
    torch.manual_seed(0)
    small, large, images = trained_like(SMALL), build_net(LARGE, 48), torch.randn(64, 1, 48, 48)
    grow(small, large, images)
    with torch.no_grad():
        before, after = small(images), large.eval()(images)
    assert before.std(0).min() > 0.01
    assert torch.allclose(before, after, rtol=1e-5, atol=1e-5)


def test_another_stride_of_the_stem_is_refused() -> None:
    small, large = build_net(SMALL, 48, stem_stride=1), build_net(LARGE, 48)
    with pytest.raises(BadInput, match="stem has stride 1, the larger's 2; give --stem-stride 1"):
        grow(small, large, torch.zeros(2, 1, 48, 48))


def test_copies_of_a_channel_part_and_added_blocks_learn() -> None:
    torch.manual_seed(0)
    small, large, images = trained_like(SMALL), build_net(LARGE, 48), torch.randn(64, 1, 48, 48)
    grow(small, large, images)
    block = large.stages[2][0]  # 48 channels made of 24: the second half repeats the first
    source = [int((block.bn.running_mean[:24] == value).nonzero()[0]) for value in block.bn.running_mean[24:]]
    assert torch.equal(block.bn.weight[24:], block.bn.weight[source])
    large.train()(images).logsumexp(1).mean().backward()
    gradient = block.conv.weight.grad
    assert (gradient[24:] - gradient[source]).abs().amax((1, 2, 3)).min() > 1e-3 * gradient.abs().max()
    added = large.stages[1][3]
    assert isinstance(added, SummedRepBlock)
    assert added.conv.weight.abs().max() == 0
    assert added.conv.weight.grad is not None
    assert added.conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("small", "large", "fine"),
    [
        ("fer_small", "fer_base", False),  # larger maps
        (SMALL, LARGE, True),
        (LARGE, SMALL, False),
        ("fer_small", "fer_small", False),
        ("fer_nano", "fer_small", True),
        ("fer_repvgg_n", "fer_small", False),  # blocks of another kind
        ("resnet18", "resnet50", False),
    ],
)
def test_only_our_own_grow_and_never_smaller(small: str, large: str, fine: bool) -> None:
    assert can_grow(small, large) == fine


def test_a_run_begins_with_what_the_smaller_net_answers(tmp_path: Path) -> None:
    data, held_out = drawn_faces(210, seed=1, split="Training"), drawn_faces(140, seed=2)
    recipe = replace(Recipe(), model=SMALL, epochs=2, batch_size=16, lr=0.03, warmup=0.5, ema=0.9)
    small = train(recipe, data, held_out, tmp_path / "small")
    still = replace(recipe, model=LARGE, epochs=1, lr=1e-9)
    large = train(still, data, held_out, tmp_path / "large", start=tmp_path / "small" / LAST)
    images = torch.from_numpy(held_out.images[:, None].copy())
    before, after = (
        logits_of(one.build(), images, one.input["mean"], one.input["std"]).ravel() for one in (small, large)
    )
    assert np.corrcoef(before, after)[0, 1] > 0.9  # the norms' statistics moved, nothing else
    assert large.model["name"] == LARGE
    assert large.metrics["began_with"]["recipe"]["model"] == SMALL
    with pytest.raises(BadInput, match="do not fit"):
        train(replace(still, model=SMALL), data, held_out, tmp_path / "no", start=tmp_path / "large" / LAST)
