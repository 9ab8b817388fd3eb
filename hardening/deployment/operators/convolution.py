"""Convolution, pooling and resizing of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
Pads are ONNX's: all the beginnings, then all the ends.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardening.errors import ModelError

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Padding(NamedTuple):
    """What torch's kernels can pad themselves, and what must be padded before (or nothing)."""

    inside: tuple[int, ...]
    before: list[int]


def padding(pads: Sequence[int], auto_pad: str, axes: int) -> Padding:
    """Split ONNX `pads` over `axes` spatial axes into a symmetric and an explicit part."""
    if auto_pad not in {"NOTSET", "VALID"}:
        raise ModelError(f"got auto_pad {auto_pad}, expected explicit pads")
    begins, ends = list(pads[:axes]), list(pads[axes:])
    if auto_pad == "VALID" or not pads:
        return Padding((0,) * axes, [])
    if begins == ends:
        return Padding(tuple(begins), [])
    pairs = zip(reversed(begins), reversed(ends), strict=True)
    return Padding((0,) * axes, [size for pair in pairs for size in pair])


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (1,),
    group: int = 1,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """Conv over 1 to 3 spatial axes."""
    axes = x.dim() - 2
    inside, before = padding(pads, auto_pad, axes)
    x = F.pad(x, before) if before else x
    convolve = CONVOLUTIONS[axes]
    return convolve(x, weight, bias, tuple(strides), inside, tuple(dilations), group)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (1,),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """MaxPool, values only."""
    axes = x.dim() - 2
    inside, before = padding(pads, auto_pad, axes)
    x = F.pad(x, before, value=float("-inf")) if before else x
    pool = MAX_POOLS[axes]
    return pool(
        x, tuple(kernel_shape), tuple(strides), inside, tuple(dilations), ceil_mode=bool(ceil_mode)
    )


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """AveragePool."""
    axes = x.dim() - 2
    inside, before = padding(pads, auto_pad, axes)
    pool = AVERAGE_POOLS[axes]
    steps = tuple(strides) if len(strides) == axes else tuple(strides) * axes
    options = (tuple(kernel_shape), steps, inside, bool(ceil_mode), bool(count_include_pad))
    if not before:
        return pool(x, *options)
    mean = pool(F.pad(x, before), *options)
    if count_include_pad:
        return mean
    return mean / pool(F.pad(torch.ones_like(x), before), *options)


def global_average_pool(x: Tensor) -> Tensor:
    """GlobalAveragePool over the spatial axes."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """GlobalMaxPool over the spatial axes."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def resize(
    x: Tensor,
    _region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resize of the spatial axes, in the modes that torch has."""
    if scales is not None and scales.numel():
        target = [int(n * s) for n, s in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    elif sizes is not None:
        target = [int(size) for size in sizes.tolist()[2:]]
    else:
        raise ModelError("got a Resize without scales and sizes, expected one of them")
    how = (mode, coordinate_transformation_mode)
    if how == ("nearest", "asymmetric") and nearest_mode == "floor":
        return F.interpolate(x, target, mode="nearest")
    smooth = {"linear": "bilinear", "cubic": "bicubic"}.get(mode)
    places = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
    aligned = places.get(coordinate_transformation_mode)
    if smooth is None or aligned is None or x.dim() != 4 or cubic_coeff_a != -0.75:
        raise ModelError(f"got a Resize with {how}, {nearest_mode}, expected a mode torch has")
    return F.interpolate(x, target, mode=smooth, align_corners=aligned)


CONVOLUTION: dict[str, Callable[..., Tensor]] = {
    "AveragePool": average_pool,
    "Conv": convolution,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "Resize": resize,
}
