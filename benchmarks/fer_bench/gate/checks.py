"""The checks, each with its figure, its bound and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fer_bench.gate.answers import Answers, Prepared
from fer_bench.gate.baseline import Baseline, Kept, Key
from fer_bench.gate.figures import Bounds, calibration_error, images_needed, loss, top1
from fer_bench.gate.latency import Latencies, slowdown, times_needed
from fer_bench.gate.preprocessing import departure
from fer_bench.noise import BUSY
from fer_runtimes.bundle import Bundle, read_reference
from fer_runtimes.data import Faces
from fer_runtimes.errors import CheckFailed
from fer_runtimes.labels import LABELS
from fer_runtimes.parity import Flip, Parity, Tolerance, check, compare, kl_bound

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
PROBES = 32  # faces on which resizing is compared with exact arithmetic

# Bits of mantissa. An engine may compute in more than its bundle declares, never in fewer; weights in int8 leave
# computation in float16 at least.
_BITS = {"fp64": 53, "fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8, "int8": 8, "int8-weights": 11}


@dataclass(frozen=True)
class Check:
    """One verdict. figure passes up to and including bound; either is None where there is nothing to count."""

    row: str
    name: str
    verdict: str
    words: str
    figure: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Answered:
    """A row to judge: the bundle and what came back of it, or why nothing did (one line)."""

    key: Key
    bundle: Bundle
    answers: Answers | str


@dataclass(frozen=True)
class Judged:
    """A row's checks. parity: against the baseline's float64 answers, None where the bundle is of another checkpoint."""

    key: Key
    checks: tuple[Check, ...]
    parity: Parity | None

    @property
    def flips(self) -> tuple[Flip, ...]:
        """Every image whose label changed, with its margin."""
        return self.parity.flips if self.parity else ()


@dataclass(frozen=True)
class _Case:
    """What the checks of one row look at.

    net: classes ``[N]`` that the same net gives in PyTorch, and whose they are; None where nobody was asked
    """

    faces: Faces
    prepared: Prepared
    baseline: Baseline
    bounds: Bounds
    latencies: Latencies | None
    key: Key
    bundle: Bundle
    answers: Answers
    net: tuple[NDArray[np.int64], str] | None

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        return top1(self.answers.logits)

    @cached_property
    def kept(self) -> Kept | None:
        return self.baseline.row(self.key)

    @cached_property
    def before(self) -> tuple[NDArray[np.int64], float, str]:
        """Classes and calibration error that the baseline holds against this row: the row's own, else its net's."""
        if self.kept:
            return self.kept.predictions, self.kept.ece, "the baseline's row"
        truth = self.baseline.logits
        return truth.argmax(1), calibration_error(truth, self.faces.labels), "the baseline's net, it has no such row"

    @cached_property
    def tolerance(self) -> Tolerance | None:
        """The baseline's word goes before the bundle's: a bundle cannot grant itself more."""
        own = (self.bundle.manifest.parity or {}).get("tolerance")
        return self.kept.tolerance if self.kept else Tolerance(**own) if own else None

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        return self.prepared.at(self.bundle.manifest.size, self.bundle.manifest.crop)

    @cached_property
    def parity(self) -> Parity | None:
        """Against the baseline's float64 answers; None for a bundle of another checkpoint."""
        if self.bundle.manifest.source["checkpoint_sha256"] != self.baseline.checkpoint_sha256:
            return None
        return compare(self.baseline.truth(self.images, self.faces.name), self.answers.logits)


@dataclass(frozen=True)
class _Found:
    passed: bool
    words: str
    figure: float | None = None
    bound: float | None = None


_Finding = _Found | str  # a string says why the check was skipped
_NO_TOLERANCE = _Found(False, "neither the baseline nor the bundle records a bound; export it again")
_OTHER_NET = "the bundle is of another checkpoint than the baseline, whose logits say nothing of it"


def _preprocessing(case: _Case) -> _Finding:
    off = departure(case.prepared.faces[:PROBES], case.images[:PROBES], case.bundle.manifest.crop)
    size, bound = case.bundle.manifest.size, case.bounds.grey_levels
    return _Found(off <= bound, f"{off:.2f} grey levels from exact resizing to {size}x{size}", off, bound)


def _precision(case: _Case) -> _Finding:
    declared, used = case.bundle.manifest.precision, case.answers.compute
    words = f"declared {declared}, computed in {used}"
    if case.kept and case.kept.compute != used:
        return _Found(False, f"{words}, the baseline in {case.kept.compute}")
    return _Found(_BITS.get(used, 0) >= _BITS.get(declared, 99), words)


def _finite(case: _Case) -> _Finding:
    bad = int((~np.isfinite(case.answers.logits)).any(1).sum())
    bad += sum(int((~np.isfinite(logits)).any(1).sum()) for logits in case.answers.reference)
    return _Found(bad == 0, f"{bad} answers that are not finite", bad, 0)


def _own_reference(case: _Case) -> _Finding:
    if case.tolerance is None:
        return _NO_TOLERANCE
    reference = read_reference(case.bundle)
    parities = [compare(reference, logits) for logits in case.answers.reference]
    worst, bound = max(parity.error_ratio for parity in parities), case.tolerance.error_ratio
    try:
        for parity in parities:
            check(parity, case.tolerance, "it")
    except CheckFailed as failure:
        return _Found(False, str(failure), worst, bound)
    return _Found(
        True, f"{worst:.1f}x float32 PyTorch's error on the bundle's {len(reference.images)} images", worst, bound
    )


def _logits(case: _Case) -> _Finding:
    if case.parity is None:
        return _OTHER_NET
    if case.tolerance is None:
        return _NO_TOLERANCE
    ratio, bound = case.parity.error_ratio, case.tolerance.error_ratio
    if bound is None:
        return f"{case.bundle.manifest.precision} has no bound on single logits; divergence and labels judge it"
    words = f"max |logit error| {case.parity.max_abs_logit:.1e} is {ratio:.1f}x float32 PyTorch's, worst on image {case.parity.worst_image}"
    return _Found(ratio <= bound, words, ratio, bound)


def _divergence(case: _Case) -> _Finding:
    if case.parity is None:
        return _OTHER_NET
    if case.tolerance is None:
        return _NO_TOLERANCE
    found, bound = case.parity.mean_kl, kl_bound(case.parity, case.tolerance)
    return _Found(found <= bound, f"mean KL {found:.1e} nats from the float64 probabilities", found, bound)


def _labels(case: _Case) -> _Finding:
    if case.parity is None:
        return _OTHER_NET
    if case.tolerance is None:
        return _NO_TOLERANCE
    worst = max((flip.margin for flip in case.parity.flips), default=0.0)
    words = (
        f"{len(case.parity.flips)} of {case.parity.images} labels changed, {case.parity.certified:.1%} cannot change"
    )
    if case.parity.flips:
        words += f"; largest margin of a changed one {worst:.3f}"
    return _Found(worst <= case.tolerance.flip_margin, words, worst, case.tolerance.flip_margin)


def _accuracy(case: _Case) -> _Finding:
    if case.net is None:
        return "nobody said what the same net answers in PyTorch; gate its unfolded PyTorch bundle in the same run"
    return _loss(case, *case.net)


def _accuracy_since(case: _Case) -> _Finding:
    return _loss(case, case.before[0], case.before[2])


def _loss(case: _Case, reference: NDArray[np.int64], whose: str) -> _Finding:
    labels, bound = case.faces.labels, case.bounds.accuracy_loss
    found = loss(reference == labels, case.classes == labels)
    words = (
        f"{found.worse} right answers of {whose} turned wrong and {found.better} wrong ones right: "
        f"at most {found.upper:.2%} lost (95 %)"
    )
    if (verdict := found.within(bound)) is not None:
        return _Found(verdict, words, found.upper, bound)
    needed = images_needed(found, bound)
    return f"cannot tell: {words}, and no loss shown; {f'{needed:,} images' if needed else 'no number of images'} would"


def _class_flips(case: _Case) -> _Finding:
    if case.net is None:
        return "nobody said what the same net answers in PyTorch; gate its unfolded PyTorch bundle in the same run"
    labels = case.faces.labels
    lost = np.bincount(labels[(case.net[0] == labels) & (case.classes != labels)], minlength=len(LABELS))
    budgets = [case.bounds.flips(images) for images in np.bincount(labels, minlength=len(LABELS))]
    worst = max(range(len(LABELS)), key=lambda i: lost[i] - budgets[i])
    words = (
        f"right answers turned wrong, most over budget in {LABELS[worst]}: {lost[worst]} of {budgets[worst]} forgiven"
    )
    return _Found(lost[worst] <= budgets[worst], words, float(lost[worst]), budgets[worst])


def _calibration(case: _Case) -> _Finding:
    now, (_, before, whose) = calibration_error(case.answers.logits, case.faces.labels), case.before
    words = f"expected calibration error {now:.4f}, {before:.4f} of {whose}"
    return _Found(now - before <= case.bounds.ece_rise, words, now - before, case.bounds.ece_rise)


def _latency(case: _Case) -> _Finding:
    if case.latencies is None:
        return "not asked for"
    if case.kept is None or case.kept.speed is None:
        return "the baseline has no latency of this row"
    reference = case.latencies.named(case.baseline.latency_reference)
    if case.key not in case.latencies.rounds or reference is None:
        return (
            f"this run has no latency of this row, or none of {case.baseline.latency_reference}, which it is divided by"
        )
    if reference == case.key:
        return "the others are divided by this row"
    if (device := case.latencies.devices[case.key]) != case.kept.device:
        return f"measured on {device}, the baseline on {case.kept.device}"
    if case.latencies.busy_share > BUSY:
        return f"cannot tell: other programs took {case.latencies.busy_share:.0%} of the processors meanwhile"
    now, before, bound = case.latencies.speed(case.key, reference), case.kept.speed, case.bounds.slowdown
    if now is None:
        return "cannot tell: too few rounds or processes for an interval; --queries 1024, in 6 processes, would"
    slower = slowdown(before, now)
    words = (
        f"{now.value:.2f}x as fast as {reference}, {before.value:.2f}x in the baseline: "
        f"takes {slower.value:.2f}x as long [{slower.low:.2f}, {slower.high:.2f}]"
    )
    if slower.low > bound or slower.high <= bound:
        return _Found(slower.high <= bound, words, slower.value, bound)
    times, processes = times_needed(before, now, bound), case.latencies.processes
    if times is None:
        remedy = "a baseline of more queries, in more processes,"
    elif processes > 1:
        remedy = f"--processes {math.ceil(processes * times)}"
    else:  # spread over a few processes they would give no interval at all
        remedy = f"--queries {math.ceil(now.queries * times)} --processes 1"
    return f"cannot tell: {words}; {remedy} would"


def _work(case: _Case) -> _Finding:
    """What slows every runtime alike, a larger net above all, divides out of the ratios of ``latency``."""
    if case.kept is None or case.kept.macs is None:
        return "the baseline does not say how much this row computes"
    now, before, bound = case.bundle.manifest.source.get("macs"), case.kept.macs, case.bounds.slowdown
    if not isinstance(now, int):
        return "the bundle does not say how much it computes"
    words = f"{now / 1e6:.1f} M multiply-accumulates an image, {before / 1e6:.1f} M in the baseline"
    return _Found(now <= bound * before, words, now / before, bound)


CHECKS: dict[str, Callable[[_Case], _Finding]] = {
    "preprocessing": _preprocessing,
    "precision": _precision,
    "finite": _finite,
    "own reference": _own_reference,
    "logits": _logits,
    "divergence": _divergence,
    "labels": _labels,
    "accuracy": _accuracy,
    "accuracy since baseline": _accuracy_since,
    "class flips": _class_flips,
    "calibration": _calibration,
    "work": _work,
    "latency": _latency,
}


def judge(
    rows: Sequence[Answered],
    faces: Faces,
    prepared: Prepared,
    baseline: Baseline,
    bounds: Bounds,
    latencies: Latencies | None = None,
) -> list[Judged]:
    """Every check on every row. faces: the images that ``baseline`` was made on, in its order; prepared: of those."""
    judged = []
    for row in rows:
        if isinstance(row.answers, str):
            judged.append(Judged(row.key, (Check(str(row.key), "runs", FAILED, row.answers),), None))
            continue
        net = _same_net(row, rows, baseline)
        case = _Case(faces, prepared, baseline, bounds, latencies, row.key, row.bundle, row.answers, net)
        checks = tuple(_check(str(row.key), name, find(case)) for name, find in CHECKS.items())
        judged.append(Judged(row.key, checks, case.parity))
    return judged


def _check(row: str, name: str, found: _Finding) -> Check:
    if isinstance(found, str):
        return Check(row, name, SKIPPED, found)
    return Check(row, name, PASSED if found.passed else FAILED, found.words, found.figure, found.bound)


def _same_net(row: Answered, rows: Iterable[Answered], baseline: Baseline) -> tuple[NDArray[np.int64], str] | None:
    """The classes that the row's net gives in PyTorch: the baseline's in float64, or those of an unfolded PyTorch row of this run."""
    checkpoint = row.bundle.manifest.source["checkpoint_sha256"]
    if checkpoint == baseline.checkpoint_sha256:
        return baseline.logits.argmax(1), "the same net in float64"
    for other in rows:
        same = other.bundle.manifest.source["checkpoint_sha256"] == checkpoint
        if same and other.key.runtime == "pytorch" and not other.key.folded and isinstance(other.answers, Answers):
            return top1(other.answers.logits), "the same net in PyTorch"
    return None


def failures(judged: Iterable[Judged]) -> list[Check]:
    """The checks that failed."""
    return [check for row in judged for check in row.checks if check.verdict == FAILED]


def rows_that_did_not_run(baseline: Baseline, judged: Iterable[Judged]) -> list[Judged]:
    """A failed row for each row of the baseline that nobody ran: a gate must not pass because a runtime has gone."""
    ran = {row.key for row in judged}
    words = "the baseline has this row and this run has not; name the runtimes to gate with --runtime"
    return [
        Judged(row.key, (Check(str(row.key), "runs", FAILED, words),), None)
        for row in baseline.rows
        if row.key not in ran
    ]
