"""Whether float16 can hold a net: its largest weight and activation against the format's range."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import CheckFailed

if TYPE_CHECKING:
    from torch import nn

FLOAT16_LARGEST = float(np.finfo(np.float16).max)  # 65504


@dataclass(frozen=True)
class Largest:
    """The largest magnitude in a net, in float32. tensor: the weight's name, or the module whose output it is in."""

    tensor: str
    value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def largest(net: nn.Module, images: NDArray[np.uint8]) -> Largest:
    """Of all weights, and of what every module gives on ``images`` ``[N, 1, S, S]``; infinite if one is not finite."""
    import torch

    found: dict[str, float] = {}

    def see(name: str, value: torch.Tensor) -> None:
        reach = float(value.detach().abs().max())
        found[name] = max(found.get(name, 0.0), reach if np.isfinite(reach) else np.inf)

    def hook(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.numel():
            see(name, output)

    for name, weight in net.named_parameters():
        see(name, weight)
    hooks = [module.register_forward_hook(partial(hook, name or "logits")) for name, module in net.named_modules()]
    try:
        with torch.inference_mode():
            for part in np.array_split(images, max(1, len(images) // 64)):
                net(torch.from_numpy(part))
    finally:
        for handle in hooks:
            handle.remove()
    tensor = max(found, key=lambda name: found[name])
    return Largest(tensor, found[tensor])


def check_float16(net: nn.Module, images: NDArray[np.uint8]) -> Largest:
    """The largest value, which float16 can hold. Raises CheckFailed naming the tensor that it cannot hold."""
    worst = largest(net, images)
    if worst.value > FLOAT16_LARGEST:
        raise CheckFailed(
            f"{worst.tensor} reaches {worst.value:.3g}, which float16 cannot hold: it ends at {FLOAT16_LARGEST:.0f}; export with --precision fp32"
        )
    return worst
