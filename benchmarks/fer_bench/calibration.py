"""How far a row's probabilities are from what is right, without and with its bundle's temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_runtimes import metrics
from fer_runtimes.bundle import Manifest
from fer_runtimes.data import Faces
from fer_runtimes.temperature import held_out_part, judge


def calibration(logits: NDArray[np.floating], faces: Faces, manifest: Manifest) -> dict[str, Any] | None:
    """A row's ``calibration`` (docs/results.md), from logits ``[N, 7]`` of the faces.

    It is of the faces that may judge the temperature: not those that it was fitted on, nor copies of training faces.
    None where no face is left, or where an answer is not finite.
    """
    chosen, words = held_out_part(faces, manifest.probabilities)
    if not chosen.any() or not np.isfinite(logits[chosen]).all():
        return None
    own, labels = logits[chosen], faces.labels[chosen]
    temperatures = {"raw": 1.0, "scaled": manifest.temperature}
    return {
        "temperature": manifest.temperature,
        "fitted_on": manifest.probabilities and manifest.probabilities["fitted_on"],
        "images": int(chosen.sum()),
        "measured_on": words,
        **judge(own, labels, manifest.temperature),
        "bins": {
            name: metrics.reliability(metrics.softmax(own, temperature), labels).tolist()
            for name, temperature in temperatures.items()
        },
    }
