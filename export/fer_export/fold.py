"""Folding reparameterised branches into single convolutions, with proof.

timm knows how each block folds (``fuse``, ``reparameterize``, ``switch_to_deploy``). What stands
here is what makes it safe: the fold runs in eval mode and in float64, each folded block and the
whole net must then equal the unfolded ones in float64 on given images, nothing with branches may
be left, and after the cast to float32 no image may change its top-1. Folding in train mode, or
with statistics that were never trained, gives a wrong net without a word; here it is an error.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fer_train.deploy import Deployable

# Rounding of float64 through a few hundred layers stays near 1e-12; a logic error does not.
RELATIVE_BOUND = 1e-9
EXACT_IMAGES = 128  # float64 convolutions are slow; an error of logic shows on any image
_FOLDS = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass(frozen=True)
class Size:
    """parameters; macs: multiply-accumulates of convolutions and linear layers for one image; convolutions: how many."""

    parameters: int
    macs: int
    convolutions: int


@dataclass(frozen=True)
class FoldProof:
    """What was folded and how exactly it equals the original; errors are relative, max |a-b| / max |a|, in float64.

    images: how many the float64 errors were measured on, 0 where there was nothing to fold

    top1_changes: images whose top-1 differs between unfolded and folded float32 nets (must be 0)
    """

    blocks: int
    images: int
    worst_block: str | None
    worst_block_error: float
    net_error: float
    top1_changes: int
    before: Size
    after: Size

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def fold(net: Deployable, images: NDArray[np.uint8]) -> tuple[Deployable, FoldProof]:
    """Folds ``net`` (float32, eval, taking uint8 ``[N, 1, S, S]``) and proves it on ``images``.

    Returns the folded float32 net and the proof; ``net`` is left as it was. A net with nothing to
    fold comes back as it is, with 0 blocks. Raises BadInput for a net in train mode and
    CheckFailed, naming the block, if anything is not equal.
    """
    import torch
    from timm.utils import reparameterize_model

    if training := [name or "net" for name, module in net.named_modules() if module.training]:
        raise BadInput(
            f"the net is in train mode ({training[0]}); BatchNorm must use its trained statistics: call eval() before folding"
        )
    if not _blocks(net):
        return copy.deepcopy(net), nothing_to_fold(net, images)
    batch = torch.from_numpy(images)
    sample = batch[:: max(1, len(images) // EXACT_IMAGES)]
    exact = copy.deepcopy(net).double()
    blocks = _blocks(exact)
    folded = cast("Deployable", reparameterize_model(exact).eval())
    with torch.inference_mode():
        seen, truth = _traced(exact, blocks, sample)
        errors = {name: _relative(y, folded.get_submodule(name)(x)) for name, (x, y) in seen.items()}
        net_error = _relative(truth, folded(sample))
    worst = max(errors, key=lambda name: errors[name], default=None)
    _check_equal(errors, net_error)
    _check_nothing_left(folded, blocks)
    single = folded.float()
    with torch.inference_mode():
        changes = int((net(batch).argmax(1) != single(batch).argmax(1)).sum())
    if changes:
        raise CheckFailed(
            f"folding changes the top-1 of {changes} of {len(images)} images in float32; the net is too ill-conditioned to fold, export it with --no-fold"
        )
    return single, FoldProof(
        len(blocks),
        len(sample),
        worst,
        errors[worst] if worst else 0.0,
        net_error,
        changes,
        measure(net, images[:1]),
        measure(single, images[:1]),
    )


def nothing_to_fold(net: nn.Module, images: NDArray[np.uint8]) -> FoldProof:
    """The proof for a net without branches."""
    size = measure(net, images[:1])
    return FoldProof(0, 0, None, 0.0, 0.0, 0, size, size)


def measure(net: nn.Module, image: NDArray[np.uint8]) -> Size:
    """Counts parameters, multiply-accumulates for one image ``[1, 1, S, S]``, and convolutions that ran."""
    import torch
    from torch import nn

    macs = convolutions = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal macs, convolutions
        if isinstance(module, nn.Conv2d):
            convolutions += 1
            macs += module.weight[0].numel() * output.numel()
        else:
            assert isinstance(module, nn.Linear)
            macs += module.in_features * output.numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.inference_mode():
        net(torch.from_numpy(image))
    for hook in hooks:
        hook.remove()
    return Size(sum(p.numel() for p in net.parameters()), macs, convolutions)


def _blocks(net: nn.Module) -> list[str]:
    """Names of the outermost modules that timm would fold."""
    found: list[str] = []
    for name, module in net.named_modules():
        if any(hasattr(module, method) for method in _FOLDS) and not any(
            name.startswith(f"{outer}.") for outer in found
        ):
            found.append(name)
    return found


def _traced(
    net: nn.Module, names: list[str], batch: torch.Tensor
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Runs the net and keeps what each named block was given and gave (cloned: activations are in place)."""
    given: dict[str, torch.Tensor] = {}
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def before(name: str, _: nn.Module, args: tuple[torch.Tensor]) -> None:
        given[name] = args[0].clone()

    def after(name: str, _: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen[name] = (given[name], output.clone())

    hooks = []
    for name in names:
        block = net.get_submodule(name)
        hooks += [
            block.register_forward_pre_hook(partial(before, name)),
            block.register_forward_hook(partial(after, name)),
        ]
    output: torch.Tensor = net(batch)
    for hook in hooks:
        hook.remove()
    return seen, output


def _relative(truth: torch.Tensor, value: torch.Tensor) -> float:
    scale = float(truth.abs().max())
    return float((truth - value).abs().max()) / scale if scale else float(value.abs().max())


def _check_equal(errors: dict[str, float], net_error: float) -> None:
    for name, error in errors.items():
        if not error <= RELATIVE_BOUND:  # also true of NaN
            raise CheckFailed(
                f"block {name} folds to another function: relative error {error:.1e} in float64, at most {RELATIVE_BOUND:.0e} allowed"
            )
    if not net_error <= RELATIVE_BOUND:
        raise CheckFailed(
            f"the folded net is another function: relative error {net_error:.1e} in float64, at most {RELATIVE_BOUND:.0e} allowed"
        )


def _check_nothing_left(folded: nn.Module, blocks: list[str]) -> None:
    """A folded block is one convolution; squeeze-and-excitation beside it has its own, so it is not counted."""
    from torch import nn

    for name in blocks:
        parts = [
            (path, part) for path, part in folded.get_submodule(name).named_modules() if not path.startswith("attn")
        ]
        norms = [path for path, part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        convolutions = [path for path, part in parts if isinstance(part, nn.Conv2d)]
        if norms or len(convolutions) > 1:
            raise CheckFailed(f"block {name} still has branches after folding: {', '.join(norms + convolutions)}")
