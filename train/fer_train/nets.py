"""Architectures: timm's and torchvision's by name, and nets of timm's blocks shaped for a 48-pixel face.

An ImageNet net halves its input five times, which leaves 1.5 pixels of a 48-pixel face. The nets
here halve it four times: 24, 12, 6 and 3 pixels. They are data for timm's own ByobNet, so timm's
blocks, initialisation and reparameterisation serve them as they serve ``mobileone_s0``.

Blocks: MobileOne (Vasu et al., arXiv 2206.04040), RepVGG (Ding et al., arXiv 2101.03697), and ours of ``blocks``.
"""

from __future__ import annotations

from fnmatch import fnmatch
from functools import partial
from typing import TYPE_CHECKING, Any

from fer_runtimes.errors import BadInput
from fer_runtimes.labels import LABELS
from fer_train.classics import CLASSICS, build_classic

if TYPE_CHECKING:
    from torch import nn

# name: (block, branches, stem channels, ((depth, channels, stride), ...))
FACE_NETS: dict[str, tuple[str, int, int, tuple[tuple[int, int, int], ...]]] = {
    "fer_mobileone_xs": ("one", 4, 16, ((2, 32, 2), (2, 64, 2), (2, 128, 2))),
    "fer_mobileone_s": ("one", 4, 32, ((2, 64, 2), (3, 128, 2), (1, 256, 2))),
    "fer_mobileone_m": ("one", 4, 32, ((1, 48, 1), (2, 96, 2), (3, 160, 2), (1, 256, 2))),
    "fer_repvgg_n": ("rep", 1, 24, ((2, 48, 2), (3, 96, 2), (1, 160, 2))),
    "fer_repvgg_xs": ("rep", 1, 16, ((2, 32, 2), (2, 64, 2), (2, 128, 2))),
    "fer_repvgg_s": ("rep", 1, 32, ((2, 64, 2), (3, 128, 2), (1, 256, 2))),
    "fer_nano": ("sum", 1, 24, ((2, 48, 2), (2, 96, 2), (1, 160, 2))),
    "fer_small": ("sum", 1, 48, ((2, 96, 2), (3, 160, 2), (1, 256, 2))),
    "fer_base": ("sum", 1, 48, ((2, 64, 1), (4, 128, 2), (5, 256, 2), (1, 384, 2))),
    "fer_repvgg_m": ("rep", 1, 32, ((1, 48, 1), (2, 96, 2), (3, 160, 2), (1, 256, 2))),
}


def list_nets(pattern: str = "*") -> list[str]:
    """Names that ``build_net`` takes and that match a shell pattern, ours first."""
    import timm

    return [name for name in (*FACE_NETS, *CLASSICS) if fnmatch(name, pattern)] + timm.list_models(pattern)


def build_net(
    name: str, size: int, stem_stride: int | None = None, drop_rate: float = 0.0, drop_path_rate: float = 0.0
) -> nn.Module:
    """Builds a net for grey faces, float32 ``[N, 1, size, size]`` normalised, to logits ``[N, 7]``.

    stem_stride: stride of the convolution that reads the image, where it is to differ from the
    architecture's own (1 keeps a small face large).

    Raises BadInput for an unknown name, a size that the architecture cannot take, or a stem
    stride where no strided 3-to-7-pixel convolution reads the image.
    """
    import timm

    args: dict[str, Any] = {"num_classes": len(LABELS), "in_chans": 1, "drop_rate": drop_rate}
    if drop_path_rate:  # an architecture without paths to drop (VGG, Inception) knows no such word
        args["drop_path_rate"] = drop_path_rate
    if name in FACE_NETS:
        net = _face_net(name, args)
    elif name in CLASSICS:
        if drop_path_rate:
            raise BadInput(f"model {name} has no paths to drop; leave drop_path_rate at 0")
        net = build_classic(name, size, **args)
    elif timm.is_model(name):
        facts = timm.get_pretrained_cfg(name)
        if facts is not None and facts.fixed_input_size:
            args["img_size"] = size
        try:
            net = timm.create_model(name, pretrained=False, **args)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            raise BadInput(f"model {name} cannot be built for {size}x{size} grey faces: {error}") from error
    else:
        raise BadInput(f"model {name!r} is unknown; see fer-train --list-models '*'")
    if stem_stride is not None:
        _set_stem_stride(net, name, stem_stride)
    return net


def _face_net(name: str, args: dict[str, Any]) -> nn.Module:
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    from fer_train.blocks import SummedRepBlock

    block, branches, stem, stages = FACE_NETS[name]
    if block == "sum" and args.get("drop_path_rate"):
        raise BadInput(f"model {name} has no paths to drop, its branches are one kernel; leave drop_path_rate at 0")
    kinds: dict[str, tuple[Any, dict[str, int] | None, str]] = {  # of block: its type, arguments, stem
        "one": ("one", {"num_conv_branches": branches}, "one"),
        "rep": ("rep", None, "rep"),
        "sum": (partial(SummedRepBlock), None, "rep"),  # timm takes a name of its own or a partial
    }
    kind, block_args, stem_type = kinds[block]
    blocks = tuple(
        ByoBlockCfg(type=kind, d=depth, c=channels, s=stride, gs=0, block_kwargs=block_args)
        for depth, channels, stride in stages
    )
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type=stem_type, stem_pool="", stem_chs=stem), **args)


def _set_stem_stride(net: nn.Module, name: str, stride: int) -> None:
    """Only the stem reads one channel with one group; in a reparameterised stem several branches do."""
    from torch import nn

    stem = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 1 and m.groups == 1]
    if not stem or any(m.kernel_size[0] > 7 for m in stem) or any(m.stride[0] > 2 for m in stem):
        raise BadInput(f"model {name} has no convolutional stem whose stride could be set; leave --stem-stride out")
    for conv in stem:
        conv.stride = (stride, stride)
