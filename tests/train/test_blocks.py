from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fer_train.blocks import SummedConv2d


@pytest.mark.parametrize(("channels", "stride"), [((8, 8), 1), ((8, 8), 2), ((8, 12), 1)])
def test_summed_kernels_are_the_sum_of_the_branches(channels: tuple[int, int], stride: int) -> None:
    conv = SummedConv2d(*channels, stride).double()
    x = torch.randn(2, channels[0], 9, 9, dtype=torch.float64)
    branches = functional.conv2d(x, conv.weight, stride=stride, padding=1) + functional.conv2d(
        x, conv.point, stride=stride
    )
    if channels[0] == channels[1] and stride == 1:
        branches = branches + x
    assert torch.allclose(conv(x), branches, rtol=0, atol=1e-12)


def test_every_branch_learns() -> None:
    conv = SummedConv2d(4, 4, 1)
    conv(torch.randn(1, 4, 5, 5)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().min() > 0 for parameter in conv.parameters())
