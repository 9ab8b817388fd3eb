"""Pre-activation ResNet-18 for 32x32 images, He et al. 2016, https://arxiv.org/abs/1603.05027."""

from typing import Annotated

from pydantic import Field
from torch import nn

from hardening.models.preactivation import PreactivationNetwork


def preact_resnet18(
    shape: tuple[int, int, int],
    classes: int,
    /,
    *,
    width: Annotated[int, Field(ge=1)] = 64,
) -> nn.Module:
    """Four stages of two blocks: the workhorse of the adversarial training literature.

    Args:
        width: Channels of the first stage; each later stage has twice the one before.
    """
    widths = (width, 2 * width, 4 * width, 8 * width)
    return PreactivationNetwork(shape[0], classes, stem=width, widths=widths, blocks=2)
