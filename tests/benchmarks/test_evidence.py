"""The commands that hold the benchmark's claims against the machine: real tools on a small bundle, verdicts on given figures."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from evidence import overhead, repeatability
from fer_runtimes.bundle import Bundle
from fer_runtimes.engines.ort import OrtSession


def row(runtime: str, value: float, unsure: bool, to: str = "pytorch (unfolded)") -> dict[str, object]:
    return {"runtime": runtime, "folded": True, "ratio": {"to": to, "value": value, "unsure": unsure}}


@pytest.mark.parametrize("pair", overhead.PAIRS, ids=lambda pair: f"{pair.tool} {pair.figure}")
def test_either_side_times_the_same_session(pair: overhead.Pair, bundles: dict[str, Bundle]) -> None:
    found, _ = overhead.in_turns(bundles[f"{pair.target} fp32"].path, pair, 1, 4, 50)
    assert len(found) == 4
    for theirs, ours in found:
        assert 1e3 < theirs < 1e8  # nanoseconds: a small net takes neither a microsecond nor a tenth of a second
        assert 1e3 < ours < 1e8


def test_a_side_that_takes_longer_is_seen(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = overhead.PAIRS[-1]
    infer = OrtSession.infer

    def slow(self: OrtSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.005)
        return infer(self, images)

    monkeypatch.setattr(OrtSession, "infer", slow)
    found, _ = overhead.in_turns(bundles[f"{pair.target} fp32"].path, pair, 1, 6, 20)
    assert all(ours > theirs + 4e6 for theirs, ours in found)


@pytest.mark.parametrize(
    ("low", "high", "busy", "words"),
    [
        (0.99, 1.02, 0.0, "under 3%"),
        (1.04, 1.06, 0.0, "over 3%"),
        (1.00, 1.05, 0.0, "cannot tell: take more rounds"),
        (1.04, 1.06, 0.2, "cannot tell: others took 20% of the processors"),
    ],
)
def test_overhead_is_only_claimed_where_the_interval_shows_it(low: float, high: float, busy: float, words: str) -> None:
    assert overhead.verdict(low, high, busy) == words


def test_a_departure_fails_unless_a_run_said_that_it_cannot_tell() -> None:
    first = repeatability.speed_ups({"results": [row("onnxruntime", 20.0, False), row("openvino", 10.0, True)]})
    again = repeatability.speed_ups({"results": [row("onnxruntime", 21.5, False), row("openvino", 11.5, False)]})
    found = {name: repeatability.verdict(first[name], again[name], 0.05) for name in first}
    assert found["onnxruntime"] == (pytest.approx(0.075), "over 5%")
    assert found["openvino"] == (pytest.approx(0.15), "the run says that it cannot tell")
    assert repeatability.verdict(first["onnxruntime"], (20.9, False), 0.05)[1] == "within 5%"


def test_the_row_that_the_others_are_divided_by_is_no_speed_up() -> None:
    reference = row("pytorch", 1.0, False) | {"folded": False}
    assert repeatability.speed_ups({"results": [reference, row("openvino", 10.0, False)]}) == {"openvino": (10.0, True)}
