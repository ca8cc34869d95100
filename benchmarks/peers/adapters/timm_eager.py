"""The classic answers at 224x224 in eager PyTorch, with random weights: their latency and memory, not their accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from peers.opened import Opened

MEAN, STD = (np.array(values, np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def open_peer(opens: Path, threads: int) -> Opened:
    """``opens``: name of a timm net."""
    import timm  # noqa: TID251  # this peer is a PyTorch net
    import torch  # noqa: TID251

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = timm.create_model(str(opens), num_classes=7).eval()

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        large = [
            np.asarray(Image.fromarray(image).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
            for image in images
        ]
        faces = (np.array(large, np.float32).transpose(0, 3, 1, 2) / 255 - MEAN) / STD
        answers: NDArray[np.float32] = torch.softmax(net(torch.from_numpy(faces)), 1).numpy()
        return answers

    parameters = sum(weight.numel() for weight in net.parameters())
    return Opened(predict, parameters * 4, parameters)
