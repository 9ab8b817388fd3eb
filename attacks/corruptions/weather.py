"""Weather: snow, frost, fog and a brighter day.

Shapes: B images (B, C, H, W) in [0, 1]; layers (B, 1, H, W).
"""

from math import ceil, log2

import torch
from torch import Tensor

from attacks.corruptions.blur import smeared, zoomed
from attacks.corruptions.family import Family, Streams, normal, uniform

ICE = (0.80, 0.90, 1.0)
"""Red, green and blue of the brightest ice."""


def snow(
    x: Tensor,
    streams: Streams,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    length: float,
    clarity: float,
) -> Tensor:
    """Whiten the image to `1 - clarity` and add flakes, noise over a threshold, that fall."""
    flakes = zoomed(mean + deviation * normal(streams, 1, *x.shape[2:]).to(x), zoom)
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    angles = torch.deg2rad(-135 + 90 * uniform(streams)).to(x)
    falling = smeared(flakes, angles, radius, length)
    white = torch.maximum(x, 1.5 * _grey(x) + 0.5)
    whitened = clarity * x + (1 - clarity) * white
    return (whitened + falling + falling.flip(2, 3)).clamp(0, 1)


def frost(x: Tensor, streams: Streams, image: float, ice: float, decay: float) -> Tensor:
    """Weigh the image against crystals of ice: the ridges of a fractal landscape.

    The paper lays photographs over the image; these crystals are drawn anew for each.
    """
    ridges = 1 - (2 * _plasma(streams, x, decay) - 1).abs()
    layer = 0.2 + 0.8 * ridges**4  # thin veins of ice, some haze between them
    tint = torch.tensor(ICE if x.shape[1] == 3 else [1.0]).to(x)
    return (image * x + ice * layer * tint[:, None, None]).clamp(0, 1)


def fog(x: Tensor, streams: Streams, amount: float, decay: float) -> Tensor:
    """Add a fractal cloud and darken until the brightest pixel is as bright as it was."""
    brightest = x.flatten(1).amax(1)[:, None, None, None]
    foggy = x + amount * _plasma(streams, x, decay)
    return (foggy * brightest / (brightest + amount)).clamp(0, 1)


def brightness(x: Tensor, _streams: Streams, amount: float) -> Tensor:
    """Raise the value, the largest of a pixel's channels, and keep hue and saturation."""
    value = x.amax(1, keepdim=True)
    raised = (value + amount).clamp(0, 1)
    scaled = x * (raised / value.clamp(min=torch.finfo(x.dtype).tiny))
    return torch.where(value > 0, scaled, raised).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """Luma of RGB images, the mean of other channels."""
    shares = [0.299, 0.587, 0.114] if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1]
    return (x * torch.tensor(shares).to(x)[:, None, None]).sum(1, keepdim=True)


def _plasma(streams: Streams, x: Tensor, decay: float) -> Tensor:
    """Fractal landscapes in [0, 1] by the diamond-square algorithm, (B, 1, H, W).

    Each pass halves the mesh: a new point is the mean of its four neighbours and a random height,
    whose range shrinks by `decay` squared. The landscape is a torus.
    """
    side = 2 ** ceil(log2(max(*x.shape[2:], 2)))
    noise = 2 * uniform(streams, side, side).to(x) - 1
    land = torch.zeros_like(noise)
    step, height = side, 100.0
    while step >= 2:
        half = step // 2
        corners = land[:, ::step, ::step]
        middles = corners + corners.roll(-1, 1)
        middles = (middles + middles.roll(-1, 2)) / 4
        land[:, half::step, half::step] = middles + height**2 * noise[:, half::step, half::step]
        centres = land[:, half::step, half::step]
        beside = (corners + corners.roll(-1, 2) + centres + centres.roll(1, 1)) / 4
        below = (corners + corners.roll(-1, 1) + centres + centres.roll(1, 2)) / 4
        land[:, ::step, half::step] = beside + height**2 * noise[:, ::step, half::step]
        land[:, half::step, ::step] = below + height**2 * noise[:, half::step, ::step]
        step, height = half, height / decay
    land = land - land.amin((1, 2), keepdim=True)
    land = land / land.amax((1, 2), keepdim=True)
    return land[:, None, : x.shape[2], : x.shape[3]]


WEATHER = {
    "snow": Family(
        snow,
        small=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        large=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Family(
        frost,
        # The first three weights of each are the published ones, for other ice than this.
        small=(
            (1, 0.2, 1.7),
            (1, 0.3, 1.7),
            (0.9, 0.4, 1.7),
            (0.85, 0.45, 1.7),
            (0.75, 0.55, 1.7),
        ),
        large=(
            (1, 0.4, 1.35),
            (0.8, 0.6, 1.35),
            (0.7, 0.7, 1.35),
            (0.65, 0.8, 1.35),
            (0.6, 0.9, 1.35),
        ),
    ),
    "fog": Family(
        fog,
        small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Family(
        brightness,
        small=((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        large=((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    ),
}
