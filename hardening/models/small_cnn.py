"""A small convolutional network for small images: digits in seconds, MNIST in minutes on a CPU.

Shapes: B images, C channels, H x W pixels (8x8 to 32x32 and a little beyond), K classes.
"""

from typing import Annotated

from pydantic import Field
from torch import nn

HIDDEN = 128
"""Units of the fully connected layer."""


def small_cnn(
    shape: tuple[int, int, int],
    classes: int,
    /,
    *,
    width: Annotated[int, Field(ge=1)] = 32,
) -> nn.Module:
    """Three convolutions with batch normalisation, then two fully connected layers.

    Args:
        width: Channels of the first convolution; the later ones have twice as many.
    """
    channels, height, breadth = shape
    # Images of 16 pixels and more are halved at once: at full size a convolution on a CPU costs
    # four times as much and robustness gains nothing from it.
    strides = (2, 2, 1) if min(height, breadth) >= 16 else (1, 2, 1)
    layers: list[nn.Module] = []
    for stride, out in zip(strides, (width, 2 * width, 2 * width), strict=True):
        layers += [
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
        channels, height, breadth = out, -(-height // stride), -(-breadth // stride)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * height * breadth, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )
