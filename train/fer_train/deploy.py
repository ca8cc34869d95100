"""The form in which a net leaves training: grey bytes in, logits out, normalisation inside."""

from __future__ import annotations

import torch
from torch import nn

from fer_train.checkpoint import Checkpoint


class Deployable(nn.Module):
    """uint8 ``[N, 1, S, S]`` to logits ``[N, 7]`` in the net's own dtype.

    Normalisation is one multiplication and one addition, ``x * 1/(255 std) - mean/std``, on the
    device, so that no board has to copy a mean and a standard deviation.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, net: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("scale", torch.tensor(1 / (255 * std), dtype=torch.float64).to(_dtype_of(net)))
        self.register_buffer("offset", torch.tensor(-mean / std, dtype=torch.float64).to(_dtype_of(net)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits: torch.Tensor = self.net(images.to(self.scale.dtype) * self.scale + self.offset)
        return logits


def deployable(checkpoint: Checkpoint, net: nn.Module | None = None) -> Deployable:
    """The checkpoint's net (or ``net`` in its place, e.g. folded or in float64) in that form, in eval mode."""
    return Deployable(
        checkpoint.build() if net is None else net, checkpoint.input["mean"], checkpoint.input["std"]
    ).eval()


def _dtype_of(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype
