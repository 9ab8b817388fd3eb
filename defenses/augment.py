"""Random crops and mirror images, drawn per image.

Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "shift", "shift-flip"]


def shift(x: Tensor, rng: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its size (at least 1 pixel), black filling the gap."""
    height, width = x.shape[-2:]
    down, right = max(1, height // 8), max(1, width // 8)
    rows = _origins(len(x), down, rng).to(x.device) + torch.arange(height, device=x.device)
    columns = _origins(len(x), right, rng).to(x.device) + torch.arange(width, device=x.device)
    padded = F.pad(x, (right, right, down, down))
    images = torch.arange(len(x), device=x.device)
    # Indices broadcast to (B, H, W) and land before the channels.
    moved = padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def flip(x: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(x), generator=rng, device=rng.device).to(x.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)


AUGMENTATIONS: dict[Augmentation, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, _: x,
    "shift": shift,
    "shift-flip": lambda x, rng: flip(shift(x, rng), rng),
}


def _origins(images: int, most: int, rng: torch.Generator) -> Tensor:
    return torch.randint(2 * most + 1, (images, 1), generator=rng, device=rng.device)
