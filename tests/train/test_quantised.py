from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from timm.utils import reparameterize_model
from torch import nn

from fer_bench.jobs import jobs_of_checkpoint
from fer_export.pipeline import export, load_source
from fer_export.reference import answer
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_runtimes.images import prepare
from fer_runtimes.metrics import softmax
from fer_train.augment import Augment
from fer_train.checkpoint import load_checkpoint
from fer_train.deploy import Deployable
from fer_train.equalise import equalise
from fer_train.loop import LAST, Epoch, logits_of, train
from fer_train.quantised import RoundedInput, RoundedWeight, quantised, unrounded
from fer_train.recipe import Recipe

GENTLE = Augment(rotate=5, field=(0.9, 1.05), shift=0.05, light=0.1, erase=0)


def test_weights_are_rounded_to_127_steps_of_each_channels_own_range() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3) * torch.logspace(-3, 3, 5).reshape(-1, 1, 1, 1)
    weight[2] = 0
    rounded = RoundedWeight()(weight)
    limits = weight.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
    steps = (rounded / (limits / 127)).nan_to_num()
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert ((rounded - weight).abs() <= limits / 254 * 1.001).all()
    assert rounded.abs().amax((1, 2, 3)).allclose(limits.flatten())


@pytest.mark.parametrize(("low", "levels"), [(0.0, 255), (-1.0, 127)])
def test_inputs_are_rounded_to_their_range_unsigned_where_never_negative(low: float, levels: int) -> None:
    rounding = RoundedInput()
    seen = torch.linspace(low, 2, 1000)
    rounding(seen)
    rounding.eval()
    values = torch.linspace(low, 4, 777).requires_grad_(True)
    rounded = rounding(values)
    step = 2 / levels
    assert rounded.max().item() == pytest.approx(2)  # what lies outside is clipped
    assert torch.allclose((rounded / step).round() * step, rounded, atol=1e-6)
    rounded.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad > 0, values <= 2 + step / 2)


def test_what_is_kept_is_the_folded_net_before_rounding(checkpoint: Path) -> None:
    folded = reparameterize_model(load_checkpoint(checkpoint).build())
    before = {key: value.clone() for key, value in folded.state_dict().items()}
    after = unrounded(quantised(folded).state_dict())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_net_that_learns_with_rounding_loses_less_by_it(checkpoint: Path, tmp_path: Path) -> None:
    faces, held_out = drawn_faces(700, seed=1, split="Training"), drawn_faces(140, seed=2)
    start = load_checkpoint(checkpoint)
    recipe = dataclasses.replace(start.recipe_for_int8(), epochs=2, lr=1e-3, ema=0.9, distil=1, distil_temperature=1)
    tuned = train(recipe, faces, held_out, tmp_path / "run", start=checkpoint, teachers=[checkpoint])
    assert tuned.folded
    assert tuned.metrics["precision"] == "int8, simulated"
    mean, std = start.input["mean"], start.input["std"]
    images, known = (torch.from_numpy(prepare(np.asarray(one.images), 48, 1.0)) for one in (held_out, faces))
    truth = logits_of(start.build(), images, mean, std)
    even, _ = equalise(Deployable(reparameterize_model(start.build()), mean, std).eval(), known.numpy())

    def loss_by_rounding(folded: nn.Module) -> float:
        rounding = quantised(folded).train()
        with torch.no_grad():
            for part in known[:256].split(64):
                rounding((part.float() / 255 - mean) / std)
        p, q = softmax(truth), softmax(logits_of(rounding, images, mean, std))
        return float((p * (np.log(p) - np.log(q))).sum(1).mean())

    assert loss_by_rounding(tuned.build()) < 0.85 * loss_by_rounding(even.net)
    # what was trained folded has no original with branches: it is exported as it is, and nothing is called unfolded
    last = tmp_path / "run" / LAST
    for target in ("onnx", "pytorch"):
        made = export(load_source(last, held_out), target, tmp_path / "build")
        assert made.manifest.source["recipe"]["quantise"]
        assert made.manifest.source["convolutions"] == 7
    with pytest.raises(BadInput, match="was trained folded and has no branches to keep"):
        load_source(last, held_out, folding=False)
    jobs = jobs_of_checkpoint(last, ["pytorch", "onnxruntime"], lambda _: None)
    assert [job.bundle and job.bundle.manifest.name for job in jobs] == [
        "fer_mobileone_xs-pytorch-fp32",
        "fer_mobileone_xs-onnx-fp32",
    ]
    assert answer(last, held_out).images.shape == (140, 1, 48, 48)


def test_a_run_with_rounding_can_be_interrupted_too(checkpoint: Path, tmp_path: Path) -> None:
    faces, held_out = drawn_faces(70, seed=1, split="Training"), drawn_faces(70, seed=2)
    recipe = dataclasses.replace(load_checkpoint(checkpoint).recipe_for_int8(), epochs=2, batch_size=32, augment=GENTLE)

    def stop(_: Epoch) -> None:
        raise KeyboardInterrupt

    whole = train(recipe, faces, held_out, tmp_path / "whole", start=checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, faces, held_out, tmp_path / "broken", start=checkpoint, report=stop)
    resumed = train(recipe, faces, held_out, tmp_path / "broken", resume=True)
    assert resumed.metrics == whole.metrics
    assert all(torch.equal(whole.state_dict[key], resumed.state_dict[key]) for key in whole.state_dict)


def test_rounding_is_for_a_trained_net_of_the_same_kind(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    faces = drawn_faces(70, seed=1)
    with pytest.raises(BadInput, match="give it with --checkpoint"):
        train(Recipe(quantise=True, epochs=1), faces, faces, tmp_path / "a")
    with pytest.raises(BadInput, match="do not fit"):
        train(Recipe(model="fer_repvgg_xs", quantise=True, epochs=1), faces, faces, tmp_path / "b", start=checkpoint)
    refused = command("fer-train", "--quantise", "--out", tmp_path / "c")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "name it with --checkpoint" in refused.stderr
    refused = command("fer-train", "--quantise", "--checkpoint", checkpoint, "--recipe", "fer_nano")
    assert refused.returncode == 2
    assert "leave out --recipe" in refused.stderr
    done = command("fer-train", "--quantise", "--checkpoint", checkpoint, "--epochs", 1, "--out", tmp_path / "d")
    assert done.returncode == 0, done.stderr
    recipe = load_checkpoint(tmp_path / "d" / LAST).recipe
    assert (recipe["model"], recipe["quantise"], recipe["lr"]) == ("fer_mobileone_xs", True, pytest.approx(0.0003))
