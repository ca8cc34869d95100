"""Two runs, row by row: what changed, and how much of that their own spread supports.

Two runs were not taken in turns. What slowed the machine during one and not during the other stands
in the ratio of their times, and no resampling of either shows it. Their speed-ups over a reference
that was measured in turns with each leave it alone, so these are the ones to trust where both are over the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench.history.figures import FIGURES, Row
from fer_bench.history.runs import Run, rounds_of
from fer_bench.history.text import plain
from fer_bench.noise import BUSY
from fer_bench.stats import INTERVAL, ROUNDS_NEEDED
from fer_bench.tables import name_of
from fer_runtimes.errors import BadInput

LATENCIES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
FASTER, SLOWER, NONE_SHOWN = "faster", "slower", "no difference shown"
MARGIN = 1.05  # two runs of the same build on a quiet machine may differ by as much: their processes and memory differ
_RESAMPLES = 1000


@dataclass(frozen=True)
class Change:
    """How many times as fast B is as A; low and high: 95 % interval, None where there is no telling."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str | None:
        """Faster or slower if the whole interval lies beyond what two runs of one build may differ by; None without one."""
        if self.low is None or self.high is None:
            return None
        return FASTER if self.low > MARGIN else SLOWER if self.high < 1 / MARGIN else NONE_SHOWN


@dataclass(frozen=True)
class Compared:
    """A row that is in both runs.

    times: by name of the figure, from the times of each run alone; relative: from the two speed-ups
    over the reference, None where they are not over the same; why_not: the reason; verdict: faster,
    slower, no difference shown, or None where there is no telling; grounds: of the verdict, or why
    there is none; notes: what else differs
    """

    name: str
    a: Row
    b: Row
    times: dict[str, Change]
    relative: Change | None
    why_not: str | None
    verdict: str | None
    grounds: str
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """Two runs compared. only_a, only_b: rows that the other lacks; elsewhere: the machines, if there are two."""

    a: Run
    b: Run
    rows: list[Compared]
    only_a: list[str]
    only_b: list[str]
    elsewhere: str | None


def compare(a: Run, b: Run) -> Comparison:
    """Compares two runs, with raw times where they have them.

    Raises BadInput where both have accuracies, of different data, or where no row is in both.
    """
    if a.data and b.data and any(a.data[key] != b.data[key] for key in ("sha256", "split")):
        raise BadInput(
            f"results of different data: {a.name} of {a.data_name} ({plain(a.data['sha256'])[:12]}), "
            f"{b.name} of {b.data_name} ({plain(b.data['sha256'])[:12]}); measure both on the same, or one without --data"
        )
    apart = _repeated(a.rows) | _repeated(b.rows)
    rows_a, rows_b = _by_name(a.rows, apart), _by_name(b.rows, apart)
    if not (both := [name for name in rows_a if name in rows_b]):
        raise BadInput(f"{a.name} and {b.name} have no runtime and bundle in common; there is nothing to compare")
    return Comparison(
        a,
        b,
        [_compared(name, a, b, rows_a[name], rows_b[name]) for name in both],
        [name for name in rows_a if name not in rows_b],
        [name for name in rows_b if name not in rows_a],
        _elsewhere(a, b),
    )


def between(
    a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]], statistic: Callable[[NDArray[Any]], NDArray[np.float64]]
) -> list[Change]:
    """A's statistics over B's, with intervals from resampling the rounds of each by itself.

    statistic: takes all values of the chosen rounds, gives an array of figures
    """
    values = statistic(np.concatenate(a)) / statistic(np.concatenate(b))
    if min(len(a), len(b)) < ROUNDS_NEEDED:
        return [Change(float(value)) for value in values]
    random = np.random.default_rng(0)
    drawn = [
        np.array([statistic(np.concatenate([rounds[i] for i in draw])) for draw in draws])
        for rounds in (a, b)
        for draws in [random.integers(0, len(rounds), (_RESAMPLES, len(rounds)))]
    ]
    low, high = np.percentile(drawn[0] / drawn[1], [50 * (1 - INTERVAL), 50 * (1 + INTERVAL)], axis=0)
    return [Change(*map(float, change)) for change in zip(values, low, high, strict=True)]


def _compared(name: str, a: Run, b: Run, row_a: Row, row_b: Row) -> Compared:
    why_not, times = _unlike(a, b, row_a, row_b), _times(a, b, row_a, row_b)
    relative = None if why_not else _relative(a, b, row_a, row_b)
    differing = [
        f"{words}: {plain(row_a[key])}, then {plain(row_b[key])}"
        for key, words in (("device", "device"), ("threads", "threads"), ("agreement_with", "agreement is with"))
        if row_a[key] != row_b[key] and None not in (row_a[key], row_b[key])
    ]
    other_file = ["another model file"] if row_a["bundle_sha256"] != row_b["bundle_sha256"] else []
    verdict, grounds = _verdict(relative, times.get("p50_ms"), why_not, _unsteady(a, b))
    return Compared(name, row_a, row_b, times, relative, why_not, verdict, grounds, differing + other_file)


def _verdict(
    relative: Change | None, alone: Change | None, why_not: str | None, unsteady: str | None
) -> tuple[str | None, str]:
    """The verdict of the comparison to trust, and what it rests on; or None, and why."""
    if not (relative or alone):
        return None, "not timed in both"
    if unsteady:
        return None, unsteady
    if relative:
        return relative.verdict, "by the speed-ups" if relative.verdict else "too few rounds for an interval"
    assert alone is not None
    if alone.verdict is None:
        return None, f"{why_not}, and no raw times of enough rounds in both"
    return alone.verdict, f"by p50 of runs that were not taken in turns; {why_not}"


def _unsteady(a: Run, b: Run) -> str | None:
    """What made the machine of a run too unsteady for its intervals to hold; None if nothing is known to have."""
    for letter, run in (("A", a), ("B", b)):
        busy, after = run.environment.get("busy_share"), run.environment.get("after")
        if isinstance(busy, float) and busy > BUSY:
            return f"other programs took {busy:.0%} of the processors while {letter} was measured"
        if isinstance(after, dict) and after.get("throttled"):
            return f"the machine throttled while {letter} was measured"
    return None


def _times(a: Run, b: Run, row_a: Row, row_b: Row) -> dict[str, Change]:
    """Percentiles compared, those that both runs support; with intervals where both kept their raw times."""
    pairs = {name: (FIGURES[name].of(row_a), FIGURES[name].of(row_b)) for name in LATENCIES}
    changes = {name: Change(old / new) for name, (old, new) in pairs.items() if old and new}
    rounds_a, rounds_b = rounds_of(row_a, a.name), rounds_of(row_b, b.name)
    if changes and rounds_a and rounds_b:
        shares = [LATENCIES[name] for name in changes]
        found = between(rounds_a, rounds_b, lambda times: np.percentile(times, shares, method="inverted_cdf"))
        changes = dict(zip(changes, found, strict=True))
    return changes


def _unlike(a: Run, b: Run, row_a: Row, row_b: Row) -> str | None:
    """Why the speed-ups of the two rows are not over the same reference; None if they are."""
    if not (row_a["ratio"] and row_b["ratio"]):
        return "no speed-up over a reference in both"
    references = [_reference(run, row) for run, row in ((a, row_a), (b, row_b))]
    if None in references or (row_a["ratio"]["to"] != row_b["ratio"]["to"]):
        return "their speed-ups are over different references"
    old, new = references
    if old is row_a or new is row_b:
        return "it is the reference itself"
    assert old is not None
    assert new is not None
    if any(old.get(key) != new.get(key) for key in ("bundle_sha256", "device", "threads")):
        return f"the reference {plain(name_of(old))} is of another model file, device or number of threads"
    if _torch(a) != _torch(b):
        return "the reference ran on another version of torch"
    return None


def _reference(run: Run, row: Row) -> Row | None:
    return next(
        (one for one in run.rows if one["ratio"] and one.get("latency_ms") and name_of(one) == row["ratio"]["to"]), None
    )


def _torch(run: Run) -> object:
    versions = run.environment.get("versions")
    return versions.get("torch") if isinstance(versions, dict) else None


def _relative(a: Run, b: Run, row_a: Row, row_b: Row) -> Change:
    """B's speed-up over A's. From the rounds where both kept them, else from the two intervals.

    Without rounds the intervals are taken for those of independent log-normal errors, whose widths add in quadrature.
    """
    old, new = _speed_ups(a, row_a), _speed_ups(b, row_b)
    if old and new:
        return between(new, old, lambda values: np.array([np.median(values)]))[0]
    ratios = row_a["ratio"], row_b["ratio"]
    value = ratios[1]["value"] / ratios[0]["value"]
    if any(ratio.get(key) is None for ratio in ratios for key in ("low", "high")):
        return Change(value)
    reach = math.hypot(*(math.log(ratio["high"] / ratio["low"]) / 2 for ratio in ratios))
    return Change(value, value * math.exp(-reach), value * math.exp(reach))


def _speed_ups(run: Run, row: Row) -> list[NDArray[np.float64]] | None:
    """One value a round, the reference's median over the row's own, as in the run's own ratio; None without raw times."""
    reference = _reference(run, row)
    own, theirs = rounds_of(row, run.name), reference and rounds_of(reference, run.name)
    if not own or not theirs or len(own) != len(theirs):
        return None
    return [np.array([np.median(other) / np.median(mine)]) for other, mine in zip(theirs, own, strict=True)]


def _elsewhere(a: Run, b: Run) -> str | None:
    """The two machines in words; None if it is the same one."""
    places = [(run.machine, run.environment.get("cpu"), run.environment.get("cores")) for run in (a, b)]
    if places[0] == places[1]:
        return None
    name_a, name_b = (
        f"{plain(machine)}: {plain(cpu or 'unknown')}, {plain(cores)} cores" for machine, cpu, cores in places
    )
    return f"{name_a}; {name_b}"


def _plain_name(row: Row) -> str:
    target = " ".join(plain(row[key]) for key in ("target", "precision") if row[key])
    return ", ".join(filter(None, (plain(name_of(row)), plain(row["bundle"] or "") or target)))


def _repeated(rows: Sequence[Row]) -> set[str]:
    return {name for name, count in Counter(map(_plain_name, rows)).items() if count > 1}


def _by_name(rows: Sequence[Row], apart: set[str]) -> dict[str, Row]:
    """Rows by runtime and bundle; those named in ``apart`` by the digest of the model file too, and then by their place."""
    found: dict[str, Row] = {}
    for row in rows:
        name = _plain_name(row)
        if name in apart:
            name += f" {plain(row.get('bundle_sha256') or 'without a bundle')[:12]}"
        found[
            next(free for n in range(1, len(rows) + 1) if (free := name if n == 1 else f"{name} #{n}") not in found)
        ] = row
    return found
