"""What the package ships must be what its card says."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Command

from fer_train.checkpoint import SHIPPED, load_checkpoint


def test_the_shipped_checkpoint_says_how_it_was_made() -> None:
    checkpoint = load_checkpoint(SHIPPED)
    assert checkpoint.metrics["training_data"]["name"] == "fer2013"
    assert checkpoint.metrics["training_data"]["split"] == "Training"
    assert checkpoint.metrics["chosen_by"] == "last epoch"
    assert not checkpoint.folded


def test_the_shipped_checkpoint_scores_what_it_says_on_every_runtime(
    fer2013: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out.json"
    done = command(
        "fer-bench",
        "--runtime",
        "all",
        "--data",
        fer2013,
        "--split",
        "PublicTest",
        "--json",
        out,
        "--queries",
        64,
        "--seconds",
        0,
    )
    assert done.returncode == 0, done.stderr
    said = load_checkpoint(SHIPPED).metrics["accuracy"]
    for row in json.loads(out.read_text())["results"]:
        assert abs(row["accuracy"] - said) <= 0.001
        assert row["agreement"] >= 0.999
