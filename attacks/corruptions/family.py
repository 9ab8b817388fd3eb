"""What a family of corruptions is: a formula, its constants by severity, its random numbers.

Shapes: B images (B, C, H, W); a stream of random numbers per image.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)

SMALL, LARGE = 32, 224
"""Sides in pixels of the images that the paper's two sets of constants are for: CIFAR-10-C's and
ImageNet-C's."""

Streams = list[torch.Generator]
Constants = tuple[float, ...]


class Family(NamedTuple):
    """`change(x, streams, *constants)` gives (B, C, H, W); constants per severity at two sizes."""

    change: Callable[..., Tensor]
    small: tuple[Constants, ...]
    large: tuple[Constants, ...]


def constants(family: Family, severity: int, x: Tensor) -> Constants:
    """The constants for images of this size: linear in the logarithm of the shorter side.

    Images of up to 32 pixels get CIFAR-10-C's, those of 224 and more ImageNet-C's.
    """
    share = log(max(min(x.shape[2:]), 1) / SMALL) / log(LARGE / SMALL)
    share = min(max(share, 0.0), 1.0)
    small, large = family.small[severity - 1], family.large[severity - 1]
    return tuple(low + share * (high - low) for low, high in zip(small, large, strict=True))


def uniform(streams: Streams, *shape: int) -> Tensor:
    """The next numbers of each stream in [0, 1), (B, *shape), on the processor."""
    numbers = torch.empty(len(streams), *shape)
    for row, stream in zip(numbers, streams, strict=True):
        torch.rand(shape, generator=stream, out=row)
    return numbers


def normal(streams: Streams, *shape: int) -> Tensor:
    """The next standard normal numbers of each stream, (B, *shape), on the processor."""
    numbers = torch.empty(len(streams), *shape)
    for row, stream in zip(numbers, streams, strict=True):
        torch.randn(shape, generator=stream, out=row)
    return numbers
