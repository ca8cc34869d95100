"""Other people's architectures through the targets that a small net of ours may not stretch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fer_export.pipeline import Source, export, load_source
from fer_runtimes.drawn import drawn_faces
from fer_runtimes.images import prepare
from fer_train.checkpoint import Checkpoint, save_checkpoint
from fer_train.nets import build_net

SIZE = 64
ZOO = ["repvgg_a0", "mobilenetv3_small_100", "vit_tiny_patch16_224"]
NIGHTLY = ["mobileone_s0", "resnet18", "efficientnet_b0", "swin_tiny_patch4_window7_224"]  # make zoo-test
# Untrained, MobileOne and EfficientNet amplify any rounding layer by layer; in float16 only noise would be left to
# compare. Swin is here for its graph, and slow.
FP32_ONLY = {"mobileone_s0", "efficientnet_b0", "swin_tiny_patch4_window7_224"}


def untrained(name: str, path: Path) -> Path:
    """A checkpoint with random weights, BatchNorm statistics of drawn faces, and logits as small as a net's before training."""
    torch.manual_seed(0)
    net = build_net(name, SIZE)
    images = prepare(drawn_faces(64, seed=3).images, SIZE)
    images[48:] = np.random.default_rng(0).integers(0, 256, (16, 1, SIZE, SIZE))
    images[56:, :, ::2] = 255  # noise and stripes too, since parity is judged on them
    faces = torch.from_numpy(images).float().sub(127).div(64)
    norms = [part for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.momentum = None  # the batch's own statistics, not a moving mean
    with torch.no_grad():
        if norms:
            net.train()(faces)
        spread = net.eval()(faces).std(0).mean()
        for parameter in net.get_classifier().parameters():
            parameter /= 4 * spread
    faces_in = {"size": SIZE, "channels": 1, "mean": 127 / 255, "std": 64 / 255, "crop": 1.0}
    save_checkpoint(path, Checkpoint({"name": name, "args": {}}, faces_in, net.state_dict(), {}, {}, {}))
    return path


@pytest.fixture(scope="module", params=[*ZOO, *(pytest.param(name, marks=pytest.mark.zoo) for name in NIGHTLY)])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_source(untrained(request.param, tmp_path_factory.mktemp("zoo") / "net.pt"), drawn_faces(60, seed=9))


def test_the_zoo_exports_to_core_ml_and_keeps_its_answers(net: Source, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        if precision == "fp32" or net.checkpoint.model["name"] not in FP32_ONLY:
            bundle = export(net, "coreml", tmp_path, precision)
            assert bundle.manifest.parity is not None
            assert bundle.manifest.parity["images"] > 70
