"""Other people's architectures through the targets that a small net of ours may not stretch."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_export.pipeline import Source, export, load_source
from fer_export.zoo import Backbone, untrained
from fer_runtimes.drawn import drawn_faces

SIZE = 64
ZOO = ["mobilenetv3_small_100", "vit_tiny_patch16_224"]
NIGHTLY = ["repvgg_a0", "mobileone_s0", "resnet18", "efficientnet_b0", "swin_tiny_patch4_window7_224"]  # make zoo-test
# Untrained, MobileOne and EfficientNet amplify any rounding layer by layer; in float16 only noise would be left to
# compare. Swin is here for its graph, and slow.
FP32_ONLY = {"mobileone_s0", "efficientnet_b0", "swin_tiny_patch4_window7_224"}


@pytest.fixture(scope="module", params=[*ZOO, *(pytest.param(name, marks=pytest.mark.zoo) for name in NIGHTLY)])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    path = tmp_path_factory.mktemp("zoo") / "net.pt"
    untrained(Backbone(request.param, 2026, "", request.param, SIZE, "timm"), path)
    return load_source(path, drawn_faces(60, seed=9))


def test_the_zoo_exports_to_core_ml_and_keeps_its_answers(net: Source, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        if precision == "fp32" or net.checkpoint.model["name"] not in FP32_ONLY:
            bundle = export(net, "coreml", tmp_path, precision)
            assert bundle.manifest.parity is not None
            assert bundle.manifest.parity["images"] > 70
