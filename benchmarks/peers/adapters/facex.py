"""PyPI ``facex``: its classifier resizes a grey face to 200x200x3 with scikit-image and runs TensorFlow Lite."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.adapters.tflite import count_parameters
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import facex
    import tensorflow as tf
    from facex.core import EmotionClassifier

    tf.lite.Interpreter = partial(tf.lite.Interpreter, num_threads=threads)  # the package leaves it at one
    file = Path(facex.__file__).parent / "assets" / "model_optimized.tflite"
    classifier = EmotionClassifier(str(file))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        return np.array([list(classifier.detect_emotion(image).values()) for image in images], dtype=np.float32)

    return Opened(predict, file.stat().st_size, count_parameters(file))
