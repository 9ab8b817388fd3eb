"""What operators meant in earlier ONNX operator sets, from 9 on, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardening.deployment.operators.indexing import cut, pad
from hardening.deployment.operators.indexing import split as split_by_sizes
from hardening.deployment.operators.normalization import group_normalization
from hardening.deployment.operators.resizing import resize
from hardening.deployment.operators.shape import squeeze, unsqueeze

Operator = Callable[..., Any]


def _flattened(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Softmax and LogSoftmax over all axes from `axis` on, as one."""

    def operator(x: Tensor, *, axis: int = 1) -> Tensor:
        rows = x.reshape(math.prod(x.shape[: axis % x.dim()]), -1)
        return function(rows, 1).reshape(x.shape)

    return operator


def clip(x: Tensor, *, min: float = -math.inf, max: float = math.inf) -> Tensor:
    """Clip between attributes."""
    return x.clamp(min, max)


def dropout(x: Tensor, *, ratio: float = 0.5) -> Tensor:  # noqa: ARG001
    """Dropout at inference: nothing."""
    return x


def group_normalization_by_group(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """GroupNormalization with a scale and a bias for each group."""
    width = x.shape[1] // num_groups
    scale, bias = scale.repeat_interleave(width), bias.repeat_interleave(width)
    return group_normalization(x, scale, bias, num_groups=num_groups, epsilon=epsilon)


def pad_by(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Pad by attributes."""
    return pad(x, torch.tensor(pads), torch.tensor(value), mode=mode)


def slice_by(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] = ()
) -> Tensor:
    """Slice by attributes."""
    return cut(x, torch.tensor(starts), torch.tensor(ends), torch.tensor(axes) if axes else None)


def split_by(
    x: Tensor,
    *,
    axis: int = 0,
    split: Sequence[int] = (),
    num_outputs: int = 0,
) -> tuple[Tensor, ...]:
    """Split by an attribute, or into equal parts."""
    sizes = torch.tensor(split) if split else None
    return split_by_sizes(x, sizes, axis=axis, num_outputs=num_outputs)


def squeeze_by(x: Tensor, *, axes: Sequence[int] = ()) -> Tensor:
    """Squeeze by an attribute."""
    return squeeze(x, torch.tensor(axes) if axes else None)


def unsqueeze_by(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Unsqueeze by an attribute."""
    return unsqueeze(x, torch.tensor(axes))


def resize_by_scales(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """Upsample, and Resize before opset 11: positions count from the corner."""
    return resize(
        x,
        scales=scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


OLDER: dict[str, tuple[int, Operator]] = {
    "Clip": (11, clip),
    "Dropout": (12, dropout),
    "GroupNormalization": (21, group_normalization_by_group),
    "LogSoftmax": (13, _flattened(torch.log_softmax)),
    "Pad": (11, pad_by),
    "Resize": (11, resize_by_scales),
    "Slice": (10, slice_by),
    "Softmax": (13, _flattened(torch.softmax)),
    "Split": (13, split_by),
    "Squeeze": (13, squeeze_by),
    "Unsqueeze": (13, unsqueeze_by),
    "Upsample": (10, resize_by_scales),
}
"""The opset since which an operator means what the main table says, and what it meant before."""
