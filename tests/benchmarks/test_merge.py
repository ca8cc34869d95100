"""Files of several machines become one, and stay readable as one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fer_bench import tables
from fer_bench.merge import merge, parse_results, read_results
from fer_runtimes.errors import BadInput


@pytest.fixture(scope="module")
def results(measured: dict[str, Any]) -> dict[str, Any]:
    """The rows that ran."""
    return measured | {"results": [row for row in measured["results"] if not row["error"]]}


@pytest.fixture
def board(results: dict[str, Any]) -> dict[str, Any]:
    """The same file as another machine would have written it: slower, hot, without data."""
    other = copy.deepcopy(results)
    other["environment"] |= {"host": "nano", "cpu": "ARMv8", "cores": 6}
    other["environment"]["board"] |= {"model": "Orin Nano", "jetpack": "6.2", "power_mode": "15W"}
    other["environment"]["after"]["throttled"] = True
    other |= {"data": None, "queries": 32, "results": other["results"][1:]}
    for row in other["results"]:
        row |= {"accuracy": None, "recall": None, "confusion": None, "ratio": None}  # it has no PyTorch
        row["latency_ms"]["p50"] *= 3
    return other


def test_results_carry_board_and_state_and_no_machine(results: dict[str, Any]) -> None:
    place = results["environment"]
    assert {"model", "jetpack", "l4t", "power_mode", "governor"} <= place["board"].keys()
    assert {"clocks_mhz", "temperatures_c", "throttled", "power_w"} <= place["before"].keys() == place["after"].keys()
    assert results["machines"] is None
    assert {row["machine"] for row in results["results"]} == {None}
    assert "machine" not in tables.cells(results)[0]


def test_each_row_keeps_its_machine_and_each_machine_its_context(
    results: dict[str, Any], board: dict[str, Any]
) -> None:
    merged = merge([(None, results), ("board", board)])
    here = results["environment"]["host"]
    assert [row["machine"] for row in merged["results"]] == [here, here, "board"]
    assert merged["machines"]["board"] == {key: board[key] for key in ("made", "environment", "data", "queries")}
    assert merged["environment"] == results["environment"]
    assert merged["data"] == results["data"]
    assert json.loads(json.dumps(merged, allow_nan=False)) == merged
    headings, rows = tables.cells(merged)
    assert headings[0] == "machine"
    assert [row[headings.index("speed-up")] != "-" for row in rows] == [True, True, False]
    caption = tables.caption(merged)
    assert "board: Orin Nano, ARMv8, 6 cores, JetPack 6.2, power mode 15W, throttled while measuring" in caption
    assert "32 or 64 queries" in caption
    assert f"| {here}: onnxruntime |" in tables.markdown(merged)
    assert tables.comma_separated(merged).count("board") == 1


def test_merged_files_merge_again_and_names_stay_apart(results: dict[str, Any], board: dict[str, Any]) -> None:
    twice = merge([("a", results), ("a", board)])
    assert list(twice["machines"]) == ["a", "a (2)"]
    again = merge([(None, twice), ("a", board)])
    assert list(again["machines"]) == ["a", "a (2)", "a (3)"]
    assert [row["machine"] for row in again["results"]] == ["a", "a", "a (2)", "a (3)"]


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"split": "PrivateTest"}])
def test_results_of_other_data_are_refused_by_name(results: dict[str, Any], change: dict[str, str]) -> None:
    other = results | {"data": results["data"] | change}
    with pytest.raises(BadInput, match="results of different data: drawn-faces"):
        merge([(None, results), (None, other)])


def test_what_is_no_whole_result_file_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(results, indent=2)
    whole = tmp_path / "whole.json"
    whole.write_text(text)
    assert read_results(whole) == results
    for broken, complaint in [
        (text[: len(text) // 2], "not a whole result file"),
        ("[]", "result format list"),
        (json.dumps(results | {"format": 2}), "result format 2"),
        (json.dumps({"format": 1, "results": []}), "without data, environment, queries"),
    ]:
        with pytest.raises(BadInput, match=complaint):
            parse_results(broken, "board")
    with pytest.raises(BadInput, match=r"nothing\.json: cannot be read"):
        read_results(tmp_path / "nothing.json")
