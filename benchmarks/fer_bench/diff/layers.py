"""Which tensor of one model is which of the other, though frameworks take a net apart differently.

What one exports as a convolution another computes as a convolution, a bias and a batch norm. So
what follows a convolution or a product and is linear too, with constants, belongs to its
layer, which gives what the last of them gives; every other operation is a layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.tracing import Tensor

LINEAR, SUM = "linear", "sum"
_BEGIN = ("convolution", "product")
_GO_ON = ("shift", "scale", "batch norm")


@dataclass(frozen=True)
class Layer:
    """names: of all tensors that it was made of, the last one's first; array: ``[N, ...]``, what the last one holds"""

    names: tuple[str, ...]
    kind: str
    array: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the axis of images."""
        return self.array.shape[1:]

    @property
    def label(self) -> str:
        """A name to look for, and the tensor's own where it has another."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} ({self.names[1]})"


def layers(tensors: Iterable[Tensor]) -> list[Layer]:
    """Puts the tensors of a trace together to layers, in order. Only what a layer gives is kept in memory."""
    found: list[Layer] = []
    for names, kind, array in tensors:
        if kind in _GO_ON and found and found[-1].kind == LINEAR and found[-1].shape == array.shape[1:]:
            before = found.pop()
            found.append(Layer((*names, *(name for name in before.names if name not in names)), before.kind, array))
        else:
            found.append(Layer(names, LINEAR if kind in (*_BEGIN, *_GO_ON) else kind, array))
    return found


def align(a: list[Layer], b: list[Layer], same_form: bool) -> list[tuple[int, int]]:
    """Pairs of places in ``a`` and ``b``, rising in both: as many as can be, of one kind and shape each.

    same_form: both are folded, or neither is. Then a name that both have, or values that agree,
        count for a pair as two more pairs would: parallel branches stand in any order. Else numbered names mean different layers, and a sum of branches may be the
        like of a convolution.

    Of several equally good matches the latest is taken: a sum of branches is complete at its end.
    """
    best = np.zeros((len(a) + 1, len(b) + 1))
    worth = np.zeros((len(a), len(b)))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            kinds = {one.kind, other.kind}
            if one.shape == other.shape and (len(kinds) == 1 or (kinds == {LINEAR, SUM} and not same_form)):
                shared = not set(one.names).isdisjoint(other.names)
                worth[i, j] = 1 + 2 * (same_form and (shared or _alike(one.array, other.array)))
            match = best[i, j] + worth[i, j] if worth[i, j] else 0
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], match)
    pairs: list[tuple[int, int]] = []
    i, j = len(a), len(b)
    while i and j:
        if worth[i - 1, j - 1] and best[i, j] == best[i - 1, j - 1] + worth[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Agreement that no other tensor of the same shape reaches by chance, and that float16 does."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.linalg.norm(a.ravel() - b.ravel()) < 0.01 * np.linalg.norm(a.ravel()))
