"""PyPI ``rmn``: the network that its wheel builds, its checkpoint read as data, its 224x224 preprocessing.

``import rmn`` itself fetches weights, so only the wheel's ``models`` are imported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.opened import Opened


def open_peer(opens: Path, threads: int) -> Opened:
    import cv2
    import torch  # noqa: TID251  # this peer is a PyTorch net
    from models import resmasking_dropout1

    torch.set_num_threads(threads)
    net = resmasking_dropout1(in_channels=3, num_classes=7)
    net.load_state_dict(torch.load(opens, map_location="cpu", weights_only=True)["net"])
    net.eval()

    def face(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        large: NDArray[np.uint8] = cv2.resize(image[..., None].repeat(3, -1), (224, 224))
        return large.transpose(2, 0, 1)

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        rows = [
            torch.softmax(net(torch.from_numpy(face(image)[None].astype(np.float32) / 255)), 1).numpy()
            for image in images
        ]
        return np.concatenate(rows)

    return Opened(predict, opens.stat().st_size, sum(weight.numel() for weight in net.parameters()))
