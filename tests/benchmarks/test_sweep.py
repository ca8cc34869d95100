from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command

from fer_bench.bench import bench
from fer_bench.report.answer import pareto
from fer_bench.sweep import HEADINGS, cells, jobs_of
from fer_export.pipeline import Source
from fer_export.targets import TARGETS
from fer_runtimes.data import Faces
from fer_runtimes.session import Options


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def table(
    int8_source: Source, faces: Faces, said: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[list[str]]:
    asked = jobs_of(int8_source, int8_source, ["onnx"], tmp_path_factory.mktemp("sweep"), said.append)
    results = bench([job for _, _, job in asked], faces, Options(threads=1), 72, seconds=0.2)
    rows = cells(results, [(name, precision) for name, precision, _ in asked])
    marked = [i for i, row in enumerate(rows) if row[-1] == "*"]
    assert sorted(marked) == sorted(i for line in pareto(results["results"]) for i in line)
    return rows


def test_every_precision_is_a_row_with_its_figures(table: list[list[str]]) -> None:
    assert [tuple(row[:2]) for row in table] == [
        ("pytorch", "fp32"),
        *(("onnx", name) for name in TARGETS["onnx"].tolerances),
    ]
    assert all(len(row) == len(HEADINGS) for row in table)
    by_precision = {row[1]: dict(zip(HEADINGS, row, strict=True)) for row in table[1:]}
    assert float(by_precision["int8"]["model MB"]) < 0.5 * float(by_precision["fp32"]["model MB"])
    assert by_precision["fp32"]["against fp32"] == "-"
    assert "x [" in by_precision["int8"]["against fp32"]
    assert by_precision["fp32"]["agreement"] == "100.00%"
    assert any(row[-1] == "*" for row in table)


def test_what_cannot_be_made_is_a_row_that_says_why(source: Source, tmp_path: Path) -> None:
    asked = jobs_of(source, "int8 needs faces", ["onnx"], tmp_path, lambda _: None)
    errors = {precision: job.error for name, precision, job in asked if name == "onnx"}
    assert errors["int8"] == "int8 needs faces"
    assert [error for precision, error in errors.items() if precision != "int8"] == [None] * (len(errors) - 1)


def test_an_unknown_target_is_refused_before_any_work(command: Command) -> None:
    done = command("fer-bench", "sweep", "--target", "tflite")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tflite" in done.stderr
