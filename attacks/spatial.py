"""Rotations and translations, https://arxiv.org/abs/1712.02779.

Shapes: B images (B, C, H, W) in [0, 1], b of them; a motion is (degrees, down, across) with shifts
as shares of the image's height and width.
"""

from itertools import product
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attacks.parameters import Count, Share
from attacks.search import streams
from attacks.survey import check_images, classified
from hardening.attack import describes
from hardening.threat import Model, per_image

Motion = tuple[float, float, float]


@describes("labels", norms=())
@torch.no_grad()
def spatial(
    model: Model,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    /,
    *,
    degrees: Annotated[float, Field(gt=0, le=180)] = 30.0,
    shift: Share = 0.1,
    rotations: Count = 15,
    shifts: Count = 2,
    draws: Count = 10,
) -> dict[str, Tensor]:
    """Whether each image withstands being turned and moved; what leaves the frame turns black.

    Conditions: `rotation` and `translation` are the worst of the grid along one of the two,
    `worst of grid` that of both together, `worst of 10` the worst of as many random motions.
    Pixels are interpolated bilinearly. The default grid is the paper's, 31 rotations by 5 x 5
    translations. Costs at most (2 rotations + 1)(2 shifts + 1)^2 + draws forward passes for the
    images that still stand; large motions, which fool most, come first.

    Args:
        degrees: Largest rotation, to either side.
        shift: Largest translation as a share of the height and of the width.
        rotations: Angles tried to either side, beside none.
        shifts: Translations tried to either side of each axis, beside none.
        draws: Random motions.

    Raises:
        ValueError: The images are not (B, C, H, W).
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    check_images("spatial", x)
    x = x.detach()
    angles, moves = _scale(degrees, rotations), _scale(shift, shifts)
    grid = [motion for motion in product(angles, moves, moves) if any(motion)]
    grid.sort(key=lambda motion: _size(motion, degrees, shift), reverse=True)
    turned = [motion for motion in grid if not any(motion[1:])]
    moved = [motion for motion in grid if motion[0] == 0]
    both = [motion for motion in grid if motion[0] != 0 and any(motion[1:])]

    right = classified(model, x, y)
    rotation = _withstood(model, x, y, right, _for_all(turned, x))
    translation = _withstood(model, x, y, right, _for_all(moved, x))
    random = _random(len(x), rng, draws) * torch.tensor([degrees, shift, shift])
    return {
        "rotation": rotation,
        "translation": translation,
        f"worst of {draws}": _withstood(model, x, y, right, random.to(x)),
        "worst of grid": _withstood(model, x, y, rotation & translation, _for_all(both, x)),
    }


def transformed(x: Tensor, motions: Tensor) -> Tensor:
    """Each image (b, C, H, W) turned about its centre, then shifted, by its row of motions (b, 3).

    Positive is anticlockwise, down and right. An image that is not moved keeps its bits.
    """
    height, width = x.shape[2:]
    angle, down, across = motions.unbind(1)
    cosine, sine = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    # The grid's unit is half a side: rotations must be round where height and width differ.
    tall = height / width
    across, down = 2 * across, 2 * down
    rows = [
        cosine, -sine * tall, -(cosine * across - sine * tall * down),
        sine / tall, cosine, -(sine / tall * across + cosine * down),
    ]  # fmt: skip
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    points = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)
    return torch.where(per_image((motions == 0).all(1), x), x, points)


def _withstood(model: Model, x: Tensor, y: Tensor, right: Tensor, motions: Tensor) -> Tensor:
    """Which of the images that are `right` (B,) stand under all motions (n, B, 3), (B,) of bool."""
    standing = right.clone()
    for motion in motions:
        index = standing.nonzero()[:, 0]
        if len(index) == 0:
            break
        points = transformed(x[index], motion[index])
        standing[index] = classified(model, points, y[index])
    return standing


def _scale(most: float, count: int) -> list[float]:
    """`count` steps to either side of zero, which is exact."""
    return [most * step / count for step in range(-count, count + 1)]


def _size(motion: Motion, degrees: float, shift: float) -> float:
    return abs(motion[0]) / degrees + (abs(motion[1]) + abs(motion[2])) / shift


def _for_all(motions: list[Motion], x: Tensor) -> Tensor:
    """The same motions for every image, (n, B, 3)."""
    return torch.tensor(motions).to(x)[:, None].expand(-1, len(x), 3)


def _random(count: int, rng: torch.Generator, draws: int) -> Tensor:
    """Uniform numbers in [-1, 1) from a stream for each image, (draws, B, 3)."""
    numbers = torch.empty(count, draws, 3)
    for row, stream in zip(numbers, streams(count, rng), strict=True):
        torch.rand(row.shape, generator=stream, out=row)
    return 2 * numbers.transpose(0, 1) - 1
