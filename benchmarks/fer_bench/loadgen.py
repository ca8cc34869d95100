"""MLCommons' LoadGen drives the same session: a second opinion on the same latency.

SingleStream, performance mode. Its clock counts from issue to completion in C++, and so holds the call
into Python that ours does not.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats
from fer_bench.latency import Images, garbage_kept, window
from fer_runtimes.errors import CheckFailed
from fer_runtimes.session import Session

_DETAIL = "mlperf_log_detail.txt"
_PREFIX = ":::MLLOG "
_SHARES = {"p50": ("50.00", 0.5), "p90": ("90.00", 0.9), "p99": ("99.00", 0.99)}


def missing() -> str | None:
    """One line that says what to install, or None if LoadGen is."""
    return (
        None
        if find_spec("mlperf_loadgen")
        else "--loadgen needs mlperf_loadgen; pip install '.[loadgen]' in fer-edge's checkout"
    )


def drive(
    session: Session, images: Images, random: np.random.Generator, queries: int, seconds: float
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """What LoadGen logs of at least so many queries and seconds, and our own nanoseconds of as many, half before and half after.

    Raises CheckFailed if LoadGen does not call its run valid.
    """
    own = [window(session, images, random, math.ceil(queries / 2), seconds / 2)]
    said = _run(session, images, queries, seconds, int(np.median(own[0])))
    own.append(window(session, images, random, math.ceil(queries / 2), seconds / 2))
    return said, np.concatenate(own)


def summarise(said: dict[str, Any], own: NDArray[np.int64]) -> dict[str, Any]:
    """A row's ``loadgen``, milliseconds. Percentiles that its count does not support are None, as ours are."""
    count = said["result_query_count"]
    found = {
        key: said[f"result_{name}_percentile_latency_ns"] / 1e6 if stats.overlatency(share, count) else None
        for key, (name, share) in _SHARES.items()
    }
    own_p50 = stats.percentile(own, 0.5)[0]
    ratio = found["p50"] / own_p50 if found["p50"] and own_p50 else None
    return found | {"count": count, "own_p50": own_p50, "ratio_p50": ratio}


def _run(session: Session, images: Images, queries: int, seconds: float, expected_ns: int) -> dict[str, Any]:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_query_count, settings.min_duration_ms = queries, math.ceil(seconds * 1e3)
    # It draws its queries before it starts, as many as fill the time at this latency: half of ours, to have enough.
    settings.single_stream_expected_latency_ns = max(1, expected_ns // 2)

    def issue(samples: Sequence[Any]) -> None:
        for sample in samples:
            session.infer(images[sample.index])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    with tempfile.TemporaryDirectory() as folder:
        logs = lg.LogSettings()
        logs.log_output = lg.LogOutputSettings()
        logs.log_output.outdir, logs.log_output.copy_summary_to_stdout = folder, False
        logs.enable_trace = False
        sut = lg.ConstructSUT(issue, lambda: None)
        qsl = lg.ConstructQSL(len(images), len(images), lambda _: None, lambda _: None)
        try:
            with garbage_kept():
                lg.StartTestWithLogSettings(sut, qsl, settings, logs, "")
        finally:
            lg.DestroyQSL(qsl)
            lg.DestroySUT(sut)
        return read_detail(Path(folder) / _DETAIL)


def read_detail(path: Path) -> dict[str, Any]:
    """The keys and values of LoadGen's detail log. Raises CheckFailed if its run was not valid."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(_PREFIX)]
    said = {entry["key"]: entry["value"] for entry in (json.loads(line[len(_PREFIX) :]) for line in lines)}
    if not (said.get("result_min_duration_met") and said.get("result_min_queries_met")):
        raise CheckFailed("LoadGen ended before its queries and seconds were met; ask for more --queries or --seconds")
    return said
