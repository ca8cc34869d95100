from __future__ import annotations

import re
from pathlib import Path

import pytest

from fer_runtimes.errors import BadInput
from fer_train.recipe import RECIPES, Recipe, read_recipe, recipe_from


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_reads_and_survives_being_stored(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe_from(recipe.to_dict(), "stored") == recipe


def test_views_grow_as_the_recipe_says() -> None:
    recipe = Recipe(epochs=10, sizes=((0, 36), (0.5, 48)))
    assert [recipe.size_at(epoch) for epoch in range(10)] == [36] * 5 + [48] * 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learning_rate = 1", "unknown setting learning_rate"),
        ("epochs = 0", "at least 1"),
        ("epochs = 3.5", "epochs is 3.5; a whole number"),
        ('lr = "0.1"', "lr is '0.1'; a number"),
        ("lr = -1", "lr is -1; a number, at least 0"),
        ("drop_rate = 1.5", "at most 0.99"),
        ("stem_stride = 0", "stem_stride is 0"),
        ("augment = 3", "augment is 3, a table is needed"),
        ("epochs = ", "recipe"),
        ("sizes = [[0.0, 40]]", "end with the input size 48"),
        ("[augment]\nspin = 1", "unknown setting spin"),
        ("[augment]\ncamera = 1.5", "camera is 1.5; a number, at least 0 and at most 1"),
        ('[augment]\nerase = "yes"', "erase is 'yes'; a number"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(complaint)):
        read_recipe(str(path))


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"neither a file nor one of .*fer_mobileone_s"):
        read_recipe("nothing")
