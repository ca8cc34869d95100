"""Does an engine still give the same answers? Judged against the unfolded net in float64.

The unit of error is what float32 PyTorch itself gets wrong on the same images: an engine's error
is a multiple of that, so one bound serves large and small nets, and hard ones. Numpy alone: a
board checks its own engine with the ``reference.npz`` of its bundle.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import Reference
from fer_runtimes.errors import CheckFailed
from fer_runtimes.labels import LABELS
from fer_runtimes.metrics import softmax
from fer_runtimes.session import Session


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost. A precision is supported because it has one.

    error_ratio: max |logit - truth| over that of float32 PyTorch on the same images; None for a precision
        whose rounding is no multiple of float32's
    mean_kl: mean KL divergence from the true probabilities, nats; where ``error_ratio`` times float32 PyTorch's own is more
        (a net so ill-conditioned that PyTorch itself would break the bound), that
    flip_margin: a changed top-1 is forgiven only where the truth's two best logits lie closer than this
    """

    error_ratio: float | None
    mean_kl: float
    flip_margin: float


@dataclass(frozen=True)
class Flip:
    """One image whose top-1 changed."""

    image: int
    kind: str
    truth: str
    got: str
    margin: float


@dataclass(frozen=True)
class Parity:
    """The comparison; ``mean_kl_fp32`` is float32 PyTorch's own ``mean_kl``, ``certified`` the share of images whose margin no error this large can overturn (max |error| < margin / 2)."""

    images: int
    max_abs_logit: float
    error_ratio: float
    mean_kl: float
    mean_kl_fp32: float
    top1_agreement: float
    certified: float
    worst_image: int
    worst_kind: str
    flips: tuple[Flip, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {"reference": "unfolded net in float64", **asdict(self)}


def compare(reference: Reference, logits: NDArray[np.float32]) -> Parity:
    """Compares an engine's logits ``[M, 7]`` with the reference's. Not-a-number counts as infinitely wrong."""
    truth = reference.logits
    error = np.abs(np.nan_to_num(logits.astype(np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf) - truth).max(1)
    unit = max(float(np.abs(reference.logits_fp32 - truth).max()), float(np.finfo(np.float32).eps))
    ordered = np.sort(truth, 1)
    margin = ordered[:, -1] - ordered[:, -2]
    true_class, got_class = truth.argmax(1), np.nan_to_num(logits, nan=-np.inf).argmax(1)
    flips = tuple(
        Flip(int(i), str(reference.kinds[i]), LABELS[true_class[i]], LABELS[got_class[i]], float(margin[i]))
        for i in np.flatnonzero(true_class != got_class)
    )
    worst = int(error.argmax())
    return Parity(
        len(truth),
        float(error[worst]),
        float(error[worst] / unit),
        _mean_kl(truth, logits),
        _mean_kl(truth, reference.logits_fp32),
        1 - len(flips) / len(truth),
        float((error.max() < margin / 2).mean()),
        worst,
        str(reference.kinds[worst]),
        flips,
    )


def _mean_kl(truth: NDArray[np.float64], logits: NDArray[np.float32]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = softmax(truth), softmax(logits)
        kl = np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(1)
    return float(np.nan_to_num(kl, nan=np.inf, posinf=np.inf).mean())


def kl_bound(parity: Parity, tolerance: Tolerance) -> float:
    """How far ``parity.mean_kl`` may go; a float32 PyTorch that overflows is no excuse."""
    own = parity.mean_kl_fp32 * (tolerance.error_ratio or 0)
    return max(tolerance.mean_kl, own) if np.isfinite(own) else tolerance.mean_kl


def check(parity: Parity, tolerance: Tolerance, what: str) -> None:
    """Raises CheckFailed, saying which figure broke which bound and where, unless ``parity`` is within ``tolerance``."""
    where = f"worst on image {parity.worst_image} ({parity.worst_kind})"
    if tolerance.error_ratio is not None and not parity.error_ratio <= tolerance.error_ratio:
        raise CheckFailed(
            f"{what} departs from the reference: max |logit error| {parity.max_abs_logit:.2e} is {parity.error_ratio:.1f} times "
            f"that of float32 PyTorch, at most {tolerance.error_ratio:g} allowed; {where}"
        )
    if not parity.mean_kl <= (bound := kl_bound(parity, tolerance)):
        raise CheckFailed(
            f"{what} departs from the reference: mean KL {parity.mean_kl:.1e}, at most {bound:.0e} allowed; {where}"
        )
    if wrong := [flip for flip in parity.flips if flip.margin > tolerance.flip_margin]:
        flip = max(wrong, key=lambda one: one.margin)
        raise CheckFailed(
            f"{what} changes {len(wrong)} of {parity.images} labels; image {flip.image} ({flip.kind}) from {flip.truth} to {flip.got} "
            f"with a margin of {flip.margin:.3f}, at most {tolerance.flip_margin:g} forgiven"
        )


def check_session(session: Session, reference: Reference, tolerance: Tolerance, what: str) -> Parity:
    """Runs the reference images one by one and in one batch; both must pass. Returns the worse comparison."""
    images = reference.images
    single = np.concatenate([session.infer(images[i : i + 1]) for i in range(len(images))])
    results = {f"{what}, one image at a time,": compare(reference, single)}
    if session.batches:
        results[f"{what}, in one batch,"] = compare(reference, session.infer(images))
    for name, parity in results.items():
        check(parity, tolerance, name)
    return max(results.values(), key=lambda parity: parity.error_ratio)
