from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fer_runtimes.errors import BadInput
from fer_train.checkpoint import SHIPPED, checkpoint_path, load_checkpoint, save_checkpoint


def test_a_checkpoint_survives_writing_and_reading(checkpoint: Path, tmp_path: Path) -> None:
    first = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "again.pt", first)
    second = load_checkpoint(tmp_path / "again.pt")
    assert second.model == first.model
    assert all(torch.equal(first.state_dict[key], second.state_dict[key]) for key in first.state_dict)
    assert not second.build().training


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if form == "torch":
        torch.save({"format": 1, "model": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="holds code"):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_cut_short_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(BadInput, match="cut short"):
        load_checkpoint(path)


def test_other_classes_and_other_dicts_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "labels": ["a", "b", "c"]}, tmp_path / "three.pt")
    with pytest.raises(BadInput, match="3 classes"):
        load_checkpoint(tmp_path / "three.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(BadInput, match="lacks format, input, labels, model, state_dict"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save({**content, "model": {"name": "fer_repvgg_xs", "args": {}}}, tmp_path / "mixed.pt")
    with pytest.raises(BadInput, match="do not fit"):
        load_checkpoint(tmp_path / "mixed.pt").build()


def test_a_checkpoint_of_the_package_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint_path(Path("fer_small")) == SHIPPED
    for other in ("fer_small.pt", "./runs/fer_small", "nobody"):
        assert checkpoint_path(Path(other)) == Path(other)
    Path("fer_small").write_text("a file of the user's own")
    assert checkpoint_path(Path("fer_small")) == Path("fer_small")
    with pytest.raises(BadInput, match=r"by name there are .*fer_small"):
        load_checkpoint(Path("nobody"))


@pytest.mark.parametrize("text", ["emotion,pixels,Usage\n0,1,Training", "Usage,Image name\n", "", "{}", "\x80\x02"])
def test_any_other_file_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.pt").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"other\.pt: (refused|not a checkpoint)"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": 7}, "its labels is 7"),
        ({"state_dict": [1]}, "its state_dict is"),
        ({"recipe": "fer_nano"}, "its recipe is 'fer_nano'"),
        ({"input": {"size": 48}}, "lacks crop, mean, std"),
        ({"model": {"name": "fer_mobileone_xs", "args": {"pretrained": 1}}}, "cannot be built"),
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    torch.save({**torch.load(checkpoint, weights_only=True), **change}, tmp_path / "other.pt")
    with pytest.raises(BadInput, match=complaint):
        load_checkpoint(tmp_path / "other.pt").build()


def test_tuning_begins_from_the_checkpoints_own_input_and_views(checkpoint: Path) -> None:
    trained = load_checkpoint(checkpoint)
    zoomed = replace(trained, input={**trained.input, "crop": 0.875})
    recipe = zoomed.recipe_for_tuning()
    assert (recipe.model, recipe.size, recipe.crop, recipe.sizes) == ("fer_mobileone_xs", 48, 0.875, ())
    assert recipe.augment.erase == 0
    assert recipe.lr == pytest.approx(trained.recipe["lr"] / 10)
    with pytest.raises(BadInput, match="fine-tune it with --quantise"):
        replace(trained, folded=True).recipe_for_tuning()
