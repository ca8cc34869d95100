"""Gives a checkpoint that exists its temperature; its weights stay as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fer_runtimes.data import Faces
from fer_runtimes.images import prepare
from fer_runtimes.temperature import calibrate
from fer_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def calibrate_checkpoint(path: Path, faces: Faces, out: Path) -> Checkpoint:
    """Fits the temperature on one half of ``faces``, judges it on the other, and writes the checkpoint to ``out``.

    Raises BadInput for what is not a checkpoint, and for faces that bound no temperature; nothing is written then.
    """
    import torch

    from fer_train.deploy import deployable

    loaded = load_checkpoint(path)
    net = deployable(loaded)
    images = torch.from_numpy(prepare(np.asarray(faces.images), loaded.input["size"], loaded.input["crop"]))
    with torch.inference_mode():
        logits = torch.cat([net(part) for part in images.split(256)]).numpy()
    made = dataclasses.replace(loaded, probabilities=calibrate(logits, faces))
    save_checkpoint(out, made)
    return made
