from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from fer_bench import tables
from fer_bench.bench import Job, bench
from fer_bench.latency import WARMUP_QUERIES, measure, summarise
from fer_bench.measure import measure_apart
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
    jobs = [Job(runtime, bundles[name]) for runtime, name in THREE]
    return bench([*jobs, Job("openvino", None, "runtime openvino needs openvino")], faces, Options(threads=1), 64)


def test_percentiles_are_values_that_were_seen_and_nothing_is_trimmed() -> None:
    latency = summarise(np.array([1_000_000] * 98 + [5_000_000, 100_000_000]))
    assert (latency.p50, latency.p90, latency.p99, latency.count) == (1, 1, 5, 100)
    assert latency.mean == pytest.approx(2.03)


def test_the_count_is_what_was_asked_and_the_warm_up_is_not_in_it(bundles: dict[str, Bundle]) -> None:
    with open_session(bundles["onnx fp32"], "null") as session:
        calls = 0
        inner = session._infer

        def counted(images: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            return inner(images)

        session._infer = counted  # type: ignore[method-assign]
        assert measure(session, np.zeros((3, 1, 48, 48), np.uint8), 10).count == 10
    assert calls >= 10 + WARMUP_QUERIES


def test_runtimes_agree_on_accuracy_and_labels(results: dict[str, list[dict[str, object]]]) -> None:
    rows = results["results"][:4]
    assert len({row["accuracy"] for row in rows}) == 1
    assert all(row["agreement"] == 1 for row in rows)
    assert {row["agreement_with"] for row in rows} == {"pytorch unfolded fp32"}
    assert float(str(rows[2]["max_abs_logit"])) < 1e-3


def test_folding_and_an_engine_are_faster_than_the_framework_in_the_same_run(
    results: dict[str, list[dict[str, dict[str, float]]]],
) -> None:
    unfolded, folded, ort, _, _ = (row["latency_ms"] and row["latency_ms"]["p50"] for row in results["results"])
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
    assert {"p50", "p90", "p99", "mean", "count"} == read["results"][0]["latency_ms"].keys()


def test_the_tables_show_every_row(results: dict[str, object]) -> None:
    page = tables.markdown(results)
    assert "| pytorch (unfolded) | pytorch | fp32 |" in page
    assert "drawn-faces" in page
    assert "- openvino: runtime openvino needs openvino" in page
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(results))))
    assert len(rows) == 5
    assert float(rows[0]["latency_p50_ms"]) > 0
    assert tables.terminal(results).row_count == 5


def test_images_known_from_training_are_left_out_of_the_second_accuracy(
    bundles: dict[str, Bundle], faces: Faces
) -> None:
    plain = bench([Job("onnxruntime", bundles["onnx fp32"])], faces, Options(threads=1), 32)["results"][0]
    assert plain["accuracy_unseen"] is None
    seen = faces.labels != 3
    only_happy = bench([Job("onnxruntime", bundles["onnx fp32"])], replace(faces, seen=seen), Options(threads=1), 32)
    assert only_happy["data"]["also_in_training"] == seen.sum()
    assert only_happy["results"][0]["accuracy"] == plain["accuracy"]
    assert only_happy["results"][0]["accuracy_unseen"] == plain["recall"][3]


def test_without_data_there_is_agreement_with_the_bundle_and_no_accuracy(bundles: dict[str, Bundle]) -> None:
    row = bench([Job("onnxruntime", bundles["onnx fp32"])], None, Options(threads=1), 32)["results"][0]
    assert row["accuracy"] is None
    assert row["agreement"] == 1
    assert row["agreement_with"].startswith("float64 reference")


def test_a_runtime_that_dies_costs_its_own_row(bundles: dict[str, Bundle]) -> None:
    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(children[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = measure_apart(bundles["onnx fp32"].path, "onnxruntime", Options(threads=1), None, 10_000_000)
    killer.join()
    assert result == "runtime onnxruntime died while it was measured (crash, or killed for memory)"
