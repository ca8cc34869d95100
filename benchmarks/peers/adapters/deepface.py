"""deepface's emotion network in its ONNX form, behind the steps that deepface takes: 224x224, 0..1, then 48x48 grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.adapters.ort import open_onnx
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import cv2

    def face(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        large = cv2.resize(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), (224, 224)).astype(np.float32)
        scaled = large / 255 if large.max() > 1 else large
        grey: NDArray[np.float32] = cv2.resize(cv2.cvtColor(scaled, cv2.COLOR_BGR2GRAY), (48, 48))
        return grey

    return open_onnx(opens, threads, lambda images: np.array([face(image) for image in images])[..., None])
