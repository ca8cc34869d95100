from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command

from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_train.augment import Augment
from fer_train.checkpoint import load_checkpoint
from fer_train.deploy import deployable
from fer_train.distil import Teacher, distillation_loss, load_teachers, opinions
from fer_train.loop import train
from fer_train.recipe import Recipe, recipe_from


def test_the_loss_is_hintons() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    labels, told = (torch.randn(5, 7, dtype=torch.float64).softmax(1) for _ in range(2))
    kl = torch.nn.functional.kl_div((logits / 3).log_softmax(1), told, reduction="batchmean")
    entropy = -(told * told.log()).sum(1).mean()
    hard = -(labels * logits.log_softmax(1)).sum(1).mean()
    assert distillation_loss(logits, labels, told, 0.7, 3.0).item() == pytest.approx(
        (0.3 * hard + 0.7 * 9 * (kl + entropy)).item()
    )
    assert distillation_loss(logits, labels, told, 0.0, 3.0).item() == pytest.approx(hard.item())


def test_opinions_are_the_mean_of_what_each_teacher_says_of_its_own_input(checkpoint: Path) -> None:
    teachers, (record, _) = load_teachers([checkpoint, checkpoint], "cpu")
    assert record["model"] == "fer_mobileone_xs"
    bytes_ = torch.from_numpy(drawn_faces(8, seed=11).images)[:, None]
    with torch.no_grad():
        truth = deployable(load_checkpoint(checkpoint))(bytes_)
    views = bytes_.float() / 255
    assert torch.allclose(opinions(teachers, views, 1.0), truth.softmax(1), atol=1e-5)
    assert torch.allclose(opinions(teachers[:1], views, 2.0), (truth / 2).softmax(1), atol=1e-5)
    blind = Teacher(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12 * 12, 7)), 12, 0.5, 0.25)
    torch.nn.init.zeros_(blind.net[1].weight)
    torch.nn.init.zeros_(blind.net[1].bias)
    both = opinions([teachers[0], blind], views, 1.0)  # the second sees 12 pixels and knows nothing
    assert torch.allclose(both, (truth.softmax(1) + 1 / 7) / 2, atol=1e-5)


def test_a_net_learns_from_its_teacher_what_its_labels_do_not_say(checkpoint: Path, tmp_path: Path) -> None:
    """The labels are those of other faces. Alone the net learns nothing; its teacher has read drawn faces before."""
    faces = drawn_faces(700, seed=1, split="Training")
    misled = dataclasses.replace(faces, labels=np.random.default_rng(0).permutation(faces.labels))
    gentle = Augment(rotate=5, field=(0.9, 1.05), shift=0.05, light=0.1, erase=0)
    recipe = Recipe(model="fer_repvgg_xs", epochs=6, batch_size=16, lr=0.06, warmup=0.5, ema=0.9, augment=gentle)
    recipe = dataclasses.replace(recipe, distil=1.0)
    held_out = drawn_faces(140, seed=2)
    taught = train(recipe, misled, held_out, tmp_path / "taught", teachers=[checkpoint])
    alone = train(recipe, misled, held_out, tmp_path / "alone")
    assert taught.metrics["accuracy"] > 0.45 > 0.25 > alone.metrics["accuracy"]
    assert [record["model"] for record in taught.metrics["teachers"]] == ["fer_mobileone_xs"]
    assert alone.metrics["teachers"] == []
    with pytest.raises(BadInput, match="another teachers"):
        train(recipe, misled, held_out, tmp_path / "taught", resume=True)


def test_teachers_on_the_command_line(checkpoint: Path, csv_file: Path, tmp_path: Path, command: Command) -> None:
    options = ["--data", csv_file, "--model", "fer_repvgg_xs", "--epochs", 1, "--out", tmp_path / "run"]
    absent = command("fer-train", *options, "--teacher", tmp_path / "no.pt")
    assert absent.returncode == 2
    assert "no.pt: no such file" in absent.stderr
    done = command("fer-train", *options, "--teacher", checkpoint)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "run/last.pt").metrics["teachers"][0]["model"] == "fer_mobileone_xs"


@pytest.mark.parametrize("wrong", [{"distil": 1.5}, {"distil": -0.1}, {"distil_temperature": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="distil"):
        recipe_from(wrong, "test")
