from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from fer_bench.zoo import tables
from fer_bench.zoo.exports import export_all
from fer_bench.zoo.plot import plot
from fer_bench.zoo.run import run
from fer_export.zoo import choose
from fer_runtimes.errors import BadInput
from fer_runtimes.session import Options


@pytest.fixture(scope="module")
def shown(
    checkpoint: Path, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], Path]:
    """What the command prints and writes of three nets: trained, torchvision's, and one whose checkpoint is another net's."""
    out = tmp_path_factory.mktemp("zoo")
    trained = out / "trained"
    trained.mkdir()
    (trained / "fer_mobileone_xs.pt").symlink_to(checkpoint)
    (trained / "alexnet.pt").symlink_to(checkpoint)
    done = command(
        *("fer-bench", "zoo", "fer_mobileone_xs", "squeezenet*", "alexnet", "--checkpoints", trained),
        *("--runtime", "onnxruntime", "--runtime", "openvino", "--threads", 1, "--queries", 12, "--seconds", 0),
        *("--json", out / "zoo.json", "--markdown", out / "zoo.md", "--plot", out / "zoo.svg"),
    )
    assert done.returncode == 2, done.stderr
    assert "1 of the zoo's rows failed: alexnet: " in done.stderr
    assert "is of fer_mobileone_xs, not alexnet" in done.stderr
    return done.stdout, json.loads((out / "zoo.json").read_text()), out


def test_one_command_tables_the_zoo_and_a_failure_costs_its_own_row(
    shown: tuple[str, dict[str, Any], Path],
) -> None:
    text, content, out = shown
    old, plain, ours = content["nets"]
    assert [net["model"] for net in (old, plain, ours)] == ["alexnet", "squeezenet1_1", "fer_mobileone_xs"]
    assert old["error"]
    assert not old["results"]
    for net in (plain, ours):
        assert net["error"] is None
        assert [result["runtime"] for result in net["results"]] == ["onnxruntime", "openvino"]
        assert all(result["error"] is None and result["latency_ms"]["p50"] > 0 for result in net["results"])
    assert plain["parameters"] == plain["parameters_folded"] > 7e5
    assert ours["parameters"] > ours["parameters_folded"]
    assert (plain["trained"], plain["accuracy"]) == (False, None)
    assert ours["trained"]
    assert f"{ours['accuracy']:.2%}" in text
    assert "failed" in text
    written = (out / "zoo.md").read_text()
    assert written.count("\n| ") == 1 + 1 + 3 - 1  # the heading opens the file
    assert "accuracy as its checkpoint records it, on PublicTest" in written
    assert "- alexnet: " in written
    drawn = (out / "zoo.svg").read_text()
    assert "SqueezeNet 1.1" in drawn
    assert "AlexNet" not in drawn


def test_time_per_mac_is_over_the_least_of_its_runtime(shown: tuple[str, dict[str, Any], Path]) -> None:
    for one in (0, 1):
        found = {net["macs"]: net["results"][one] for net in shown[1]["nets"][1:]}
        per_mac = {macs: result["latency_ms"]["p50"] * 1e6 / macs for macs, result in found.items()}
        for macs, result in found.items():
            assert result["times_best"] == pytest.approx(per_mac[macs] / min(per_mac.values()))


def test_exported_bundles_are_kept_and_nets_take_turns_in_groups_that_fit_the_memory(
    shown: tuple[str, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = choose(("squeezenet*",))
    made = [path.stat().st_mtime_ns for path in Path(os.environ["FER_CACHE"]).glob("zoo/squeezenet*/*/manifest.json")]
    (one,) = export_all(rows, ["onnx", "openvino"], None)
    again = [path.stat().st_mtime_ns for path in Path(os.environ["FER_CACHE"]).glob("zoo/squeezenet*/*/manifest.json")]
    assert len(made) == 2
    assert made == again
    twin = replace(one, row=replace(one.row, model="twin"))
    monkeypatch.setattr("fer_bench.zoo.run.memory", lambda: (10**8, 10**9))
    content = run([one, twin], {"onnxruntime": "onnx"}, Options(threads=1), 12, 0.0)
    assert [net["group"] for net in content["nets"]] == [1, 2]
    assert "in 2 groups for want of memory" in tables.markdown(content)


def content_of(*figures: tuple[str, int, float]) -> dict[str, Any]:
    """A result file's content with nets of these names, MACs and milliseconds."""
    latency = [{"p50": p50, "p50_interval": [p50 * 0.9, p50 * 1.1]} for *_, p50 in figures]
    common = {"group": 1, "error": None, "split": None, "parity_images": 21}
    return {
        "queries": 1,
        "nets": [
            {
                "name": name,
                "macs": macs,
                **common,
                "results": [{"runtime": "r", "error": None, "unsure": None, "ns_per_mac": 1.0, "latency_ms": one}],
            }
            for (name, macs, _), one in zip(figures, latency, strict=True)
        ],
    }


def test_the_table_says_where_operations_are_not_time() -> None:
    (line,) = tables.said(content_of(("VGG", 800, 2.0), ("Efficient", 100, 3.6), ("Small", 10, 0.1)))
    assert line.startswith("On r, in 1 of 3 pairs ")
    assert line.endswith("VGG has 8.0 times the operations of Efficient and takes 0.56 times as long.")
    assert tables.said(content_of(("more", 20, 2.0), ("less", 10, 1.0))) == []
    assert tables.said(content_of(("more", 20, 1.0), ("less", 10, 1.1))) == [], "too close to tell"


def test_nothing_timed_is_nothing_to_plot() -> None:
    with pytest.raises(BadInput, match="no net was timed"):
        plot({"nets": []})


def test_a_folder_without_checkpoints_is_refused_before_any_work(command: Command, tmp_path: Path) -> None:
    done = command("fer-bench", "zoo", "resnet18", "--checkpoints", tmp_path)
    assert done.returncode == 2
    assert "holds no checkpoint of these backbones; expected e.g. resnet18.pt" in done.stderr
