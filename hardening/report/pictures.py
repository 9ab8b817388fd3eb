"""Images of the gallery as data URIs. Shapes: C channels, H x W pixels, values in [0, 1]."""

from base64 import b64encode
from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from hardening.evidence import Example

SHOWN_WIDTH = 112
"""Pixels of the screen that a picture is enlarged to, about; factors are whole numbers."""

LARGEST_WIDTH = 160
"""Pixels of the screen that a larger picture is shrunk to."""


class Picture(NamedTuple):
    """One example with its two images (C, H, W) in [0, 1]."""

    example: Example
    clean: Tensor
    adversarial: Tensor


def data_uri(image: Tensor) -> str:
    """`image` (C, H, W) as a PNG; other than 1 or 3 channels are shown as their mean, in grey."""
    pixels = image.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    if len(pixels) == 3:
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    else:
        picture = Image.fromarray(pixels.float().mean(0).round().to(torch.uint8).numpy())
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def amplification(pictures: Iterable[Picture]) -> int:
    """The largest whole factor at which no difference of `pictures` leaves the range of grey."""
    largest = max((float((p.adversarial - p.clean).abs().max()) for p in pictures), default=0.0)
    # A hair more than exact: 0.5 / 0.1 in float32 must not become 4.
    return max(1, int(0.5 / largest + 1e-3)) if largest > 0 else 1


def difference(picture: Picture, factor: int) -> Tensor:
    """What the attack added, times `factor`, around middle grey; (C, H, W) in [0, 1]."""
    return ((picture.adversarial - picture.clean) * factor + 0.5).clamp(0, 1)


def shown_width(width: int) -> int:
    """Pixels of the screen for an image of `width` pixels: a whole multiple when enlarged."""
    return width * max(1, round(SHOWN_WIDTH / width)) if width <= LARGEST_WIDTH else LARGEST_WIDTH
