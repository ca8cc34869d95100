"""Random views of grey faces, made for a whole batch at once on the device that trains.

One affine resampling per image (rotation, zoom, shift, flip), then light (gain, offset, gamma),
then one erased rectangle, as in the recipes that hold FER2013's records (docs/training.md
names them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_REACH = 6  # pixels, of a blur to each side


@dataclass(frozen=True)
class Augment:
    """How far a view may depart from its image. All zero (field 1, 1) leaves the image as it is.

    rotate: degrees, either way
    field: smallest and largest share of the image's side that the view spans
    shift: of the side, either way
    flip: probability of mirroring
    light: of gain, gamma (multiplied or divided by up to 1 + light) and offset (of full range, half as much)
    erase: probability that a rectangle of 2..20 % of the view is replaced by noise
    camera: probability that the net sees the view as a poor camera gives it (``as_a_poor_camera_sees``); its teachers see it as it was
    """

    rotate: float = 15.0
    field: tuple[float, float] = (0.75, 1.1)
    shift: float = 0.1
    flip: float = 0.5
    light: float = 0.3
    erase: float = 0.3
    camera: float = 0.0


def augment(images: torch.Tensor, size: int, how: Augment, generator: torch.Generator) -> torch.Tensor:
    """Views of ``images``: uint8 ``[N, 48, 48]`` to float32 ``[N, 1, size, size]`` in 0..1.

    All randomness comes from ``generator``, which lives on the images' device.
    """
    import torch
    from torch.nn import functional

    count, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, device=device, generator=generator) * (high - low) + low

    angle = uniform(-how.rotate, how.rotate) * (math.pi / 180)
    field = uniform(*how.field)
    mirror = torch.where(uniform(0, 1) < how.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * field, torch.sin(angle) * field
    shift = uniform(-2 * how.shift, 2 * how.shift, 2)
    matrix = torch.stack(
        [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(matrix, [count, 1, size, size], align_corners=False)
    views = functional.grid_sample(images[:, None].float() / 255, grid, padding_mode="zeros", align_corners=False)

    if how.light:
        span = math.log(1 + how.light)
        gain, gamma = (torch.exp(uniform(-span, span, 1, 1, 1)) for _ in range(2))
        offset = uniform(-how.light / 2, how.light / 2, 1, 1, 1)
        views = ((views.clamp_min(1e-4) ** gamma - 0.5) * gain + 0.5 + offset).clamp(0, 1)
    if how.erase:
        views = torch.where(
            _rectangles(count, size, how.erase, device, generator),
            torch.rand(views.shape, device=device, generator=generator),
            views,
        )
    return views


def mixed(views: torch.Tensor, targets: torch.Tensor, parameter: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Each view and its target, averaged with another's: mixup (Zhang et al., arXiv 1710.09412).

    The share of the view itself is drawn from Beta(parameter, parameter), and is at least a half. Randomness is torch's own.
    Under distillation the teachers are shown the mixed view too, so that they say what they did not learn by heart.
    """
    import torch

    count = len(views)
    share = torch.distributions.Beta(parameter, parameter).sample((count,)).to(views)
    share = torch.maximum(share, 1 - share)[:, None]
    other = torch.randperm(count, device=views.device)
    return (
        share[..., None, None] * views + (1 - share[..., None, None]) * views[other],
        share * targets + (1 - share) * targets[other],
    )


def as_a_poor_camera_sees(views: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """A ``probability`` of the views, float32 ``[N, 1, S, S]`` in 0..1, blurred, darker and noisy, in 256 levels of grey.

    The blur is a Gaussian, of a lens across and of a movement along a direction drawn at random; two of three views keep
    their light, others as little as a tenth of it; noise is the sensor's own and that of the light, whose variance grows
    with it. Teachers who see the view before this say what there was to be seen.
    """
    import torch
    from torch.nn import functional

    device, size = views.device, views.shape[-1]
    chosen = torch.rand(len(views), device=device, generator=generator) < probability
    if not chosen.any():
        return views
    clear = views[chosen]
    angle, lens, movement, dim, light, read, shot = torch.rand(
        7, len(clear), 1, 1, 1, device=device, generator=generator
    )
    at = torch.arange(-_REACH, _REACH + 1, device=device, dtype=views.dtype)
    down, right = at[:, None], at[None, :]
    cos, sin = torch.cos(angle * math.pi), torch.sin(angle * math.pi)
    across = 0.2 + lens**3 * size / 30
    along = across + movement**3 * size / 14
    weights = torch.exp(-0.5 * (((cos * right + sin * down) / along) ** 2 + ((cos * down - sin * right) / across) ** 2))
    weights = weights / weights.sum((2, 3), keepdim=True)
    padded = functional.pad(clear, (_REACH,) * 4, mode="replicate").transpose(0, 1)
    blurred = functional.conv2d(padded, weights, groups=len(clear)).transpose(0, 1)
    dark = blurred * torch.where(dim < 1 / 3, 10**-light, 1.0)
    sigma = ((0.08 * read**4) ** 2 + (0.15 * shot**4) ** 2 * dark).sqrt()
    noisy = dark + sigma * torch.randn(clear.shape, device=device, generator=generator)
    made = views.clone()
    made[chosen] = (noisy * 255).round().clamp(0, 255) / 255
    return made


def _rectangles(
    count: int, size: int, probability: float, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """bool ``[N, 1, size, size]``: one random rectangle in a ``probability`` of the images (Zhong et al., arXiv 1708.04896)."""
    import torch

    draw = torch.rand(count, 3, device=device, generator=generator)
    area = 0.02 + 0.18 * draw[:, 0]
    ratio = torch.exp((draw[:, 1] * 2 - 1) * math.log(3.0))
    height, width = (torch.sqrt(area * ratio) / 2)[:, None], (torch.sqrt(area / ratio) / 2)[:, None]
    centre = torch.rand(count, 2, device=device, generator=generator)
    at = (torch.arange(size, device=device) + 0.5) / size
    rows = (at[None] - centre[:, :1]).abs() < height
    columns = (at[None] - centre[:, 1:]).abs() < width
    chosen = draw[:, 2] < probability
    return (rows[:, :, None] & columns[:, None, :] & chosen[:, None, None])[:, None]
