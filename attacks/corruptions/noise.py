"""Noise: of a sensor in low light, of few photons, of broken pixels.

Shapes: B images (B, C, H, W) in [0, 1].
"""

import torch
from torch import Tensor

from attacks.corruptions.family import Family, Streams, normal, uniform


def gaussian_noise(x: Tensor, streams: Streams, deviation: float) -> Tensor:
    """Add normal noise."""
    return (x + deviation * normal(streams, *x.shape[1:]).to(x)).clamp(0, 1)


def shot_noise(x: Tensor, streams: Streams, photons: float) -> Tensor:
    """Count photons: Poisson numbers of which white sends `photons` on average."""
    rates = (photons * x).cpu()
    counts = torch.empty_like(rates)
    for row, rate, stream in zip(counts, rates, streams, strict=True):
        row.copy_(torch.poisson(rate, generator=stream))
    return (counts.to(x) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, streams: Streams, amount: float) -> Tensor:
    """Set an `amount` of all values, each on its own, to black or to white."""
    numbers = uniform(streams, *x.shape[1:]).to(x)
    salted = torch.where(numbers > 1 - amount / 2, torch.ones_like(x), x)
    return torch.where(numbers < amount / 2, torch.zeros_like(x), salted)


NOISE = {
    "gaussian_noise": Family(
        gaussian_noise,
        small=((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        large=((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    ),
    "shot_noise": Family(
        shot_noise,
        small=((500,), (250,), (100,), (75,), (50,)),
        large=((60,), (25,), (12,), (5,), (3,)),
    ),
    "impulse_noise": Family(
        impulse_noise,
        small=((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        large=((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    ),
}
