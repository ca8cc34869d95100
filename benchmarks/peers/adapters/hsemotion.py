"""PyPI ``hsemotion-onnx``: the package's own class, on a weights file that is here instead of one that it fetches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.metrics import softmax
from peers.adapters.ort import count_parameters, session_options
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import onnxruntime
    from hsemotion_onnx import facial_emotions

    facial_emotions.get_model_path = lambda name: str(opens)
    recognizer = facial_emotions.HSEmotionRecognizer(model_name=opens.stem)
    # the package opens its session with every core; it is given as many threads as the others
    recognizer.ort_session = onnxruntime.InferenceSession(
        str(opens), session_options(threads), providers=["CPUExecutionProvider"]
    )

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        logits = [recognizer.predict_emotions(image[..., None].repeat(3, -1))[1] for image in images]
        return softmax(np.array(logits))

    return Opened(predict, opens.stat().st_size, count_parameters(opens))
