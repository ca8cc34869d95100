"""emotion-ferplus of the ONNX model zoo: 64x64 grey, pixels as they are, eight scores before the softmax."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_runtimes.metrics import softmax
from peers.adapters.ort import open_onnx
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(
            [[np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS))] for image in images],
            dtype=np.float32,
        )

    opened = open_onnx(opens, threads, prepare)
    return replace(opened, predict=lambda images: softmax(opened.predict(images)))
