"""Pooling of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hardening.deployment.operators.padding import explicit, inside, pad_before, window
from hardening.errors import ModelError

MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


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
    kernel = window(kernel_shape, strides, dilations)
    sizes = explicit(pads, auto_pad, x.shape[2:], kernel)
    padding = inside(sizes, [size // 2 for size in kernel.sizes])
    if padding is None:
        x, padding = pad_before(x, sizes, float("-inf")), (0,) * len(kernel.sizes)
    pool = MAX_POOLS[len(kernel.sizes)]
    return pool(
        x, kernel.sizes, kernel.strides, padding, kernel.dilations, ceil_mode=bool(ceil_mode)
    )


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] = (1,),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """AveragePool without dilation."""
    if any(dilation != 1 for dilation in dilations):
        raise ModelError(f"got an AveragePool with dilations {list(dilations)}, expected 1")
    kernel = window(kernel_shape, strides, dilations)
    sizes = explicit(pads, auto_pad, x.shape[2:], kernel)
    padding = inside(sizes, [size // 2 for size in kernel.sizes])
    pool, ceil = AVERAGE_POOLS[len(kernel.sizes)], bool(ceil_mode)
    if padding is not None:
        return pool(x, kernel.sizes, kernel.strides, padding, ceil, bool(count_include_pad))
    mean = pool(pad_before(x, sizes), kernel.sizes, kernel.strides, 0, ceil)
    if count_include_pad:
        return mean
    share = pool(pad_before(torch.ones_like(x), sizes), kernel.sizes, kernel.strides, 0, ceil)
    return mean / share


def global_average_pool(x: Tensor) -> Tensor:
    """GlobalAveragePool over the spatial axes."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """GlobalMaxPool over the spatial axes."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


POOLING: dict[str, Callable[..., Tensor]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
}
