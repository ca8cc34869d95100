"""A recipe: everything that decides what a training run gives, as one flat table in a TOML file."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_runtimes.errors import BadInput
from fer_train.augment import Augment

RECIPES = Path(__file__).parent / "recipes"
_NUMBER = (int, float)
_RANGES: dict[str, tuple[Any, float, float]] = {  # of a setting: its type, the least and the largest value
    "size": (int, 8, math.inf),
    "stem_stride": (int, 1, 8),
    "crop": (_NUMBER, 0.05, 1),
    "epochs": (int, 1, math.inf),
    "batch_size": (int, 2, math.inf),
    "lr": (_NUMBER, 0, math.inf),
    "warmup": (_NUMBER, 0, math.inf),
    "weight_decay": (_NUMBER, 0, math.inf),
    "drop_rate": (_NUMBER, 0, 0.99),
    "drop_path_rate": (_NUMBER, 0, 0.99),
    "smoothing": (_NUMBER, 0, 1),
    "votes": (_NUMBER, 0, 1),
    "mixup": (_NUMBER, 0, math.inf),
    "distil": (_NUMBER, 0, 1),
    "distil_temperature": (_NUMBER, 1e-3, math.inf),
    "ema": (_NUMBER, 0, 1),
    "seed": (int, 0, 2**31),
}
_VIEWS: dict[str, tuple[Any, float, float]] = {  # likewise, of [augment]
    "rotate": (_NUMBER, 0, 180),
    "shift": (_NUMBER, 0, 1),
    "flip": (_NUMBER, 0, 1),
    "light": (_NUMBER, 0, math.inf),
    "erase": (_NUMBER, 0, 1),
    "camera": (_NUMBER, 0, 1),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of one run; ``docs/training.md`` says why the defaults are what they are.

    sizes: (from this share of the epochs on, views of this many pixels): smaller views early
        cost less and regularise; the last must be the net's input size
    lr: peak learning rate of SGD (Nesterov), reached after ``warmup`` epochs, then a cosine to 0
    crop: share of a face's side that the trained net is shown: views zoom in by their mean ``field``
    votes: weight of FER+ votes in the target, where votes are given; the rest is the hard label
    smoothing: of the hard label
    mixup: parameter of the Beta distribution of which each view's share in its mean with another is drawn; 0 mixes none
    distil: weight of the teachers' opinion in the loss, where teachers are given; the rest is the target above
    distil_temperature: at which opinions are compared; 1 takes the teachers' probabilities as they are
    ema: decay of the weights' moving average, per step; the average is what is saved
    quantise: whether the folded net learns with int8 rounding (``fer_train.quantised``); it begins with trained weights
    """

    model: str = "fer_small"
    size: int = 48
    stem_stride: int | None = None
    crop: float = 1.0
    sizes: tuple[tuple[float, int], ...] = ()
    epochs: int = 40
    batch_size: int = 128
    lr: float = 0.1
    warmup: float = 2.0
    weight_decay: float = 5e-4
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    smoothing: float = 0.1
    votes: float = 0.3
    mixup: float = 0.0
    distil: float = 0.9
    distil_temperature: float = 2.0
    ema: float = 0.998
    quantise: bool = False
    seed: int = 0
    augment: Augment = dataclasses.field(default_factory=Augment)

    def __post_init__(self) -> None:
        _check_ranges(self, _RANGES)
        _check_ranges(self.augment, _VIEWS)
        if self.sizes and (self.sizes[0][0] != 0 or self.sizes[-1][1] != self.size):
            raise BadInput(f"recipe: sizes {self.sizes} must start at 0 and end with the input size {self.size}")

    def size_at(self, epoch: int) -> int:
        """Side in pixels of the training views in this epoch (counted from 0)."""
        return next((size for start, size in reversed(self.sizes) if epoch >= start * self.epochs), self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only: what a checkpoint and a TOML file hold."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        values["sizes"] = [list(pair) for pair in self.sizes]
        values["augment"]["field"] = list(self.augment.field)
        return values


def _check_ranges(settings: Any, ranges: dict[str, tuple[Any, float, float]]) -> None:
    for name, (kinds, least, most) in ranges.items():
        value = getattr(settings, name)
        if name == "stem_stride" and value is None:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
            what = "a whole number" if kinds is int else "a number"
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise BadInput(f"recipe: {name} is {value!r}; {what}, {bounds}, is needed")


def recipe_from(values: dict[str, Any], where: str) -> Recipe:
    """Builds a Recipe from plain values. Raises BadInput naming ``where`` and the key that is wrong."""
    values = dict(values)
    _refuse_unknown(values, Recipe, where)
    if not isinstance(values.get("augment", {}), dict):
        raise BadInput(f"{where}: augment is {values['augment']!r}, a table is needed")
    if "augment" in values:
        inner = dict(values["augment"])
        _refuse_unknown(inner, Augment, f"{where} [augment]")
        if "field" in inner:
            inner["field"] = tuple(inner["field"])
        values["augment"] = Augment(**inner)
    values["sizes"] = tuple((float(start), int(size)) for start, size in values.get("sizes", ()))
    return Recipe(**values)


def read_recipe(name: str) -> Recipe:
    """Reads a recipe by name (``train/fer_train/recipes``) or from a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    known = {path.stem: path for path in RECIPES.glob("*.toml")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise BadInput(f"recipe {name!r} is neither a file nor one of {', '.join(sorted(known))}")
    try:
        return recipe_from(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise BadInput(f"recipe {path}: {error}") from error


def _refuse_unknown(values: dict[str, Any], kind: type, where: str) -> None:
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        raise BadInput(f"{where}: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
