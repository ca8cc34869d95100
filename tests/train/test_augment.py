from __future__ import annotations

import numpy as np
import torch

from fer_runtimes.data import Faces
from fer_train.augment import Augment, as_a_poor_camera_sees, augment, mixed

STILL = Augment(rotate=0, field=(1, 1), shift=0, flip=0, light=0, erase=0)


def views(faces: Faces, how: Augment, size: int = 48, seed: int = 0) -> np.ndarray:
    return augment(torch.from_numpy(faces.images), size, how, torch.Generator().manual_seed(seed)).numpy()


def test_no_augmentation_leaves_the_image_as_it_is(faces: Faces) -> None:
    np.testing.assert_allclose(views(faces, STILL)[:, 0] * 255, faces.images, atol=1e-3)


def test_flip_mirrors_left_and_right(faces: Faces) -> None:
    flipped = views(faces, Augment(rotate=0, field=(1, 1), shift=0, flip=1, light=0, erase=0))
    np.testing.assert_allclose(flipped[:, 0] * 255, faces.images[:, :, ::-1], atol=1e-3)


def test_the_generator_decides_everything(faces: Faces) -> None:
    np.testing.assert_array_equal(views(faces, Augment()), views(faces, Augment()))
    assert (views(faces, Augment()) != views(faces, Augment(), seed=1)).any()


def test_views_stay_in_range_at_the_asked_size(faces: Faces) -> None:
    made = views(faces, Augment(light=0.9, erase=1), 40)
    assert made.shape == (len(faces), 1, 40, 40)
    assert made.min() >= 0
    assert made.max() <= 1


def test_erasing_replaces_a_part_and_only_a_part(faces: Faces) -> None:
    changed = (
        np.abs(views(faces, Augment(rotate=0, field=(1, 1), shift=0, flip=0, light=0, erase=1)) - views(faces, STILL))
        > 1e-6
    )
    share = changed.mean((1, 2, 3))
    assert share.max() < 0.35
    assert share.mean() > 0.02


def test_mixing_averages_a_view_and_its_target_with_anothers_by_the_same_share(faces: Faces) -> None:
    seen = torch.from_numpy(views(faces, STILL))
    targets = torch.eye(len(seen))
    torch.manual_seed(0)
    made, wanted = mixed(seen, targets, 1.0)
    share = wanted.diagonal()
    assert (share >= 0.5).all()
    assert (share < 0.9).any()
    torch.testing.assert_close(wanted.sum(1), torch.ones(len(seen)))
    assert (wanted > 0).sum(1).max() <= 2
    torch.testing.assert_close(made, torch.einsum("ij,jchw->ichw", wanted, seen))
    torch.manual_seed(0)
    torch.testing.assert_close(mixed(seen, targets, 1.0)[0], made, rtol=0, atol=0)


def test_a_poor_camera_takes_light_and_detail_and_adds_noise(faces: Faces) -> None:
    seen = torch.from_numpy(views(faces, STILL))
    made = as_a_poor_camera_sees(seen, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made * 255, (made * 255).round(), rtol=0, atol=1e-3)  # bytes
    assert 0 <= made.min() <= made.max() <= 1
    light = made.mean((1, 2, 3)) / seen.mean((1, 2, 3))
    assert 0.5 < ((light > 0.95) & (light < 1.05)).float().mean() < 0.85
    assert 0.08 < light.min() < 0.4
    edges = (made.diff(dim=3).abs().mean((1, 2, 3)) / seen.diff(dim=3).abs().mean((1, 2, 3)))[light > 0.95]
    assert edges.min() < 0.8  # blurred
    assert edges.max() > 1.2  # noisy


def test_a_poor_camera_sees_so_many_of_the_views_and_leaves_the_others(faces: Faces) -> None:
    seen = torch.from_numpy(views(faces, STILL))
    made = as_a_poor_camera_sees(seen, 0.3, torch.Generator().manual_seed(0))
    assert 0.15 < (made != seen).flatten(1).any(1).float().mean() < 0.45


def test_a_poor_camera_that_sees_none_of_a_batch_leaves_it_as_it_is(faces: Faces) -> None:
    seen = torch.from_numpy(views(faces, STILL))[:1]
    assert torch.equal(as_a_poor_camera_sees(seen, 1e-9, torch.Generator().manual_seed(0)), seen)
