"""What the package ships must be what its card says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import Command, as_csv

from fer_runtimes.data import load_faces
from fer_train.checkpoint import SHIPPED, load_checkpoint


def test_the_shipped_checkpoint_says_how_it_was_made() -> None:
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.metrics["training_data"]["name"] == "fer2013"
    assert checkpoint.metrics["training_data"]["split"] == "Training"
    assert checkpoint.metrics["chosen_by"] == "last epoch"
    assert not checkpoint.folded


def test_the_shipped_checkpoint_scores_what_it_says_and_every_runtime_agrees(
    fer2013: Path, tmp_path: Path, command: Command
) -> None:
    """The whole split where that is quick; the other runtimes answer every third face of it."""
    out = tmp_path / "out.json"

    def measured(data: Path, *runtimes: str) -> list[dict[str, Any]]:
        named = [part for name in runtimes for part in ("--runtime", name)]
        brief = ("--queries", 12, "--seconds", 0, "--json", out)
        done = command("fer-bench", *named, "--data", data, "--split", "PublicTest", *brief)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(out.read_text())["results"]
        return rows

    whole = load_faces(fer2013, ("PublicTest",))
    third = tmp_path / "third.csv"
    third.write_text(as_csv([replace(whole, images=whole.images[::3], labels=whole.labels[::3])]))
    rows = measured(third, "all")  # first, since it exports what the others run
    assert {"pytorch", "onnxruntime", "openvino", "coreml-reference"} <= {row["runtime"] for row in rows}
    assert all(row["agreement"] >= 0.999 for row in rows)
    said = load_checkpoint(SHIPPED).metrics["accuracy"]
    for row in measured(fer2013, "onnxruntime", "openvino"):
        assert abs(row["accuracy"] - said) <= 0.001
        assert row["agreement"] >= 0.999


def test_the_shipped_checkpoint_runs_with_no_option_but_the_runtime(tmp_path: Path, command: Command) -> None:
    """Last, since it exports what the test above has left in the cache."""
    done = command("fer-bench", "--runtime", "onnxruntime", "--queries", 32, "--seconds", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
