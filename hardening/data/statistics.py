"""Mean and spread of the pixels, for the normalisation inside a model."""

import torch

from hardening.data.types import Labelled

BATCH = 1024
"""Images in float at a time."""

SMALLEST_STD = 1e-3
"""A model divides by the standard deviation; a constant channel must not make that infinite."""


def channel_statistics(train: Labelled) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each of C channels, images in [0, 1]; std at least 1e-3."""
    total = torch.zeros(train.images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for x, _ in train.batches(BATCH):
        total += x.sum((0, 2, 3), dtype=torch.float64).cpu()
        squares += x.square().sum((0, 2, 3), dtype=torch.float64).cpu()
    pixels = train.images.numel() / train.images.shape[1]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())
