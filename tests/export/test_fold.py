from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models import byobnet
from torch import nn

from fer_export.fold import FoldProof, fold, measure
from fer_runtimes.data import Faces
from fer_runtimes.errors import BadInput, CheckFailed
from fer_runtimes.images import prepare
from fer_train.checkpoint import load_checkpoint
from fer_train.deploy import Deployable, deployable
from fer_train.nets import build_net


def settled(name: str, size: int) -> Deployable:
    """A random net whose BatchNorm statistics, scales and shifts are far from their start, as after training."""
    torch.manual_seed(0)
    net = Deployable(build_net(name, size), 0.5, 0.25)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.randint(0, 256, (16, 1, size, size), dtype=torch.uint8))
    return net.eval()


@pytest.mark.parametrize(
    ("name", "size", "blocks"),
    [
        ("fer_mobileone_xs", 48, 7),
        ("fer_repvgg_xs", 48, 7),
        ("fer_small", 48, 7),
        ("mobileone_s0", 64, 43),
        ("repvgg_a0", 64, 22),
        ("resnet18", 48, 0),
    ],
)
def test_a_net_folds_to_the_same_function(name: str, size: int, blocks: int, faces: Faces) -> None:
    net = settled(name, size)
    before = copy.deepcopy(net.state_dict())
    folded, proof = fold(net, prepare(faces.images[:2], size))
    assert proof.blocks == blocks
    assert proof.net_error < 1e-11
    assert proof.worst_block_error < 1e-11
    assert proof.top1_changes == 0
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    if blocks:
        assert proof.after.convolutions < proof.before.convolutions
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_the_size_of_a_known_net() -> None:
    # FIELD of torchvision: ResNet-18 has 11.69 M parameters with 3 channels and 1000 classes.
    size = measure(Deployable(build_net("resnet18", 224), 0.5, 0.25).eval(), np.zeros((1, 1, 224, 224), np.uint8))
    assert size.parameters == 11_689_512 - 2 * 64 * 49 - 513 * 993
    assert size.macs == 1_814_073_344 - 2 * 64 * 49 * 112 * 112 - 512 * 993
    assert size.convolutions == 20


def test_a_net_in_train_mode_is_refused(checkpoint: Path, faces: Faces) -> None:
    net = deployable(load_checkpoint(checkpoint))
    net.net.stages[0].train()
    with pytest.raises(BadInput, match=r"train mode \(net\.stages\.0\)"):
        fold(net, faces.images[:4, None])


def dropped_branch(self: byobnet.MobileOneBlock) -> tuple[torch.Tensor, torch.Tensor]:
    self.conv_scale = None
    return ORIGINAL(self)


def float32_fold(self: byobnet.MobileOneBlock) -> tuple[torch.Tensor, torch.Tensor]:
    kernel, bias = ORIGINAL(self)
    return kernel.float().double(), bias.float().double()


ORIGINAL = byobnet.MobileOneBlock._get_kernel_bias


@pytest.mark.parametrize("fault", [dropped_branch, float32_fold])
def test_a_wrong_fold_is_caught_and_its_block_named(
    checkpoint: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    monkeypatch.setattr(byobnet.MobileOneBlock, "_get_kernel_bias", fault)
    with pytest.raises(CheckFailed, match=r"block net\.stem folds to another function"):
        fold(deployable(load_checkpoint(checkpoint)), faces.images[:4, None])


def test_a_branch_left_behind_is_caught(checkpoint: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byobnet.MobileOneBlock, "reparameterize", lambda self: None)
    with pytest.raises(CheckFailed, match="still has branches"):
        fold(deployable(load_checkpoint(checkpoint)), faces.images[:4, None])


def test_the_proof_is_plain_data(checkpoint: Path, faces: Faces) -> None:
    _, proof = fold(deployable(load_checkpoint(checkpoint)), faces.images[:4, None])
    assert isinstance(proof, FoldProof)
    assert proof.to_dict()["after"]["convolutions"] == 7
