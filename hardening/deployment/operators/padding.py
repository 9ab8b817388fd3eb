"""Where ONNX pads an image before a convolution or a pooling, and who can do it.

Pads are ONNX's: all the beginnings, then all the ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """One number for each spatial axis."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]


def window(sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Window:
    """The window of a kernel; a single stride or dilation counts for all axes."""
    axes = len(sizes)
    full = [
        tuple(part) if len(part) == axes else tuple(part) * axes for part in (strides, dilations)
    ]
    return Window(tuple(sizes), *full)


def explicit(pads: Sequence[int], auto_pad: str, shape: Sequence[int], kernel: Window) -> list[int]:
    """Pads of an image of spatial `shape`; SAME_UPPER and SAME_LOWER depend on it."""
    if auto_pad == "NOTSET" and pads:
        return list(pads)
    if auto_pad in {"NOTSET", "VALID"}:
        return [0] * (2 * len(shape))
    begins, ends = [], []
    for size, extent, stride, dilation in zip(shape, *kernel, strict=True):
        reach = (-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1
        total = max(reach - size, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if auto_pad == "SAME_UPPER" else more)
        ends.append(more if auto_pad == "SAME_UPPER" else less)
    return [*begins, *ends]


def inside(pads: Sequence[int], most: Sequence[int]) -> tuple[int, ...] | None:
    """The padding that torch's kernels do themselves: symmetric, at most `most`; else None."""
    axes = len(pads) // 2
    begins, ends = tuple(pads[:axes]), tuple(pads[axes:])
    fits = all(size <= limit for size, limit in zip(begins, most, strict=True))
    return begins if begins == ends and fits else None


def pad_before(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` (B, C, ...) with its spatial axes padded; torch counts axes from the last one."""
    axes = len(pads) // 2
    pairs = zip(reversed(pads[:axes]), reversed(pads[axes:]), strict=True)
    return F.pad(x, [size for pair in pairs for size in pair], value=value)
