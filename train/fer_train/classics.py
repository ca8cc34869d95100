"""Backbones that timm does not have: torchvision's early ones, made for one grey channel, and ZFNet.

They are built, trained, kept and exported as timm's are; ``build_net`` takes them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_runtimes.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Classic:
    """build: takes the number of classes and the dropout before the classifier; least: pixels that the poolings need."""

    build: Callable[[int, float], nn.Module]
    least: int


def build_classic(name: str, size: int, num_classes: int, in_chans: int, drop_rate: float) -> nn.Module:
    """Builds a net of the table, random weights. Raises BadInput for images too small for it.

    drop_rate: as timm's, 0 by default; the papers' own nets drop half of the classifier's inputs.
    """
    row = CLASSICS[name]
    if size < row.least:
        raise BadInput(f"model {name} takes images of {row.least} pixels or more, not {size}; choose a larger --size")
    net = row.build(num_classes, drop_rate)
    _set_channels(net, in_chans)
    return net


def _set_channels(net: nn.Module, channels: int) -> None:
    """Puts a convolution of so many input channels in place of the one that reads the image, drawn by torch's own rule."""
    from torch import nn

    path, old = next((path, part) for path, part in net.named_modules() if isinstance(part, nn.Conv2d))
    if old.in_channels == channels:
        return
    kernel, stride, padding = old.kernel_size, old.stride, old.padding
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)  # type: ignore[arg-type]
    outer, _, name = path.rpartition(".")
    setattr(net.get_submodule(outer), name, new)


def _of_torchvision(name: str, **args: Any) -> Callable[[int, float], nn.Module]:
    def build(num_classes: int, drop_rate: float) -> nn.Module:
        import torchvision

        net: nn.Module = getattr(torchvision.models, name)(num_classes=num_classes, dropout=drop_rate, **args)
        return net

    return build


def _zfnet(num_classes: int, drop_rate: float) -> nn.Module:
    """Zeiler and Fergus, arXiv 1311.2901, figure 3: AlexNet with a first layer that sees finer.

    The pooling before the classifier keeps its 6x6 inputs at any image size, as in torchvision's AlexNet.
    """
    from torch import nn

    def relu() -> nn.Module:
        return nn.ReLU(inplace=True)

    def shrink(normalised: bool) -> list[nn.Module]:
        norm = [nn.LocalResponseNorm(5, k=2.0)] if normalised else []
        return [nn.MaxPool2d(3, 2, padding=int(normalised)), *norm]

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 7, 2, padding=1), relu(), *shrink(True)),
        *(nn.Conv2d(96, 256, 5, 2), relu(), *shrink(True)),
        *(nn.Conv2d(256, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1), relu(), *shrink(False)),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Linear(256 * 6 * 6, 4096), relu(), nn.Dropout(drop_rate)),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout(drop_rate)),
        nn.Linear(4096, num_classes),
    )


CLASSICS: dict[str, Classic] = {
    "alexnet": Classic(_of_torchvision("alexnet"), 63),
    # without the two helpers of its training, which BatchNorm made needless
    "googlenet": Classic(_of_torchvision("googlenet", aux_logits=False, init_weights=True), 15),
    "squeezenet1_1": Classic(_of_torchvision("squeezenet1_1"), 17),
    "zfnet": Classic(_zfnet, 53),
}
