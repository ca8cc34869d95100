from __future__ import annotations

import pytest
import torch

from fer_runtimes.errors import BadInput
from fer_train.classics import CLASSICS
from fer_train.nets import FACE_NETS, build_net, list_nets


@pytest.mark.parametrize("name", FACE_NETS)
def test_every_face_net_ends_at_three_pixels_with_seven_logits(name: str) -> None:
    net = build_net(name, 48).eval()
    faces = torch.zeros(2, 1, 48, 48)
    assert net(faces).shape == (2, 7)
    assert net.forward_features(faces).shape[-1] == 3


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobileone_s0", 64),
        ("repvgg_a0", 64),
        ("resnet18", 48),
        ("vit_tiny_patch16_224", 64),
        ("mobilenetv3_small_100", 64),
        ("vgg11", 64),  # knows no drop_path_rate
    ],
)
def test_timm_architectures_take_grey_faces_of_the_asked_size(name: str, size: int) -> None:
    assert build_net(name, size).eval()(torch.zeros(1, 1, size, size)).shape == (1, 7)


@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0", "fer_mobileone_xs"])
def test_stem_stride_one_doubles_what_the_net_sees(name: str) -> None:
    faces = torch.zeros(1, 1, 48, 48)
    usual, fine = (build_net(name, 48, stem_stride=stride).eval() for stride in (None, 1))
    assert fine.stem(faces).shape[-1] == 2 * usual.stem(faces).shape[-1] == 48


def test_an_unknown_name_and_a_stem_without_stride_are_refused() -> None:
    with pytest.raises(BadInput, match="'resnet19' is unknown"):
        build_net("resnet19", 48)
    with pytest.raises(BadInput, match="no convolutional stem"):
        build_net("vit_tiny_patch16_224", 64, stem_stride=1)


def test_a_net_without_paths_refuses_to_drop_them() -> None:
    with pytest.raises(BadInput, match="no paths to drop"):
        build_net("fer_small", 48, drop_path_rate=0.1)


def test_nets_are_listed_by_pattern() -> None:
    names = list_nets("*mobileone*")
    assert {"fer_mobileone_s", "mobileone_s0", "mobileone_s4"} <= set(names)
    assert not list_nets("nothing-like-it")


@pytest.mark.parametrize("name", CLASSICS)
def test_classics_read_one_grey_channel_down_to_their_least_size(name: str) -> None:
    least = CLASSICS[name].least
    net = build_net(name, least, drop_rate=0.5).eval()
    assert net(torch.zeros(2, 1, least, least)).shape == (2, 7)
    assert [part.p for part in net.modules() if isinstance(part, torch.nn.Dropout)].count(0.5) > 0
    with pytest.raises(BadInput, match=f"of {least} pixels or more, not {least - 1}"):
        build_net(name, least - 1)
    with pytest.raises((RuntimeError, ValueError)):
        CLASSICS[name].build(7, 0.0).eval()(torch.zeros(1, 3, least - 1, least - 1))


def test_zfnet_has_the_paper_s_maps() -> None:
    net, seen = build_net("zfnet", 224).eval(), []
    for part in net:
        if isinstance(part, (torch.nn.Conv2d, torch.nn.MaxPool2d)):
            part.register_forward_hook(lambda *found: seen.append(tuple(found[2].shape[1:])))
    net(torch.zeros(1, 1, 224, 224))
    assert [shape[1] for shape in seen] == [110, 55, 26, 13, 13, 13, 13, 6]


def test_classics_are_listed_and_have_no_paths_to_drop() -> None:
    assert set(CLASSICS) <= set(list_nets())
    with pytest.raises(BadInput, match="no paths to drop"):
        build_net("alexnet", 64, drop_path_rate=0.1)
