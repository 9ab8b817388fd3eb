"""Blur: out of focus, through frosted glass, moving, zooming.

Beyond the border, images continue with their border's pixels.

Shapes: B images (B, C, H, W) in [0, 1].
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.corruptions.family import Family, Streams, uniform


def defocus_blur(x: Tensor, _streams: Streams, radius: float, softness: float) -> Tensor:
    """Average over a disk whose edge is smoothed by a Gaussian of deviation `softness`."""
    reach = ceil(radius)
    along = torch.arange(-reach, reach + 1)
    disk = (along.square()[:, None] + along.square() <= radius**2).float()
    edge = _bell(1 if radius <= 8 else 2, softness)
    margin = [len(edge) // 2] * 4
    soft = _filtered(_filtered(F.pad(disk, margin)[None, None], edge[:, None]), edge[None, :])
    return _filtered(x, (soft / soft.sum())[0, 0].to(x)).clamp(0, 1)


def glass_blur(
    x: Tensor, streams: Streams, deviation: float, reach: float, rounds: float
) -> Tensor:
    """Scatter pixels within their neighbourhood, between two Gaussian blurs."""
    scattered = gaussian_blur(x, deviation, truncate=4)
    for _ in range(round(rounds)):
        scattered = _scattered(scattered, streams, reach)
    return gaussian_blur(scattered, deviation, truncate=4).clamp(0, 1)


def motion_blur(x: Tensor, streams: Streams, radius: float, deviation: float) -> Tensor:
    """Smear along a line at most 45 degrees off the horizontal."""
    angles = torch.deg2rad(90 * uniform(streams) - 45).to(x)
    return smeared(x, angles, radius, deviation).clamp(0, 1)


def zoom_blur(x: Tensor, _streams: Streams, most: float, step: float) -> Tensor:
    """Average the image and its enlargements by 1, 1 + step, ... up to `most`."""
    zooms = torch.arange(1, most + step / 2, step).tolist()
    total = x
    for zoom in zooms:
        total = total + zoomed(x, zoom)
    return (total / (len(zooms) + 1)).clamp(0, 1)


def gaussian_blur(x: Tensor, deviation: float, truncate: float) -> Tensor:
    """Average with weights of a normal distribution, cut at `truncate` deviations."""
    reach = int(truncate * deviation + 0.5)
    if reach == 0:
        return x
    bell = _bell(reach, deviation).to(x)
    return _filtered(_filtered(x, bell[:, None]), bell[None, :])


def zoomed(x: Tensor, zoom: float) -> Tensor:
    """Enlarge the middle of each image by a factor of at least 1, bilinearly."""
    centre = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]], device=x.device, dtype=x.dtype)
    grid = F.affine_grid(centre.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def smeared(x: Tensor, angles: Tensor, radius: float, deviation: float) -> Tensor:
    """Average along a line from each pixel in the image's direction (B,), in radians.

    The weights are one half of a normal distribution, over 2 * radius + 1 pixels.
    """
    steps = torch.arange(2 * ceil(radius) + 1)
    weights = torch.exp(-steps.square() / (2 * deviation**2))
    smear = torch.zeros_like(x)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        down, across = (step * angles.sin()).round().long(), (step * angles.cos()).round().long()
        smear = smear + weight * _moved(x, down, across)
    return smear


def _moved(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """What lies `down` rows below and `across` columns right of each pixel; both (B,)."""
    images, channels, height, width = x.shape
    rows = (torch.arange(height, device=x.device) + down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + across[:, None]).clamp(0, width - 1)
    return x[
        torch.arange(images, device=x.device)[:, None, None, None],
        torch.arange(channels, device=x.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _scattered(x: Tensor, streams: Streams, reach: float) -> Tensor:
    """Each pixel replaced by one at most `reach` rows and columns off, drawn for each."""
    images, channels, height, width = x.shape
    offsets = (reach * (2 * uniform(streams, 2, height, width) - 1)).floor().long().to(x.device)
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    rows = (rows[:, None] + offsets[:, 0]).clamp(0, height - 1)
    columns = (columns + offsets[:, 1]).clamp(0, width - 1)
    where = (rows * width + columns).view(images, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, where).view_as(x)


def _bell(reach: int, deviation: float) -> Tensor:
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * deviation**2))
    return weights / weights.sum()


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel averaged with the weights (h, w), both odd."""
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    layers = F.pad(x.flatten(0, 1)[:, None], (across, across, down, down), mode="replicate")
    return F.conv2d(layers, kernel[None, None]).view_as(x)


BLUR = {
    "defocus_blur": Family(
        defocus_blur,
        small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Family(
        glass_blur,
        # Ours: with the published constants severity 3 changes images less than 1, and 5 than 4.
        small=((0.4, 1, 1), (0.25, 1, 1), (0.4, 1, 2), (0.25, 1, 2), (0.25, 1, 3)),
        large=((0.7, 1.5, 1), (0.7, 2, 1), (0.8, 2, 2), (0.9, 2.5, 2), (1, 3, 3)),
    ),
    "motion_blur": Family(
        motion_blur,
        # The published fourth, (8, 2), smears as far as the third.
        small=((6, 1), (6, 1.5), (6, 2), (8, 2.25), (9, 2.5)),
        large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Family(
        zoom_blur,
        small=((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
        large=((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.25, 0.02), (1.30, 0.03)),
    ),
}
