"""The shipped checkpoint, through fer_runtimes as a user calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_runtimes.bundle import read_bundle
from fer_runtimes.images import prepare
from fer_runtimes.metrics import softmax
from fer_runtimes.session import Options, open_session, runtimes_for
from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    """``opens``: a bundle, run on the first runtime that its target has."""
    bundle = read_bundle(opens)
    manifest = bundle.manifest
    session = open_session(bundle, runtimes_for(manifest.target)[0], Options("cpu", threads))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        return softmax(session.infer(prepare(images, manifest.size, manifest.crop)))

    return Opened(predict, bundle.model_bytes, manifest.source["parameters"])
