"""Images a second, several given at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_bench import stats

if TYPE_CHECKING:
    from fer_bench.worker import Round


def summarise(batch: int, rounds: Sequence[Round] | str) -> dict[str, Any]:
    """A row's entry for one batch size; rounds: timed batches, or one line that says why there are none.

    images_per_s: all images over all the time they took; interval: its 95 %, from resampled rounds, None with too few
    """
    if isinstance(rounds, str) or not rounds:
        return dict.fromkeys(_KEYS) | {"batch": batch, "error": rounds or "nothing came back"}
    seconds = np.array([done.nanoseconds.sum() / 1e9 for done in rounds])
    images = np.array([len(done.nanoseconds) * batch for done in rounds])

    def rate(chosen: NDArray[np.int64]) -> float:
        return float(images[chosen].sum() / seconds[chosen].sum())

    every = rate(np.arange(len(rounds)))
    found = (batch, None, int(images.sum()), every, list(stats.bootstrap(rate, len(rounds)) or ()) or None, 1e3 / every)
    return dict(zip(_KEYS, found, strict=True))


_KEYS = ("batch", "error", "images", "images_per_s", "interval", "ms_per_image")
