"""What the package ships must be what its card says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, as_csv

from fer_runtimes.data import load_faces
from fer_train.checkpoint import CHECKPOINTS, SHIPPED, load_checkpoint

EVERY = sorted(CHECKPOINTS.glob("*.pt"))


def test_what_is_shipped_stays_small() -> None:
    assert SHIPPED in EVERY
    assert sum(path.stat().st_size for path in EVERY) <= 40e6


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_shipped_checkpoint_says_how_it_was_made(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    assert checkpoint.metrics["training_data"]["name"] == "fer2013"
    assert checkpoint.metrics["training_data"]["split"] == "Training"
    assert checkpoint.metrics["chosen_by"] == "last epoch"
    assert not checkpoint.folded


def test_the_shipped_checkpoint_scores_what_it_says_and_every_runtime_agrees(
    fer2013: Path, tmp_path: Path, in_process: Command
) -> None:
    """The whole split where that is quick; the other runtimes answer every 36th face of it."""
    out = tmp_path / "out.json"

    def measured(data: Path, *runtimes: str) -> list[dict[str, Any]]:
        named = [part for name in runtimes for part in ("--runtime", name)]
        brief = ("--queries", 12, "--seconds", 0, "--json", out)
        done = in_process("fer-bench", *named, "--data", data, "--split", "PublicTest", *brief)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(out.read_text())["results"]
        return rows

    whole = load_faces(fer2013, ("PublicTest",))
    few = tmp_path / "few.csv"
    few.write_text(as_csv([replace(whole, images=whole.images[::36], labels=whole.labels[::36])]))
    rows = measured(few, "all")  # first, since it exports what the others run
    assert {"pytorch", "onnxruntime", "openvino", "coreml-reference"} <= {row["runtime"] for row in rows}
    assert all(row["agreement"] >= 0.999 for row in rows)
    said = load_checkpoint(SHIPPED).metrics["accuracy"]
    for row in measured(fer2013, "onnxruntime", "openvino"):
        assert abs(row["accuracy"] - said) <= 0.001
        assert row["agreement"] >= 0.999


def test_the_shipped_checkpoint_keeps_its_answers_with_weights_in_int8(tmp_path: Path, in_process: Command) -> None:
    """Its folded identities give a row one weight that dwarfs the others: rounded to nearest they fail their bound."""
    done = in_process("fer-export", "--target", "onnx", "--precision", "int8-weights", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fer_small-onnx-int8-weights" / "manifest.json").is_file()


@pytest.mark.parametrize("name", [path.stem for path in EVERY if path != SHIPPED])
def test_the_others_score_what_they_say_too(name: str, fer2013: Path, tmp_path: Path, in_process: Command) -> None:
    asked = ("--runtime", "onnxruntime", "--checkpoint", name, "--data", fer2013, "--json", tmp_path / "out.json")
    done = in_process("fer-bench", *asked, "--queries", 12, "--seconds", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert abs(row["accuracy"] - load_checkpoint(CHECKPOINTS / f"{name}.pt").metrics["accuracy"]) <= 0.001


def test_the_shipped_checkpoint_runs_with_no_option_but_the_runtime(tmp_path: Path, in_process: Command) -> None:
    """Last, since it exports what the test above has left in the cache."""
    done = in_process("fer-bench", "--runtime", "onnxruntime", "--queries", 32, "--seconds", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
