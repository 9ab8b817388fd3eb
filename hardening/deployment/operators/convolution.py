"""Convolutions of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from hardening.deployment.operators.padding import explicit, inside, pad_before, window
from hardening.errors import ModelError

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    kernel = window(weight.shape[2:], strides, dilations)
    sizes = explicit(pads, auto_pad, x.shape[2:], kernel)
    padding = inside(sizes, sizes[: len(kernel.sizes)])
    if padding is None:
        x, padding = pad_before(x, sizes), (0,) * len(kernel.sizes)
    convolve = CONVOLUTIONS[len(kernel.sizes)]
    return convolve(x, weight, bias, kernel.strides, padding, kernel.dilations, group)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (1,),
    group: int = 1,
    output_padding: Sequence[int] = (0,),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """ConvTranspose with explicit pads, which crop."""
    if auto_pad not in {"NOTSET", "VALID"}:
        raise ModelError(f"got a ConvTranspose with auto_pad {auto_pad}, expected explicit pads")
    kernel = window(weight.shape[2:], strides, dilations)
    axes = len(kernel.sizes)
    sizes, grown = list(pads) or [0] * (2 * axes), [*output_padding] * (axes // len(output_padding))
    convolve = TRANSPOSED[axes]
    # torch's own output padding must be smaller than a stride; ours need not be.
    x = pad_before(
        convolve(x, weight, None, kernel.strides, 0, 0, group, kernel.dilations), [0] * axes + grown
    )
    for axis in range(axes):
        kept = x.shape[axis + 2] - sizes[axis] - sizes[axes + axis]
        x = x.narrow(axis + 2, sizes[axis], kept)
    return x if bias is None else x + bias.view(-1, *[1] * axes)


CONVOLUTION: dict[str, Callable[..., Tensor]] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
}
