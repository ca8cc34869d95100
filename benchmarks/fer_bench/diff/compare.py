"""Walks two models side by side on the same images and finds the first layer that departs.

Rounding differs from engine to engine, and its effect grows from layer to layer, a little each
time; a fault makes the error leap. A layer departs if its relative error is more than ``LEAP``
times the largest of any matched layer before it, and than one rounding to the coarser precision of
the two. Everything after the first that departs is wrong as well, and says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.diff.layers import Layer, align, layers
from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import BadInput
from fer_runtimes.session import Options, open_session
from fer_runtimes.tracing import OUTPUT, open_tracer, tracing_runtime

LEAP = 16.0
# Half a unit in the last place at 1: the largest relative error of one rounding. int8-weights: half a step of 127; int8: that
# of the weights and that of what they multiply.
ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-7, "int8-weights": 2.0**-8}
# What fer-export evens out: each channel of a tensor between two layers is a power of two times what it is in the others.
_EVENED_OUT = ("int8", "int8-weights")
BATCH = 16
_BATCH_BYTES = 512 << 20  # of the tensors of one model


@dataclass(frozen=True)
class Side:
    """One of the two: its bundle, and the runtime that shows its tensors."""

    bundle: Bundle
    runtime: str


@dataclass
class Sums:
    """Of all elements of a pair of tensors, over the batches seen. ``broken``: one is not finite where the other is, or is unlike it."""

    difference: float = 0.0
    a: float = 0.0
    b: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    broken: bool = False

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Two arrays of one shape."""
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            self.broken |= not np.array_equal(a[~finite], b[~finite], equal_nan=True)
            a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
        d = x - y
        self.difference += float(d @ d)
        self.a += float(x @ x)
        self.b += float(y @ y)
        self.product += float(x @ y)
        self.largest = max(self.largest, float(np.abs(d).max(initial=0)))

    @property
    def relative(self) -> float:
        """``||a - b|| / ||a||``; infinite where ``a`` is all zero and ``b`` is not, or where one is not finite."""
        if self.broken or (self.difference and not self.a):
            return math.inf
        return math.sqrt(self.difference / self.a) if self.difference else 0.0

    @property
    def cosine(self) -> float:
        """Of the angle between the two; 1 where both are all zero."""
        if self.broken:
            return math.nan
        norms = math.sqrt(self.a) * math.sqrt(self.b)
        return self.product / norms if norms else float(self.a == self.b)


@dataclass(frozen=True)
class Row:
    """A matched layer.

    a, b: its name in each; shape: without the axis of images
    max_abs: max |a-b|; relative: ||a-b|| / ||a||; sqnr_db: -20 log10 of it; growth: relative over
    the largest before it, or over one rounding if that is larger
    """

    a: str
    b: str
    kind: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    sqnr_db: float
    cosine: float
    growth: float


@dataclass(frozen=True)
class Difference:
    """What was found.

    departs: place in ``rows`` of the first layer that departs, or None
    unmatched: names of the layers of each side that the other has no like of, "a" and "b"
    optimised: relative error of the logits of each side's own session, its graph optimised, against its traced ones
    rounding: what the coarser precision rounds off, relative
    """

    a: Side
    b: Side
    images: int
    rounding: float
    rows: tuple[Row, ...]
    unmatched: dict[str, tuple[str, ...]]
    optimised: dict[str, float]
    departs: int | None = field(init=False)

    def __post_init__(self) -> None:
        departs = next((place for place, row in enumerate(self.rows) if row.growth > LEAP), None)
        object.__setattr__(self, "departs", departs)

    @property
    def level(self) -> float:
        """The largest relative error that is rounding's: of the layers before the one that departs, or of one rounding."""
        return max([self.rounding, *(row.relative for row in self.rows[: self.departs])])

    def optimised_departs(self) -> list[str]:
        """Sides ("a", "b") whose optimised graph gives other logits than the same graph op by op."""
        return [side for side, error in self.optimised.items() if not error <= LEAP * self.level]

    def verdict(self) -> str:
        """One sentence: what departs first, or that nothing does."""
        if self.departs is not None:
            row = self.rows[self.departs]
            before = max((one.relative for one in self.rows[: self.departs]), default=None)
            return f"first departs at {row.a} (B: {row.b}): relative error {row.relative:.1e}, " + (
                "it is the first that was compared" if before is None else f"{before:.1e} at most before it"
            )
        if wrong := self.optimised_departs():
            told = " and ".join(f"{side.upper()} by {self.optimised[side]:.1e}" for side in wrong)
            return f"no layer departs op by op, but optimised graphs give other logits than unoptimised ones: {told}; look at what the engine fuses"
        return f"no layer departs: relative error {self.level:.1e} at most, what rounding explains"


def diff(a: Side, b: Side, images: NDArray[np.uint8], threads: int, say: Callable[[str], None]) -> Difference:
    """Compares two bundles on ``images``, uint8 ``[N, 1, S, S]``, at most ``BATCH`` at a time.

    Raises BadInput where the two take other sizes of image or no layer of one is like one of the
    other, NotAvailable where a runtime cannot show tensors here.
    """
    sizes = a.bundle.manifest.size, b.bundle.manifest.size
    if sizes[0] != sizes[1]:
        raise BadInput(
            f"{a.bundle.path} takes {sizes[0]}x{sizes[0]} images, {b.bundle.path} {sizes[1]}x{sizes[1]}; compare bundles of one size"
        )
    tracers = [open_tracer(side.bundle, side.runtime, threads) for side in (a, b)]
    first = [layers(tracer(images[:1])) for tracer in tracers]
    pairs = align(first[0], first[1], same_form=_folded(a) == _folded(b))
    if all(first[0][i].kind == OUTPUT for i, _ in pairs):
        raise BadInput(f"{a.bundle.path} and {b.bundle.path} have no layer alike; compare bundles of one net")
    step = max(1, min(BATCH, _BATCH_BYTES // max(sum(layer.array.nbytes for layer in one) for one in first)))
    sums = [Sums() for _ in pairs]
    evened = {side.bundle.manifest.precision in _EVENED_OUT for side in (a, b)} == {True, False}
    logits: list[list[NDArray[np.float32]]] = [[], []]
    for start in range(0, len(images), step):
        say(f"image {start + 1} of {len(images)}")
        both = [layers(tracer(images[start : start + step])) for tracer in tracers]
        for total, (i, j) in zip(sums, pairs, strict=True):
            left, right = both[0][i], both[1][j]
            total.add(left.array, _as_wide(right.array, left.array) if evened and left.kind != OUTPUT else right.array)
        for kept, one in zip(logits, both, strict=True):
            kept.append(one[-1].array)
    return Difference(
        a,
        b,
        len(images),
        (rounding := max(ROUNDING[side.bundle.manifest.precision] for side in (a, b))),
        _rows(first, pairs, sums, rounding),
        {
            name: tuple(layer.label for k, layer in enumerate(one) if k not in {pair[side] for pair in pairs})
            for side, (name, one) in enumerate(zip("ab", first, strict=True))
        },
        {
            name: _optimised(side, images, np.concatenate(kept), threads)
            for name, side, kept in zip("ab", (a, b), logits, strict=True)
        },
    )


def _as_wide(values: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """``values`` ``[N, C, ...]`` with each channel times the power of two that brings it nearest to that of ``like``."""
    norms = [
        np.linalg.norm(one.swapaxes(0, 1).reshape(one.shape[1], -1).astype(np.float64), axis=1)
        for one in (like, values)
    ]
    both = (norms[0] > 0) & (norms[1] > 0)
    factors = np.ones(len(both), np.float32)
    factors[both] = np.exp2(np.round(np.log2(norms[0][both] / norms[1][both])))
    wide: NDArray[np.float32] = values * factors.reshape(-1, *[1] * (values.ndim - 2))
    return wide


def side(bundle: Bundle, runtime: str = "") -> Side:
    """A bundle with the runtime asked for, by default its target's own that can show tensors here."""
    precision = bundle.manifest.precision
    if precision not in ROUNDING:
        raise BadInput(f"{bundle.path}: of precision {precision}; compared are {', '.join(ROUNDING)}")
    return Side(bundle, runtime or tracing_runtime(bundle.manifest.target))


def _folded(one: Side) -> Any:
    return one.bundle.manifest.source.get("folded")


def _rows(first: list[list[Layer]], pairs: list[tuple[int, int]], sums: list[Sums], rounding: float) -> tuple[Row, ...]:
    rows = []
    level = rounding
    for (i, j), total in zip(pairs, sums, strict=True):
        one, other, error = first[0][i], first[1][j], total.relative
        decibels = math.inf if not error else -20 * math.log10(error)
        rows.append(
            Row(
                one.label, other.label, one.kind, one.shape, total.largest, error, decibels, total.cosine, error / level
            )
        )
        level = max(level, error)
    return tuple(rows)


def _optimised(one: Side, images: NDArray[np.uint8], traced: NDArray[np.float32], threads: int) -> float:
    with open_session(one.bundle, one.runtime, Options(threads=threads)) as session:
        given = np.concatenate([session.infer(images[k : k + BATCH]) for k in range(0, len(images), BATCH)])
    total = Sums()
    total.add(traced, given)
    return total.relative
