"""Begins a large net with what a small one has learnt: it answers alike from the first step on (Net2Net: Chen et al., arXiv 1511.05641).

Wider: a channel that is repeated computes the same, and whoever reads it shares the old weight out among its copies. The
shares are drawn for each reader, so that the copies get gradients of their own and part. Deeper: a block added at the end
of a stage passes on what it gets; behind a ReLU its own does nothing, and its norm is set to undo itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_runtimes.errors import BadInput
from fer_train.nets import FACE_NETS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fer_train.blocks import SummedRepBlock


def can_grow(small: str, large: str) -> bool:
    """Whether ``grow`` makes the net of the second name from that of the first: both ours, of summed blocks, and larger somewhere, smaller nowhere."""
    if small == large or small not in FACE_NETS or large not in FACE_NETS:
        return False
    (block, _, stem, stages), (larger_block, _, larger_stem, larger) = FACE_NETS[small], FACE_NETS[large]
    return (
        block == larger_block == "sum"
        and stem <= larger_stem
        and len(stages) == len(larger)
        and all(a[0] <= b[0] and a[1] <= b[1] and a[2] == b[2] for a, b in zip(stages, larger, strict=True))
    )


def grow(small: Any, large: Any, images: torch.Tensor) -> None:
    """Gives ``large`` weights with which it answers as ``small``, a trained net that is not folded (``can_grow``).

    images: float32 ``[N, 1, S, S]``, normalised; on them the statistics are measured that an added block's norm undoes.
        In training mode, where a norm goes by its batch, the answers are therefore the same only about
    The repeated channels and the shares are drawn from torch's global generator. Raises BadInput where the stems' strides
    differ: another stride sees another image.
    """
    import torch

    strides = [next(part.stride for part in net.stem.modules() if hasattr(part, "stride")) for net in (small, large)]
    if strides[0] != strides[1]:
        raise BadInput(
            f"the smaller net's stem has stride {strides[0][0]}, the larger's {strides[1][0]}; give --stem-stride {strides[0][0]}"
        )

    made = torch.zeros(1, dtype=torch.long)  # which channel of the small net's each channel repeats; the image has one
    parts = [([small.stem], [large.stem]), *zip(small.stages, large.stages, strict=True)]
    with torch.no_grad():
        small.eval()
        for old_blocks, new_blocks in parts:
            for block in old_blocks:
                images = block(images)
            width = images.shape[1]
            more = _width(new_blocks[0]) - width
            repeats = torch.cat([torch.arange(width), torch.randperm(width).repeat(more // width + 1)[:more]])
            for old, new in zip(old_blocks, new_blocks, strict=False):
                _widen(old, new, made, repeats)
                made = repeats
            variance, mean = torch.var_mean(images, (0, 2, 3))
            for added in new_blocks[len(old_blocks) :]:
                _pass_on(added, mean[made], variance[made])
        _widen(small.head.fc, large.head.fc, made, torch.arange(large.head.fc.out_features))


def _width(block: nn.Module) -> int:
    """Channels that a block gives."""
    return next(len(value) for value in block.state_dict().values() if value.dim() == 4)


def _widen(old: nn.Module, new: nn.Module, read: torch.Tensor, made: torch.Tensor) -> None:
    """Copies a block's state; ``read`` and ``made``: which old channel each that the new one reads, and gives, repeats."""
    import torch

    def wider(value: torch.Tensor) -> torch.Tensor:
        if value.dim() < 2:  # of a norm, a bias; or a counter
            return value[made] if value.dim() else value
        draws = torch.rand(len(made), len(read)) + 0.5
        sums = torch.zeros(len(made), value.shape[1]).index_add_(1, read, draws)
        shares = draws / sums[:, read]
        return value[made][:, read] * shares.view(*shares.shape, *[1] * (value.dim() - 2))

    new.load_state_dict({key: wider(value) for key, value in old.state_dict().items()})


def _pass_on(block: SummedRepBlock, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Leaves a block its identity alone, behind a norm that gives back what it takes."""
    bn = block.bn
    block.conv.weight.zero_()
    block.conv.point.zero_()
    undoing = {"running_mean": mean, "running_var": variance, "weight": (variance + bn.eps).sqrt(), "bias": mean}
    bn.load_state_dict(bn.state_dict() | undoing)
