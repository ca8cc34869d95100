"""A RepVGG block whose branches meet as kernels, not as images: it trains at the cost of one convolution.

RepVGG (Ding et al., arXiv 2101.03697) adds a 3x3, a 1x1 and an identity branch, each behind its own BatchNorm. Here one
BatchNorm stands after the sum, the place that QARepVGG (Chu et al., arXiv 2212.01593) gives it for the sake of INT8
(docs/precision.md has what INT8 costs either kind). Without norms the branches are linear, so their kernels can be added
before they meet the image (online reparameterisation: Hu et al., arXiv 2204.00826).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights


class SummedConv2d(nn.Conv2d):
    """A 3x3 convolution with a 1x1 beside it, and the identity where shapes allow; no bias, padding 1."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__(channels_in, channels_out, 3, stride, 1, bias=False, device=device, dtype=dtype)
        self.point = nn.Parameter(torch.empty(channels_out, channels_in, 1, 1, device=device, dtype=dtype))
        nn.init.kaiming_normal_(self.point, mode="fan_out", nonlinearity="relu")
        self.has_identity = channels_in == channels_out and stride == 1

    def kernel(self) -> torch.Tensor:
        """The branches as one kernel ``[out, in, 3, 3]``."""
        kernel: torch.Tensor = self.weight + functional.pad(self.point, (1, 1, 1, 1))
        if self.has_identity:
            eye = torch.eye(self.in_channels, dtype=kernel.dtype, device=kernel.device)
            kernel = kernel + functional.pad(eye[..., None, None], (1, 1, 1, 1))
        return kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._conv_forward(x, self.kernel(), None)
        return y


class SummedRepBlock(nn.Module):
    """The block, as timm's ``ByobNet`` builds it; ``reparameterize`` leaves ``reparam_conv``, one convolution with bias."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        layers: Any = None,
        device: Any = None,
        dtype: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.conv = SummedConv2d(in_chs, out_chs, stride, device, dtype)
        self.bn = nn.BatchNorm2d(out_chs, device=device, dtype=dtype)
        self.reparam_conv: nn.Conv2d | None = None
        self.act = layers.act(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x)) if self.reparam_conv is None else self.reparam_conv(x)
        activated: torch.Tensor = self.act(y)
        return activated

    def reparameterize(self) -> None:
        """Puts one convolution in place of the branches and their norm (eval mode, trained statistics)."""
        if self.reparam_conv is not None:
            return
        conv, bn = self.conv, self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        new = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride, 1).to(conv.weight)  # type: ignore[arg-type]
        new.weight, new.bias = fuse_conv_bn_weights(
            conv.kernel(), None, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        self.reparam_conv = new
        del self.conv, self.bn
