"""What is measured beside single images: each mode on engines whose times are known, then all of them on real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_bench import loadgen, paced, soak, tables, throughput
from fer_bench.bench import Job, bench
from fer_bench.energy import Meter, Span, used
from fer_bench.jsontext import json_text
from fer_bench.loadgen import drive, read_detail
from fer_bench.measure import Measured, Task, measure
from fer_bench.modes import KEYS, Modes
from fer_bench.noise import usage
from fer_bench.paced import after_idle, pace
from fer_bench.pin import best_first
from fer_bench.worker import Round, Worker
from fer_runtimes.bundle import Bundle
from fer_runtimes.errors import CheckFailed
from fer_runtimes.session import Options, Session, open_session

IMAGES = [np.zeros((1, 1, 48, 48), np.uint8)] * 8


@contextmanager
def engine(bundle: Bundle, wait: Callable[[int], float]) -> Iterator[Session]:
    """The null engine, which takes so many seconds for its n-th query: long against what the scheduler adds."""
    with open_session(bundle, "null") as session:
        inner, calls = session._infer, iter(range(10**9))

        def slow(images: np.ndarray) -> np.ndarray:
            time.sleep(wait(next(calls)))
            return inner(images)

        session._infer = slow  # type: ignore[method-assign]
        yield session


@pytest.fixture
def null(bundles: dict[str, Bundle]) -> Bundle:
    return bundles["onnx fp32"]


def test_a_stall_delays_the_frames_behind_it_and_each_counts_from_when_it_was_due(null: Bundle) -> None:
    with engine(null, lambda n: 0.3 if n == 4 else 0.002) as session:
        frames = pace(session, IMAGES, np.random.default_rng(0), 20, 1)
    latency = frames.latency / 1e6
    assert len(latency) == frames.due == 20
    assert latency[4] >= 300
    assert latency[5] >= 250  # its own inference took 2 ms; a loop that counts from there would not see it
    assert latency[6] >= 200
    assert paced.summarise(frames)["deadline_misses"] >= 6  # 300 ms, then 250, 200, 150, 100, 50 and 2 ms each
    assert paced.summarise(frames)["p50"] < 300
    assert len(frames.late) <= 15  # those that waited for the stall to end were not waited for


def test_an_engine_that_falls_behind_leaves_frames_unanswered_and_its_percentiles_open(null: Bundle) -> None:
    with engine(null, lambda _: 0.03) as session:
        row = paced.summarise(pace(session, IMAGES, np.random.default_rng(0), 100, 0.7))
    assert row["frames"] == 70
    assert row["answered"] <= 25  # 0.71 s of frames, 0.03 s each
    assert row["deadline_misses"] == 70
    assert row["p50"] is row["p90"] is None  # most were never answered: no number would be honest
    assert len(row["latency_ns"]) == row["answered"]


def test_percentiles_of_frames_are_refused_as_those_of_queries_are() -> None:
    def row(count: int) -> dict[str, Any]:
        return paced.summarise(paced.Frames(10, count, np.full(count, 1_000_000), np.full(count, 10_000)))

    assert [row(10)[key] for key in ("p50", "p90", "p99")] == [None, None, None]
    assert [row(64)[key] for key in ("p50", "p90", "p99")] == [1, 1, None]
    assert row(662)["p99"] == 1
    assert row(64)["deadline_misses"] == 0


def test_a_harness_that_wakes_late_says_so(null: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep
    monkeypatch.setattr(paced.time, "sleep", lambda seconds: sleep(seconds + 0.03))
    with open_session(null, "null") as session:
        frames = pace(session, IMAGES, np.random.default_rng(0), 20, 0.3)
    assert paced.summarise(frames)["harness_late_ms"]["p50"] > 25
    assert np.median(frames.latency) / 1e6 > 25  # in it, and told apart from the engine by the line above


def test_the_first_frame_after_idle_is_timed_after_each_pause(null: Bundle) -> None:
    with open_session(null, "null") as session:
        inner, last = session._infer, time.monotonic()

        def drowsy(images: np.ndarray) -> np.ndarray:
            nonlocal last
            if time.monotonic() - last > 0.04:
                time.sleep(0.02)
            last = time.monotonic()
            return inner(images)

        session._infer = drowsy  # type: ignore[method-assign]
        taken = after_idle(session, IMAGES, np.random.default_rng(0), 3, 0.05)
    assert len(taken) == 3
    assert taken.min() >= 20e6
    assert paced.summarise_idle(taken)["median"] == np.median(taken) / 1e6


def test_a_soak_tells_a_slower_end_from_a_steady_one() -> None:
    random = np.random.default_rng(0)

    def row(slower: float) -> dict[str, Any]:
        first, last = ([random.lognormal(0, 0.05, 500) * 1e6 * by for _ in range(6)] for by in (1, slower))
        return soak.summarise(3, 10, [1.0] * 18, first, last)

    hot, steady = row(1.3), row(1)
    for key in ("p50_change", "p90_change"):
        assert 1.25 < hot[key]["low"] <= hot[key]["value"] <= hot[key]["high"] < 1.35
        assert steady[key]["low"] <= 1.01
        assert steady[key]["high"] >= 0.99
        assert steady[key]["high"] - steady[key]["low"] < 0.05
    assert hot["first"]["p50"] == pytest.approx(1, rel=0.02)
    assert hot["last"]["p90"] == pytest.approx(1.3 * 1.066, rel=0.02)
    assert hot["first"]["seconds"] == 60
    assert len(hot["medians_ms"]) == 18


def test_throughput_is_all_images_over_all_their_time() -> None:
    rounds = [Round(np.full(10, 4_000_000 + i % 2), usage(), True, Span(0, 1, None, 10)) for i in range(12)]
    row = throughput.summarise(8, rounds)
    assert row["images"] == 960
    assert row["images_per_s"] == pytest.approx(2000, rel=1e-6)
    assert row["ms_per_image"] == pytest.approx(0.5, rel=1e-6)
    low, high = row["interval"]
    assert low <= row["images_per_s"] <= high
    assert throughput.summarise(8, rounds[:5])["interval"] is None


def test_an_engine_that_takes_no_batches_says_so_and_goes_on(null: Bundle) -> None:
    worker = Worker(null.path, "null", Options(threads=1), None, time.monotonic_ns(), False, Path("/"))
    done = worker.batched(8, 0)
    assert isinstance(done, Round)
    assert worker._batches[8][0].shape == (8, 1, 48, 48)
    inner = worker._session._infer

    def one(images: np.ndarray) -> np.ndarray:
        if len(images) > 1:
            raise RuntimeError("profile takes\n1 image")
        return inner(images)

    worker._session._infer = one  # type: ignore[method-assign]
    assert worker.batched(8, 0) == "profile takes 1 image"
    worker._session.batches = False
    assert worker.batched(8, 0) == "the engine is given one image at a time"
    assert len(worker.round(3, 0).nanoseconds) == 3
    row = throughput.summarise(8, "profile takes 1 image")
    assert row["error"] == "profile takes 1 image"
    assert row["images_per_s"] is None


def test_loadgen_and_our_own_clock_agree_and_leave_nothing_behind(
    null: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlperf_loadgen")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(loadgen.tempfile, "tempdir", None)
    with engine(null, lambda _: 0.005) as session:
        row = loadgen.summarise(*drive(session, IMAGES, np.random.default_rng(0), 72, 0.2))
    assert row["count"] >= 72
    assert 5 <= row["p50"] <= row["p90"]
    assert row["p99"] is None  # it would name one; so few queries do not support it
    assert row["ratio_p50"] == pytest.approx(1, abs=0.2)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_loadgen_run_that_is_not_valid_is_none(tmp_path: Path) -> None:
    def log(met: bool) -> Path:
        path = tmp_path / "detail.txt"
        lines = [{"key": "result_min_duration_met", "value": True}, {"key": "result_min_queries_met", "value": met}]
        path.write_text("\n".join(":::MLLOG " + json.dumps(line) for line in lines) + "\nno line of its own\n")
        return path

    assert read_detail(log(True))["result_min_queries_met"]
    with pytest.raises(CheckFailed, match="more --queries or --seconds"):
        read_detail(log(False))


def test_without_loadgen_nothing_is_measured() -> None:
    program = """
import sys
sys.modules["mlperf_loadgen"] = None
from fer_bench.bench import bench
from fer_bench.modes import Modes
from fer_runtimes.session import Options
bench([], None, Options(), 1, further=Modes(loadgen=True))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (
        "NotAvailable: --loadgen needs mlperf_loadgen; pip install '.[loadgen]' in fer-edge's checkout" in done.stderr
    )


def test_all_modes_on_real_engines_fill_their_keys_and_tables(bundles: dict[str, Bundle]) -> None:
    pytest.importorskip("mlperf_loadgen")
    further = Modes((4, 8), (20.0, 40.0), 0.5, 0.02, True)
    results = bench(
        [Job("onnxruntime", bundles["onnx fp32"])], None, Options(threads=1), 72, seconds=0.1, further=further
    )
    (row,) = results["results"]
    assert row["error"] is None
    assert [entry["batch"] for entry in row["throughput"]] == [4, 8]
    assert all(entry["images_per_s"] > 0 and entry["error"] is None for entry in row["throughput"])
    assert [(entry["fps"], entry["frames"]) for entry in row["paced"]] == [(20, 10), (40, 20)]
    assert row["after_idle_ms"]["pauses"] == 5
    assert row["soak"]["minutes"] == 0.02
    assert len(row["soak"]["medians_ms"]) == 12
    assert row["soak"]["before"].keys() == row["soak"]["after"].keys()
    assert row["loadgen"]["count"] >= 72
    page = tables.markdown(results)
    for title in ("Images a second", "Frames as a camera", "The first frame after", "Load without pause", "Driven by"):
        assert f"\n{title}" in page
    assert len(tables.terminal_extra(results)) == 5
    assert json.loads(json_text(results)) == results
    assert "latency_ns" not in tables.comma_separated(results)


def test_what_was_not_asked_for_is_null_and_has_no_table(bundles: dict[str, Bundle]) -> None:
    results = bench([Job("null", bundles["onnx fp32"])], None, Options(threads=1), 12, seconds=0)
    assert {results["results"][0][key] for key in (*KEYS, "energy")} == {None}
    assert tables.terminal_extra(results) == []


def test_unpinned_a_process_may_use_every_core_and_pinned_to_all_it_is_not_bound(bundles: dict[str, Bundle]) -> None:
    import os

    cores = sorted(os.sched_getaffinity(0))
    for threads, pin in ((1, False), (len(cores), True)):
        (found,), _ = measure(
            [Task(bundles["onnx fp32"].path, "onnxruntime", None)],
            Options(threads=threads),
            12,
            0,
            modes=Modes(pin=pin),
        )
        assert isinstance(found, Measured)
        assert (found.answers.cores, found.answers.pinned) == (cores, False)
        assert not [note for note in found.notes if "bound to" in note]  # whether it settled is the machine's affair


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)  # a reader sees the old or the new


def test_energy_of_a_query_is_what_rapl_counted_while_it_was_timed(null: Bundle, tmp_path: Path) -> None:
    """A counter that runs at 10 W whatever happens: a query takes 10 W for as long as it lasts, and nothing above idle."""
    counter, over = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", threading.Event()
    _write(counter, "0\n")
    _write(counter.with_name("name"), "package-0\n")
    _write(counter.parent.with_name("intel-rapl:0:0") / "name", "core\n")  # a part of the package: not counted twice
    part = counter.parent.with_name("intel-rapl:0:0") / "energy_uj"
    began = time.monotonic()

    def run() -> None:
        while not over.wait(0.001):
            for file, watts in ((counter, 10), (part, 6)):
                _write(file, f"{int((time.monotonic() - began) * watts * 1e6)}\n")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        (found,), _ = measure([Task(null.path, "onnxruntime", None)], Options(threads=1), 72, 1.2, sensors=tmp_path)
    finally:
        over.set()
        thread.join()
    assert isinstance(found, Measured)
    assert found.energy is not None
    mean_ms = float(np.concatenate(found.rounds).mean() / 1e6)
    assert found.energy["source"] == "RAPL packages"
    assert found.energy["idle_w"] == pytest.approx(10, rel=0.25)
    assert found.energy["mj_per_query"] == pytest.approx(10 * mean_ms, rel=0.25)
    assert abs(found.energy["mj_per_query_above_idle"]) < 0.5 * found.energy["mj_per_query"]
    assert found.energy["queries"] == sum(map(len, found.rounds))


def test_a_counter_that_starts_again_from_0_costs_its_round_alone(tmp_path: Path) -> None:
    assert used(5.0, 7.5) == 2.5
    assert used(262143.0, 1.0) is used(None, 1.0) is None
    _write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", "5000000\n")
    _write(tmp_path / "sys/class/powercap/intel-rapl:0/name", "package-0\n")
    told = Meter(tmp_path).summarise([Span(0, 10**9, 3.0, 100), Span(0, 10**9, None, 50)])
    assert told == {
        "source": "RAPL packages",
        "mj_per_query": 30,
        "mj_per_query_above_idle": None,
        "idle_w": None,
        "queries": 100,
    }


def test_a_jetsons_rails_are_sampled_while_queries_run(tmp_path: Path) -> None:
    rails = tmp_path / "sys/class/hwmon/hwmon1"
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1000"}.items():
        _write(rails / name, text)
    for name, text in {"in2_label": "VDD_CPU_GPU_CV", "in2_input": "5000", "curr2_input": "400"}.items():
        _write(rails / name, text)  # fed by VDD_IN: not counted twice
    with Meter(tmp_path) as meter:
        meter.rest()
        _write(rails / "curr1_input", "3000")
        began = time.monotonic_ns()
        time.sleep(0.5)
        span = Span(began, time.monotonic_ns(), None, 10)
        _write(rails / "curr1_input", "1000")
        time.sleep(0.2)
        found = meter.summarise([span])
        nothing = meter.summarise([Span(0, 1, None, 1)])  # between two samples nothing is known
    assert found is not None
    assert (found["source"], found["idle_w"]) == ("VDD_IN", pytest.approx(5))
    assert found["mj_per_query"] == pytest.approx(15 * span.seconds / 10 * 1e3)
    assert found["mj_per_query_above_idle"] == pytest.approx(10 * span.seconds / 10 * 1e3)
    assert nothing is None
    assert not any(thread is meter._thread for thread in threading.enumerate())


def test_where_no_sensor_is_nothing_is_sampled_or_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with Meter(tmp_path) as meter:
        meter.rest()
        assert meter.summarise([Span(0, 1, None, 1)]) is None
        assert meter._thread.ident is None
    assert time.monotonic() - began < 0.9  # of the second that a sensor would be watched


def test_json_keeps_lists_of_numbers_on_one_line_and_text_as_it_is() -> None:
    content = {
        "raw_ns": [[1, 2, 3], [-4, 5.5e-7]],
        "text": "[\n 1,\n 2\n]",
        "mixed": [1, "[2]", None],
        "gaps": [None, 1],
        "none": [],
    }
    text = json_text(content)
    assert json.loads(text) == content
    assert "[1, 2, 3],\n" in text
    assert "[-4, 5.5e-07]\n" in text
    assert '"gaps": [null, 1]' in text
    assert len(json_text({"raw_ns": [list(range(10**6, 10**6 + 10_000))]})) < 9.1 * 10_000
    assert json.loads(json_text({"max_abs_logit": float("nan"), "all": [1.5, float("inf")]})) == {
        "max_abs_logit": None,
        "all": [1.5, None],
    }


def test_fast_cores_and_whole_ones_are_bound_first(tmp_path: Path) -> None:
    assert best_first([2, 0, 1], tmp_path) == [0, 1, 2]
    for core, capacity in enumerate((400, 400, 1024, 1024)):
        (tmp_path / f"little/cpu{core}").mkdir(parents=True)
        (tmp_path / f"little/cpu{core}/cpu_capacity").write_text(f"{capacity}\n")
    assert best_first([0, 1, 2, 3], tmp_path / "little") == [2, 3, 0, 1]
    for core, siblings in enumerate(("0-1", "0-1", "2,3", "2,3")):
        (tmp_path / f"smt/cpu{core}/topology").mkdir(parents=True)
        (tmp_path / f"smt/cpu{core}/topology/thread_siblings_list").write_text(f"{siblings}\n")
    assert best_first([0, 1, 2, 3], tmp_path / "smt") == [0, 2, 1, 3]
