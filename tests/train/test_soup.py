from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import Command

from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fer_train.soup import _mean, greedy_soup


def varied(checkpoint: Path, out: Path, change: float) -> Path:
    """The checkpoint with noise added to its first weights, so much of their size; -1 turns them round."""
    made = load_checkpoint(checkpoint)
    key = next(name for name, value in made.state_dict.items() if value.ndim == 4)
    torch.manual_seed(round(change * 1000))
    weight = made.state_dict[key]
    noise = -2 * weight if change < 0 else change * weight.std() * torch.randn_like(weight)
    save_checkpoint(out, dataclasses.replace(made, state_dict=made.state_dict | {key: weight + noise}))
    return out


def test_the_mean_is_of_weights_and_statistics(checkpoint: Path) -> None:
    one = load_checkpoint(checkpoint)
    thrice = {key: value * 3 if value.is_floating_point() else value for key, value in one.state_dict.items()}
    mean = _mean([one, dataclasses.replace(one, state_dict=thrice)])
    for key, value in one.state_dict.items():
        assert torch.allclose(mean.state_dict[key].double(), value.double() * (2 if value.is_floating_point() else 1))
        assert mean.state_dict[key].dtype == value.dtype


def test_what_makes_the_soup_worse_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    faces = drawn_faces(140, seed=2)
    good = [varied(checkpoint, tmp_path / f"{i}.pt", 0.01 * i) for i in (1, 2)]
    spoilt = varied(checkpoint, tmp_path / "spoilt.pt", -1)
    said: list[str] = []
    made, chosen = greedy_soup([spoilt, *good], faces, said.append)
    assert spoilt not in chosen
    assert f"with {spoilt}" in said[-1]
    assert said[-1].endswith("left out")
    assert made.metrics["accuracy"] >= load_checkpoint(checkpoint).metrics["accuracy"] - 0.02
    assert made.metrics["chosen_by"] == "greedy soup on PublicTest"
    assert len(made.metrics["soup"]) == len(chosen)


def test_nets_that_differ_make_no_soup(checkpoint: Path, tmp_path: Path) -> None:
    faces = drawn_faces(70, seed=2)
    with pytest.raises(BadInput, match="two checkpoints or more"):
        greedy_soup([checkpoint], faces)
    other: Checkpoint = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "other.pt", dataclasses.replace(other, input=other.input | {"size": 40}))
    with pytest.raises(BadInput, match="another net or input"):
        greedy_soup([checkpoint, tmp_path / "other.pt"], faces)


def test_the_command_writes_a_checkpoint(checkpoint: Path, csv_file: Path, tmp_path: Path, command: Command) -> None:
    other = varied(checkpoint, tmp_path / "other.pt", 0.01)
    done = command("fer-train", "soup", checkpoint, other, "--data", csv_file, "--out", tmp_path / "soup.pt")
    assert done.returncode == 0, done.stderr
    assert "soup" in load_checkpoint(tmp_path / "soup.pt").metrics
    refused = command("fer-train", "soup", checkpoint, other, "--data", csv_file, "--split", "Training", "--out", other)
    assert refused.returncode == 2
    assert "cannot choose" in refused.stderr
