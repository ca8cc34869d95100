"""face-api's expression network, converted: the fastest that it can be run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.adapters.ort import corner_bilinear, open_onnx
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    grow = corner_bilinear(112)

    def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (grow @ images.astype(np.float32) @ grow.T)[..., None].repeat(3, -1)

    return open_onnx(opens, threads, prepare)
