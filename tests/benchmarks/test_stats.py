"""What the statistics promise, held against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from fer_bench import stats


@pytest.mark.parametrize(("share", "fewest"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_queries_as_loadgen_asks(share: float, fewest: int) -> None:
    assert stats.overlatency(share, fewest - 1) == 0
    assert stats.overlatency(share, fewest) == 1
    times = np.arange(fewest, dtype=np.int64)
    assert stats.percentile(times[1:], share) == (None, None)
    assert stats.percentile(times, share)[1] == times[-1] / 1e6


@pytest.mark.parametrize(("count", "share", "reported"), [(1024, 0.9, 0.923), (1024, 0.99, 0.998), (5000, 0.99, 0.994)])
def test_the_bound_is_the_value_that_loadgen_reports(count: int, share: float, reported: float) -> None:
    times = np.random.default_rng(0).permutation(count) + 1
    bound = stats.percentile(times, share)[1]
    assert bound is not None
    assert round(bound * 1e6 / count, 3) == reported


@pytest.mark.parametrize(("share", "count"), [(0.5, 100), (0.9, 300), (0.99, 1500)])
def test_the_bound_holds_in_99_of_100_samples(share: float, count: int) -> None:
    """Of a long-tailed distribution, whose true percentile is known."""
    random = np.random.default_rng(1)
    true = -np.log(1 - share)  # ms, of an exponential
    samples = (random.exponential(1e6, (1000, count))).astype(np.int64)
    observed, bounds = np.array([stats.percentile(sample, share) for sample in samples], float).T
    assert np.mean(bounds >= true) >= 0.985  # sampling error 0.003
    assert np.mean(observed >= true) < 0.7  # the observed one is no bound: the test can tell


def _drifting(random: np.random.Generator, rounds: int, latency: float, drift: np.ndarray) -> list[np.ndarray]:
    """Rounds of 50 queries that share their round's slowness, ns, with a tail."""
    return [(latency * slow * (1 + random.exponential(0.1, 50))).astype(np.int64) for slow in drift[:rounds]]


@pytest.mark.parametrize("rounds", [12, 30])
def test_intervals_hold_the_truth_about_as_often_as_they_say_while_the_machine_drifts(rounds: int) -> None:
    """Rounds differ by 10 %, so an interval from single queries would miss: it is far too narrow."""
    random = np.random.default_rng(2)
    held_p50 = held_ratio = held_naive = 0
    true = float(np.median(np.concatenate(_drifting(random, 4000, 1e6, random.lognormal(0, 0.1, 4000)))))
    trials = 80
    for _ in range(trials):
        drift = random.lognormal(0, 0.1, rounds)
        own = _drifting(random, rounds, 1e6, drift)
        reference = _drifting(random, rounds, 3e6, drift * random.lognormal(0, 0.02, rounds))
        low, high = stats.p50_interval(own) or (0, 0)
        held_p50 += low <= true / 1e6 <= high
        found = stats.ratio("reference", reference, own)
        assert found.low is not None
        assert found.high is not None
        held_ratio += found.low <= 3 <= found.high
        every = np.concatenate(own)
        singles = [np.median(random.choice(every, len(every))) for _ in range(50)]
        naive_low, naive_high = np.percentile(singles, [2.5, 97.5])
        held_naive += naive_low <= true <= naive_high
    assert held_p50 / trials > 0.85
    assert held_ratio / trials > 0.87
    assert held_naive / trials < 0.75  # the test can tell


def test_drift_that_hits_both_leaves_the_ratio_alone() -> None:
    random = np.random.default_rng(3)
    drift = np.linspace(1, 2, 12)  # the machine slows down to half its speed
    own, reference = (_drifting(random, 12, latency, drift) for latency in (1e6, 5e6))
    found = stats.ratio("reference", reference, own)
    assert found.value == pytest.approx(5, rel=0.02)
    assert not found.unsure
    assert found.queries_needed is None
    apart = stats.ratio("reference", reference, own[::-1])  # not in pairs: what the pairing is for
    assert apart.unsure


def test_the_queries_said_to_be_needed_do_narrow_the_interval() -> None:
    random = np.random.default_rng(4)

    def found(rounds: int) -> stats.Ratio:
        own, reference = (_drifting(random, rounds, 1e6, random.lognormal(0, 0.15, rounds)) for _ in range(2))
        return stats.ratio("reference", reference, own)

    needed = [found(16).queries_needed for _ in range(16)]
    assert None not in needed
    rounds = round(float(np.median([count or 0 for count in needed])) / 50)
    assert rounds > 32
    reach = [((again.high or 0) - (again.low or 0)) / 2 / again.value for again in (found(rounds) for _ in range(16))]
    assert np.median(reach) == pytest.approx(stats.SURE, rel=0.25)
    own, reference = (_drifting(random, 8, 1e6, random.lognormal(0, 0.15, 8)) for _ in range(2))
    by_round, by_process = (stats.ratio("reference", reference, own, of_processes) for of_processes in (False, True))
    assert by_process.queries_needed is None  # the eight processes would still be eight
    assert by_round.queries_needed == pytest.approx(50 * (by_process.processes_needed or 0), abs=50)


def test_too_few_rounds_give_no_interval_and_no_certainty() -> None:
    rounds = [np.full(100, 1_000_000)] * 5
    found = stats.ratio("reference", rounds, rounds)
    assert (found.value, found.low, found.high, found.unsure) == (1, None, None, True)
    assert stats.p50_interval(rounds) is None
    assert stats.p50_interval([*rounds, rounds[0]]) == (1, 1)
