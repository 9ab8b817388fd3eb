"""Normalisations of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def batch_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """BatchNormalization with stored statistics."""
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Tensor:
    """LayerNormalization over `axis` and all that follow."""
    return F.layer_norm(x, x.shape[axis % x.dim() :], scale, bias, epsilon)


def instance_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """InstanceNormalization: every channel of every image by its own statistics."""
    return F.group_norm(x, x.shape[1], scale, bias, epsilon)


def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> Tensor:
    """GroupNormalization with a scale and a bias for each channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """LRN across channels."""
    before, after = (size - 1) // 2, size // 2
    squares = F.pad((x * x).movedim(1, -1), [before, after]).unfold(-1, size, 1).sum(-1)
    denominator: Tensor = (bias + alpha / size * squares.movedim(-1, 1)) ** beta
    return x / denominator


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """LpNormalization; zeros stay zeros, as in ONNX Runtime."""
    length: Tensor = x.norm(p, axis, keepdim=True)
    return x / length.masked_fill(length == 0, 1)


NORMALIZATION: dict[str, Callable[..., Tensor]] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
}
