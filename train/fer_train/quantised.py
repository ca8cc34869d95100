"""Quantisation-aware fine-tuning: the folded net learns with its weights and activations rounded to int8.

Rounding is simulated in float for what costs most in the int8 graph of ``fer-export --precision int8``: the weights of
convolutions and products, symmetric with a scale for each output channel, and their inputs, one scale each, uint8 where
never negative. The graph rounds before pooling, sums and gates too; what it loses there it does not learn to avoid.
Gradients pass through it as if it were not there, but stop where a value was clipped (Jacob et al., arXiv 1712.05877).
What is kept are the weights before rounding: the export calibrates and rounds them as those of any other net.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

MOMENTUM = 0.05  # of the moving average of an input's range
_WEIGHT, _INPUT = "parametrizations.weight.original", "rounded_input"


class RoundedWeight(nn.Module):
    """A parametrisation of a weight ``[out, ...]``: rounded to -127..127 steps, a step for each output channel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as int8 would hold it, in float."""
        step = weight.detach().abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny * 127) / 127
        zeros = torch.zeros_like(step, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, step, zeros, 0, -127, 127)


class RoundedInput(nn.Module):
    """Rounds a tensor to 255 steps of its range, which in training is a moving average of what was seen."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values as int8 would hold them, in float; what lies outside the range is clipped."""
        if self.training:
            low, high = (bound.to(self.low) for bound in values.detach().aminmax())
            momentum = torch.where(self.high > self.low, MOMENTUM, 1.0)  # the first batch sets the range
            self.low.lerp_(low.clamp(max=0), momentum)
            self.high.lerp_(high.clamp(min=0), momentum)
        least, most = (0, 255) if self.low == 0 else (-128, 127)
        step = torch.maximum(self.high, -self.low).clamp(min=torch.finfo(self.low.dtype).eps) / most
        zero = torch.zeros((), dtype=torch.int32, device=step.device)
        return torch.fake_quantize_per_tensor_affine(values, step, zero, least, most)


def quantised(folded: nn.Module) -> nn.Module:
    """The same folded net, its convolutions and products now computing on rounded values, in training and in eval mode."""
    folded.requires_grad_(True)
    for part in [part for part in folded.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]:
        parametrize.register_parametrization(part, "weight", RoundedWeight())
        part.add_module(_INPUT, RoundedInput())
        part.register_forward_pre_hook(_round_input)
    return folded


def unrounded(state: dict[str, Any]) -> dict[str, Any]:
    """The state of the folded net, of that of ``quantised`` of it: the weights before rounding, no ranges."""
    return {key.replace(_WEIGHT, "weight"): value for key, value in state.items() if f".{_INPUT}." not in f".{key}"}


def _round_input(part: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (part.get_submodule(_INPUT)(given[0]), *given[1:])
