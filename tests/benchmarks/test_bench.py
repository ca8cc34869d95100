from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_bench import tables
from fer_bench.bench import Job, _add_ratios, bench
from fer_bench.energy import Meter, Span
from fer_bench.jobs import jobs_of_models
from fer_bench.jsontext import json_text
from fer_bench.latency import LEAD_IN, WARMUP_QUERIES, WINDOW_QUERIES, settle, summarise, window
from fer_bench.measure import Apart, Measured, Task, _measured, _notes, _Taken, measure, processes_for
from fer_bench.modes import Modes
from fer_bench.noise import usage
from fer_bench.stats import p50_interval
from fer_bench.worker import Answers, Opened, Round
from fer_runtimes.bundle import Bundle
from fer_runtimes.data import Faces
from fer_runtimes.session import Options, open_session

THREE = [
    ("pytorch", "pytorch unfolded"),
    ("pytorch", "pytorch fp32"),
    ("onnxruntime", "onnx fp32"),
    ("openvino", "openvino fp32"),
]


@pytest.fixture(scope="module")
def results(bundles: dict[str, Bundle], faces: Faces) -> dict[str, object]:
    jobs = [Job(runtime, bundles[name]) for runtime, name in (*THREE, ("null", "onnx fp32"))]
    return bench(
        [*jobs, Job("openvino", None, "runtime openvino needs openvino")], faces, Options(threads=1), 72, seconds=0
    )


def test_percentiles_are_values_that_were_seen_and_nothing_is_trimmed() -> None:
    latency = summarise([np.array([1_000_000] * 980 + [5_000_000] * 11), np.array([100_000_000] * 9)])
    assert (latency.p50, latency.p90, latency.p99, latency.count) == (1, 1, 5, 1000)
    assert latency.mean == pytest.approx(1.935)
    assert latency.p99_bound == 100  # 3 of 1,000 may be slower than the bound: the slowest but two


def test_the_count_is_what_was_asked_and_neither_warm_up_nor_lead_in_is_in_it(bundles: dict[str, Bundle]) -> None:
    random, images = np.random.default_rng(0), [np.zeros((1, 1, 48, 48), np.uint8)] * LEAD_IN
    with open_session(bundles["onnx fp32"], "null") as session:
        calls = 0
        inner = session._infer

        def counted(images: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            return inner(images)

        session._infer = counted  # type: ignore[method-assign]
        assert len(window(session, images, random, 10, 0, LEAD_IN)) == 10
        assert calls == 10 + LEAD_IN
        assert window(session, images, random, 10, 0.05).sum() < 0.05e9 * 10  # a stall may fall into the last
        calls = 0
        settle(session, images, random)
    assert calls > WARMUP_QUERIES


def test_the_warm_up_ends_when_medians_agree_and_says_when_they_never_do(bundles: dict[str, Bundle]) -> None:
    random, images = np.random.default_rng(0), [np.zeros((1, 1, 48, 48), np.uint8)]
    with open_session(bundles["onnx fp32"], "null") as session:
        inner, wait, growth, calls = session._infer, 2e-3, 1.0, 0

        def slow(images: np.ndarray) -> np.ndarray:
            nonlocal wait, calls
            calls += 1
            wait *= growth
            time.sleep(wait)  # long against what the scheduler adds
            return inner(images)

        session._infer = slow  # type: ignore[method-assign]
        assert settle(session, images, random, 60)
        calls = 0
        settle(session, images, random, 0)  # whatever it finds, beside other work
        assert calls >= WARMUP_QUERIES + 3 * WINDOW_QUERIES  # however slow: three windows are always looked at
        growth = 1.005
        assert not settle(session, images, random, 1.5)


def test_a_bundle_that_is_still_being_made_is_passed_over(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    for name in ("whole", ".whole.a1b2"):
        shutil.copytree(bundles["onnx fp32"].path, tmp_path / name)
    assert [job.bundle and job.bundle.path.name for job in jobs_of_models([tmp_path], ["onnxruntime"], [])] == ["whole"]


def test_runtimes_agree_on_accuracy_and_labels(results: dict[str, list[dict[str, object]]]) -> None:
    rows = results["results"][:4]
    assert len({row["accuracy"] for row in rows}) == 1
    assert all(row["agreement"] == 1 for row in rows)
    assert {row["agreement_with"] for row in rows} == {"pytorch unfolded fp32"}
    assert float(str(rows[2]["max_abs_logit"])) < 1e-3


def test_folding_and_an_engine_are_faster_than_the_framework_in_the_same_run(
    results: dict[str, list[dict[str, dict[str, float]]]],
) -> None:
    unfolded, folded, ort, _, _, _ = (row["latency_ms"] and row["latency_ms"]["p50"] for row in results["results"])
    assert unfolded > folded > ort


def test_a_row_that_could_not_run_says_so_and_has_every_key(results: dict[str, list[dict[str, object]]]) -> None:
    rows = results["results"]
    assert rows[-1]["error"] == "runtime openvino needs openvino"
    assert rows[-1].keys() == rows[0].keys()
    assert rows[-1]["latency_ms"] is None


def test_results_are_plain_json_with_the_keys_others_build_on(results: dict[str, object]) -> None:
    read = json.loads(json.dumps(results, allow_nan=False))
    assert read["format"] == 1
    assert read["data"]["name"] == "drawn-faces"
    wanted = {
        "runtime",
        "target",
        "precision",
        "bundle",
        "error",
        "device",
        "threads",
        "accuracy",
        "macro_f1",
        "agreement",
        "max_abs_logit",
        "latency_ms",
        "load_ms",
        "model_bytes",
        "peak_rss_bytes",
    }
    assert wanted <= read["results"][0].keys()
    assert {"p50", "p90", "p99", "mean", "count"} <= read["results"][0]["latency_ms"].keys()


def test_the_tables_show_every_row(results: dict[str, object]) -> None:
    page = tables.markdown(results)
    assert "| pytorch (unfolded) | pytorch | fp32 |" in page
    assert "drawn-faces" in page
    assert "- openvino: runtime openvino needs openvino" in page
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(results))))
    assert len(rows) == 6
    assert float(rows[0]["latency_p50_ms"]) > 0
    assert tables.terminal(results).row_count == 6


def test_images_known_from_training_are_left_out_of_the_second_accuracy(
    bundles: dict[str, Bundle], faces: Faces
) -> None:
    jobs = [Job("onnxruntime", bundles["onnx fp32"])]
    plain = bench(jobs, faces, Options(threads=1), 32, seconds=0)["results"][0]
    assert plain["accuracy_unseen"] is None
    seen = faces.labels != 3
    only_happy = bench(jobs, replace(faces, seen=seen), Options(threads=1), 32, seconds=0)
    assert only_happy["data"]["also_in_training"] == seen.sum()
    assert only_happy["results"][0]["accuracy"] == plain["accuracy"]
    assert only_happy["results"][0]["accuracy_unseen"] == plain["recall"][3]


def test_without_data_there_is_agreement_with_the_bundle_and_no_accuracy(bundles: dict[str, Bundle]) -> None:
    row = bench([Job("onnxruntime", bundles["onnx fp32"])], None, Options(threads=1), 32, seconds=0)["results"][0]
    assert row["accuracy"] is None
    assert row["agreement"] == 1
    assert row["agreement_with"].startswith("float64 reference")


def test_rows_carry_what_their_rounds_support(results: dict[str, list[dict[str, Any]]]) -> None:
    unfolded, folded, ort, _, _, missing = results["results"]
    assert missing["ratio"] is None
    assert unfolded["latency_ms"]["count"] == 72
    assert unfolded["latency_ms"]["p99"] is None  # 72 queries support p90 and no p99
    assert unfolded["latency_ms"]["p90"] <= unfolded["latency_ms"]["p90_bound"]
    low, high = unfolded["latency_ms"]["p50_interval"]
    assert low <= unfolded["latency_ms"]["p50"] <= high
    assert {row["ratio"]["to"] for row in (unfolded, folded, ort)} == {"pytorch (unfolded)"}
    assert unfolded["ratio"]["value"] == unfolded["ratio"]["high"] == 1
    assert 1 < folded["ratio"]["low"] <= folded["ratio"]["value"] <= folded["ratio"]["high"] < ort["ratio"]["value"]
    for row in (unfolded, folded, ort):
        assert row["cold_start_ms"] > row["load_ms"] + row["first_inference_ms"]
        assert 0 < row["prepare_ms"] < row["cold_start_ms"]
        assert 0 < row["rss_over_bare_bytes"] < row["peak_rss_bytes"]
        assert sum(map(len, row["raw_ns"])) == 72
        assert row["cores"] == sorted(os.sched_getaffinity(0))[:1]  # no engine's threads leave the one core
        assert row["pinned"] == (len(os.sched_getaffinity(0)) > 1)


def test_the_tables_show_speed_ups_with_their_intervals_and_refuse_p99(results: dict[str, Any]) -> None:
    headings, rows = tables.cells(results)
    ratio = results["results"][2]["ratio"]
    assert (
        rows[2][headings.index("speed-up")]
        == f"{ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]{' ?' * ratio['unsure']}"
    )
    assert "p99 ms" not in headings
    page = tables.markdown(results)
    assert "| p50 ms, 95 % | p90 ms at most | cores | prepare ms | cold start ms |" in page
    assert "speed-up over pytorch (unfolded) in the same rounds" in tables.caption(results)
    old = [{key: value for key, value in row.items() if key != "ratio"} for row in results["results"]]
    assert "speed-up" not in tables.cells(results | {"results": old})[0]  # of a version that had none


def test_the_caption_says_when_the_answer_is_unsure(results: dict[str, Any]) -> None:
    """What the figures are is written in; what is said of them is the product's."""
    wide = {"to": "pytorch", "value": 10.0, "low": 8.0, "high": 12.0, "unsure": True, "queries_needed": 1152}
    whys: list[dict[str, Any]] = [
        {"why": "its interval reaches ±20%"},
        {"why": "its interval reaches ±9%", "queries_needed": None, "processes_needed": 20},
        {"why": "too few rounds", "queries_needed": None},
    ]
    rows = [results["results"][2] | {"ratio": wide | why} for why in whys]
    place = {"busy_share": 0.31, "memory_available_bytes": 50_000_000, "memory_bytes": 1_000_000_000}
    noisy = results | {"results": rows, "environment": results["environment"] | place}
    said = tables.caption(noisy)
    assert (
        "speed-up of onnxruntime unsure (?): its interval reaches ±20% (--queries 1152 would narrow it to ±5%)" in said
    )
    assert "reaches ±9% (--processes 20 would narrow it to ±5%)" in said
    assert said.endswith("speed-up of onnxruntime unsure (?): too few rounds")
    assert [row[tables.cells(noisy)[0].index("speed-up")] for row in tables.cells(noisy)[1]] == [
        "10.00x [8.00, 12.00] ?"
    ] * 3
    assert "BUSY: other programs took 31% of its processors" in said
    assert "50 MB of memory left with all runtimes open" in said
    calm = {"busy_share": 0.04, "memory_available_bytes": 500_000_000}
    said = tables.caption(results | {"results": [], "environment": noisy["environment"] | calm})
    assert not any(word in said for word in ("BUSY", "unsure", "memory left"))


def test_the_null_engine_takes_no_time_no_memory_and_no_part_in_ratios(
    results: dict[str, list[dict[str, Any]]],
) -> None:
    """Its figures are those of the harness, small beside any engine's in the same rounds."""
    torch, null = results["results"][1], results["results"][4]
    assert null["runtime"] == "null"
    assert null["latency_ms"]["p50"] < 0.05 * torch["latency_ms"]["p50"]
    assert null["rss_over_bare_bytes"] < 0.2 * torch["rss_over_bare_bytes"]
    assert null["load_ms"] < 0.1 * torch["load_ms"]
    assert null["ratio"] is None
    assert null["raw_ns"] is None  # at its speed a file would hold little else


def test_every_time_is_kept_and_gives_the_figures_again(bundles: dict[str, Bundle]) -> None:
    results = bench([Job("onnxruntime", bundles["onnx fp32"])], None, Options(threads=1), 72, seconds=0.2)
    (row,) = results["results"]
    raw = [np.array(taken) for taken in row["raw_ns"]]
    assert len(raw) == 12
    assert sum(map(len, raw)) == row["latency_ms"]["count"] >= 72
    assert np.concatenate(raw).sum() > 0.19e9 * 0.9  # what the queries leave is the loop's own
    assert asdict(summarise(raw)) == row["latency_ms"]
    assert json.loads(json_text(results)) == results
    assert "raw_ns" not in tables.comma_separated(results)


@pytest.mark.parametrize(("busy", "shares"), [(0.2, (0.01, 0.01)), (0.01, (0.01, 0.2)), (None, (0.2, None))])
def test_a_busy_machine_leaves_no_ratio_sure(busy: float | None, shares: tuple[float | None, ...]) -> None:
    """Whether others took their share from all rows or from one, and however narrow the interval is."""
    rounds = [np.full(20, nanoseconds) for nanoseconds in (4_000_000, 1_000_000)]
    measured = [Measured(None, [taken] * 12, 0, (), None) for taken in rounds]  # type: ignore[arg-type]

    def ratios(busy: float | None, shares: tuple[float | None, ...]) -> list[dict[str, Any]]:
        names = zip(("pytorch", "onnxruntime"), shares, strict=True)
        rows: list[dict[str, Any]] = [{"runtime": name, "folded": True, "busy_share": share} for name, share in names]
        _add_ratios(rows, measured, busy, of_processes=False)
        return [row["ratio"] for row in rows]

    for ratio in ratios(busy, shares):
        assert ratio["unsure"]
        assert ratio["why"] == "other programs took 20% of the processors"
    assert [(ratio["value"], ratio["unsure"], ratio["why"]) for ratio in ratios(0.05, (0.04, None))] == [
        (1, False, None),
        (4, False, None),
    ]


def test_a_burned_core_is_noticed_and_makes_ratios_unsure(bundles: dict[str, Bundle]) -> None:
    core = min(os.sched_getaffinity(0))  # the one that the measured ones are bound to
    program = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    burning: list[subprocess.Popen[bytes]] = []

    def burn(said: str) -> None:
        if said.startswith("round 1 "):
            burning.append(subprocess.Popen(program))

    try:
        jobs = [Job("pytorch", bundles["pytorch fp32"]), Job("onnxruntime", bundles["onnx fp32"])]
        results = bench(jobs, None, Options(threads=1), 72, burn, seconds=0.4)
    finally:
        for process in burning:
            process.kill()
            process.wait()
    assert results["environment"]["busy_share"] > 0.1
    for row in results["results"]:
        assert row["busy_share"] > 0.1
        assert row["ratio"]["unsure"]
        assert "other programs took" in row["ratio"]["why"]
    assert "speed-up of pytorch" in tables.caption(results)


def test_a_worker_that_is_killed_in_mid_run_costs_its_own_row(bundles: dict[str, Bundle]) -> None:
    names = {"null": "onnx fp32", "onnxruntime": "onnx fp32", "openvino": "openvino fp32"}
    tasks = [Task(bundles[name].path, runtime, None) for runtime, name in names.items()]

    def kill(said: str) -> None:
        if said.startswith("round 3 "):
            victim = multiprocessing.active_children()
            os.kill(next(process.pid or 0 for process in victim if process.name == "onnxruntime"), signal.SIGKILL)

    (null, dead, openvino), _ = measure(tasks, Options(threads=1), 48, 0, kill)
    assert dead == "runtime onnxruntime died while it was measured (SIGKILL: a crash, or killed for memory)"
    assert isinstance(null, Measured)
    assert isinstance(openvino, Measured)
    assert [len(taken) for taken in null.rounds] == [len(taken) for taken in openvino.rounds] == [4] * 12
    assert not multiprocessing.active_children()


def test_queries_are_spread_over_fresh_processes(bundles: dict[str, Bundle]) -> None:
    names = {"null": "onnx fp32", "onnxruntime": "onnx fp32", "openvino": "openvino fp32"}
    tasks = [Task(bundles[name].path, runtime, None) for runtime, name in names.items()]
    seen: dict[str, list[int | None]] = {name: [] for name in names}

    def look(said: str) -> None:
        if said.startswith("round "):
            for process in multiprocessing.active_children():
                if process.pid not in seen[process.name]:
                    seen[process.name].append(process.pid)
        if said.startswith("round 7 "):
            os.kill(seen["openvino"][1] or 0, signal.SIGKILL)

    (null, engine, dead), _ = measure(tasks, Options(threads=1), 48, 0, look, processes=3)
    assert {name: len(pids) for name, pids in seen.items()} == {"null": 3, "onnxruntime": 3, "openvino": 2}
    assert isinstance(null, Measured)
    assert isinstance(engine, Measured)
    assert [len(taken) for taken in null.rounds] == [len(taken) for taken in engine.rounds] == [16] * 3
    assert dead == "runtime openvino died while it was measured (SIGKILL: a crash, or killed for memory)"
    assert not multiprocessing.active_children()


def test_a_process_is_started_for_queries_that_are_worth_it() -> None:
    assert [processes_for(queries) for queries in (1, 319, 320, 1024, 5000)] == [1, 1, 2, 6, 6]


def test_what_one_process_took_is_one_sample() -> None:
    """Three rounds of each process agree to the nanosecond; the processes do not, and only that widens the interval."""
    taken = _Taken(Task(Path(), "onnxruntime", None), opened=[Opened(3, 2, 1), Opened(5, 2, 1), Opened(4, 2, 1)])
    for nanoseconds in range(100, 160, 10):
        one = Round(np.full(20, nanoseconds), usage() - usage(), True, Span(0, 1, None, 20))
        taken.processes.append([one] * 3)
    answers = Answers({}, None, False, None, np.zeros((1, 7), np.float32), 0, 0, 0)
    found = _measured(taken, answers, Modes(), Options(threads=1), Meter(Path("/nowhere")), {})
    assert [set(block.tolist()) for block in found.rounds] == [{n} for n in range(100, 160, 10)]
    assert found.opened.cold_start_ms == 4
    low, high = p50_interval(found.rounds) or (0, 0)
    assert high / low > 1.15


def test_a_worker_killed_while_it_computes_is_noticed(bundles: dict[str, Bundle]) -> None:
    with Apart(Task(bundles["onnx fp32"].path, "onnxruntime", None), Options(threads=1)) as apart:
        threading.Timer(0.5, os.kill, (apart.process.pid, signal.SIGKILL)).start()
        assert apart.ask("round", 1, 60.0) is None
        assert apart.error is not None
        assert "SIGKILL" in apart.error
        assert apart.ask("answer") is None


def test_what_one_runtime_cannot_do_is_its_own_error(bundles: dict[str, Bundle]) -> None:
    jobs = [Job("onnxruntime", bundles["openvino fp32"]), Job("openvino", bundles["openvino fp32"])]
    wrong, right = bench(jobs, None, Options(threads=1), 12, seconds=0)["results"]
    assert "runtime onnxruntime runs targets onnx" in wrong["error"]
    assert right["error"] is None
    assert right["latency_ms"]["count"] == 12


def test_a_row_says_that_it_never_settled_or_would_not_sleep() -> None:
    awake = Round(np.array([1]), usage(), quiet=False, span=Span(0, 1, None, 1))
    assert [note.split(":")[0] for note in _notes(False, [awake])] == [
        "not settled",
        "its threads still ran 5 s after its rounds, and so beside the other runtimes'",
    ]
    assert _notes(True, [replace(awake, quiet=True)]) == ()


def test_workers_sleep_between_their_rounds(bundles: dict[str, Bundle]) -> None:
    """Pools of threads spin on after a query; a round is over when they have stopped."""
    names = {"onnxruntime": "onnx fp32", "pytorch": "pytorch fp32", "openvino": "openvino fp32"}
    for runtime, name in names.items():
        with Apart(Task(bundles[name].path, runtime, None), Options(threads=2)) as apart:
            assert apart.ask("round", 100, 0.1).quiet
            before = _processor_seconds(apart.process.pid)
            time.sleep(0.5)
            after = _processor_seconds(apart.process.pid)
            assert after - before <= 0.02  # two ticks; ONNX Runtime's pool spins for three or more


def _processor_seconds(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_other_programs_use_is_told_from_what_the_measured_one_does() -> None:
    """On one core that both must share, in a process of its own so that no other test is bound to it."""
    program = """
import os, subprocess, sys, time
from fer_bench import noise
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def work():
    before, until = noise.usage(), time.monotonic() + 1
    while time.monotonic() < until: pass
    return noise.usage() - before
alone = work()
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
time.sleep(0.2)
beside = work()
other.kill()
for part in (alone, beside):
    print(noise.summary([part])["busy_share"], part.own / part.capacity, part.switches)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    alone, beside = (tuple(map(float, line.split())) for line in done.stdout.splitlines())
    for others, own, _ in (alone, beside):  # whatever else runs here: the core never rests
        assert others + own == pytest.approx(1, abs=0.1)
    assert beside[0] > 0.25  # two that work without pause share a core half and half, less what a third takes of it
    assert beside[2] > 0


def test_a_bundle_that_is_replaced_while_it_is_measured_is_an_error(bundles: dict[str, Bundle]) -> None:
    path = bundles["onnx fp32"].path
    for digest, error in ((bundles["onnx fp32"].digest, None), ("0" * 64, "was replaced while it was measured")):
        with Apart(Task(path, "null", None, digest=digest), Options(threads=1)) as apart:
            assert (apart.error is None) if error is None else error in (apart.error or "")
