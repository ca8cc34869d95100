"""Model soups (Wortsman et al., arXiv 2203.05482): the mean of several fine-tuned nets' weights, at the price of one net.

It holds for nets that were fine-tuned from the same weights, or for epochs of one run: nets that began apart lie in
different basins, and their mean is worse than each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_runtimes import metrics
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput
from fer_runtimes.files import sha256_of
from fer_runtimes.images import prepare
from fer_train.checkpoint import Checkpoint, checkpoint_path, load_checkpoint

if TYPE_CHECKING:
    import torch


def greedy_soup(
    paths: Sequence[Path], faces: Faces, say: Callable[[str], None] = lambda _: None
) -> tuple[Checkpoint, list[Path]]:
    """The soup and what is in it: the best net on ``faces``, then each next best that does not make the mean worse.

    Its metrics say that ``faces`` chose it. Raises BadInput for fewer than two checkpoints and for nets or inputs that differ.
    """
    from fer_train.loop import calibrated

    if len(paths) < 2:
        raise BadInput("a soup is made of two checkpoints or more")
    made = {path: load_checkpoint(checkpoint_path(path)) for path in paths}
    first = made[paths[0]]
    for path, one in made.items():
        if (one.model, one.input, one.folded) != (first.model, first.input, first.folded):
            raise BadInput(f"{path}: another net or input than {paths[0]}; a soup takes checkpoints of one recipe")
    alone = {path: _judged(one, faces)["accuracy"] for path, one in made.items()}
    for path, accuracy in alone.items():
        say(f"{path}: {accuracy:.2%}")
    order = sorted(alone, key=lambda path: -alone[path])
    chosen, best = [order[0]], alone[order[0]]
    for path in order[1:]:
        accuracy = _judged(_mean([made[one] for one in [*chosen, path]]), faces)["accuracy"]
        say(f"with {path}: {accuracy:.2%}{'' if accuracy >= best else ', left out'}")
        if accuracy >= best:
            chosen, best = [*chosen, path], accuracy
    soup = _mean([made[path] for path in chosen])
    figures = {"split": faces.split, "images": len(faces), **_judged(soup, faces)}
    figures |= {
        "precision": "fp32",
        "chosen_by": f"greedy soup on {faces.split}",
        "soup": [sha256_of(checkpoint_path(path)) for path in chosen],
    }
    probabilities = calibrated(_logits(soup, faces), faces)
    return dataclasses.replace(soup, metrics=soup.metrics | figures, probabilities=probabilities), chosen


def _mean(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The mean of weights and of BatchNorm statistics, in float64; counters are the first's."""
    states = [one.state_dict for one in checkpoints]

    def mean(key: str) -> torch.Tensor:
        values = [state[key] for state in states]
        if not values[0].is_floating_point():
            return values[0]
        total = sum(value.double() for value in values[1:]) + values[0].double()
        return (total / len(values)).to(values[0].dtype)

    return dataclasses.replace(checkpoints[0], state_dict={key: mean(key) for key in states[0]})


def _judged(checkpoint: Checkpoint, faces: Faces) -> dict[str, Any]:
    table = metrics.confusion(faces.labels, _logits(checkpoint, faces).argmax(1))
    return {"accuracy": metrics.accuracy(table), "macro_f1": metrics.macro_f1(table), "confusion": table.tolist()}


def _logits(checkpoint: Checkpoint, faces: Faces) -> np.ndarray[Any, np.dtype[np.float32]]:
    import torch

    from fer_train.loop import logits_of

    given = checkpoint.input
    images = torch.from_numpy(prepare(np.asarray(faces.images), given["size"], given["crop"]))
    return logits_of(checkpoint.build(), images, given["mean"], given["std"])
