"""The zoo: each backbone learns, exports, and keeps its answers. One of torchvision's here, every one by ``make zoo-test``."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import onnx
import pytest
import torch

from fer_export.zoo import Backbone, ZooCache, choose, untrained
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.errors import BadInput
from fer_train.augment import Augment
from fer_train.checkpoint import load_checkpoint
from fer_train.loop import LAST, Epoch, train
from fer_train.recipe import Recipe
from fer_train.zoo import ZOO


def named(row: Backbone) -> str:
    return row.model


def take_a_step(row: Backbone, start: Path, out: Path) -> Epoch:
    """One step of training on eight faces, without decay: what moves, moves by its gradient."""
    recipe = Recipe(
        model=row.model,
        size=row.size,
        epochs=1,
        batch_size=8,
        lr=1e-4
        if row.model.startswith("efficientnet")
        else 0.01,  # a longer step makes its logits hundreds, its float32 noise
        warmup=0,
        weight_decay=0,
        augment=Augment(erase=0),
    )
    lines: list[Epoch] = []
    faces = drawn_faces(8, seed=1, split="Training")
    train(recipe, faces, drawn_faces(7, seed=2), out, start=start, report=lines.append)
    return lines[0]


def learn_and_export(row: Backbone, scratch: Path) -> ZooCache:
    start, out = scratch / "start.pt", scratch / "run"
    untrained(row, start)
    line = take_a_step(row, start, out)
    assert math.isfinite(line.loss)
    before, after = load_checkpoint(start).state_dict, load_checkpoint(out / LAST).state_dict
    assert all(bool(value.isfinite().all()) for value in after.values())
    weights = [name for name, value in before.items() if value.ndim > 1]
    moved = {name for name in weights if not torch.equal(before[name], after[name])}
    assert {weights[0], weights[-1]} <= moved, "from the first layer to the last"
    made = ZooCache(row, out / LAST)
    for target in ("onnx", "openvino"):
        manifest = made.bundle(target).manifest
        assert manifest.source["model"] == row.model
        assert manifest.parity is not None
        assert manifest.parity["images"] == 21
    return made


@pytest.mark.zoo
@pytest.mark.parametrize("row", ZOO, ids=named)
def test_every_backbone_takes_a_training_step_and_exports_with_its_answers(
    row: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as scratch:  # gigabytes, that pytest would keep
        monkeypatch.setenv("FER_CACHE", f"{scratch}/cache")
        learn_and_export(row, Path(scratch))


def test_a_backbone_of_torchvision_learns_and_exports_and_is_kept(tmp_path: Path) -> None:
    (row,) = choose(("squeezenet1_1",))
    made = learn_and_export(row, tmp_path)
    assert made.metrics is not None
    assert "accuracy" in made.metrics
    again = ZooCache(row, tmp_path / "run" / LAST)
    assert again.bundle("onnx").digest == made.bundle("onnx").digest
    assert ZooCache(row).folder != made.folder, "random weights are another net"


def test_batch_norm_is_folded_into_the_convolutions_of_every_net(tmp_path: Path) -> None:
    """What the fold stage leaves to the graph: timm's own fold is for branches alone."""
    (row,) = choose(("mobilenetv1_100",))
    bundle = ZooCache(row).bundle("onnx")
    assert bundle.manifest.source["fold_proof"]["blocks"] == 0
    kinds = {node.op_type for node in onnx.load(str(bundle.file(".onnx"))).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


def test_a_checkpoint_of_another_backbone_is_refused(checkpoint: Path) -> None:
    with pytest.raises(BadInput, match="is of fer_mobileone_xs, not resnet18"):
        ZooCache(choose(("resnet18",))[0], checkpoint)


def test_backbones_are_chosen_by_model_or_by_name() -> None:
    assert [row.model for row in choose(("resnet-*", "zfnet"))] == ["zfnet", "resnet18", "resnet50"]
    assert choose() == list(ZOO)
    with pytest.raises(BadInput, match="no backbone of the zoo is called 'lenet'"):
        choose(("resnet18", "lenet"))
