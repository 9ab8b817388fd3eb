"""Wide residual network, Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146."""

from typing import Annotated

from pydantic import AfterValidator, Field
from torch import nn

from hardening.models.preactivation import PreactivationNetwork


def _three_stages(depth: int) -> int:
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"got {depth}, expected 6 n + 4: 10, 16, 22, 28, 34, ...")
    return depth


def wide_resnet(
    shape: tuple[int, int, int],
    classes: int,
    /,
    *,
    depth: Annotated[int, AfterValidator(_three_stages)] = 28,
    width: Annotated[int, Field(ge=1)] = 10,
) -> nn.Module:
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 channels times the width.

    Args:
        depth: Convolutions on the main path, 6 n + 4.
        width: Factor on the channels of every stage; cost grows with its square.
    """
    widths = (16 * width, 32 * width, 64 * width)
    blocks = (depth - 4) // 6
    return PreactivationNetwork(shape[0], classes, stem=16, widths=widths, blocks=blocks)
