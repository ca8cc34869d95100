"""What an adapter gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


@dataclass(frozen=True)
class Opened:
    """A peer ready to answer.

    predict: uint8 ``[N, 48, 48]`` grey to probabilities ``[N, K]`` in the peer's own class order
    model_bytes: of the network's file; parameters: numbers in it, None where they cannot be counted
    """

    predict: Predict
    model_bytes: int
    parameters: int | None
