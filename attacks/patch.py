"""Adversarial patches, https://arxiv.org/abs/1712.09665, one for each image.

Shapes: B images (B, C, H, W) in [0, 1], b of them still standing; masks (b, 1, H, W).
"""

from math import sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import LOSSES, Loss
from attacks.parameters import Count, Share
from attacks.search import Search, rows
from attacks.survey import check_images
from hardening.attack import describes
from hardening.threat import Model


@describes("gradients", norms=())
def patch(
    model: Model,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    /,
    *,
    area: Share = 0.05,
    places: Count = 8,
    steps: Count = 20,
    relative_step: Annotated[float | None, Field(gt=0)] = None,
    loss: Loss = "margin",
) -> dict[str, Tensor]:
    """Whether each image withstands a square of free pixels at random places; `patch 5%`.

    At each place the square starts from random colours and is changed by steps of constant size
    against the sign of the gradient, x <- clamp(x + step * sign(gradient)), inside the square
    alone. The paper's patch must work on any image and anywhere; this one is made for its image and
    place, which is stronger. An image falls at the first place and step that fool the model. Costs
    `steps` forward and backward passes and one forward pass a place, for images that still stand.

    Args:
        area: Share of the image's pixels that the square covers.
        places: Different places tried, all when there are no more; they matter more than steps.
        steps: Gradient evaluations per place.
        relative_step: Step size as a share of the pixel range; 2.5 / steps when not given.
        loss: What the steps raise.

    Raises:
        ValueError: The images are not (B, C, H, W).
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    check_images("patch", x)
    x = x.detach()
    step = 2.5 / steps if relative_step is None else relative_step
    objective = LOSSES[loss]
    side = min(max(round(sqrt(area * x.shape[2] * x.shape[3])), 1), *x.shape[2:])
    condition = f"patch {100 * area:g}%"
    search = Search(model, x, y, objective, rng)
    order = _places(search, side, places)
    for place in range(order.shape[1]):
        mask = _mask(order[:, place], side, search.x)
        colours = search.uniform(x.shape[1:].numel()).view_as(search.x).to(x)
        points = torch.where(mask, colours, search.x)
        for _ in range(steps):
            if search.done:
                return {condition: search.found.step < 0}
            logits, _, gradient = differentiate(model, points, objective, search.y)
            standing = search.settle(points, logits)
            points, gradient, mask, order = rows(standing, points, gradient, mask, order)
            points = torch.where(mask, (points + step * gradient.sign()).clamp(0, 1), points)
        logits, _ = look(model, points, objective, search.y)
        (order,) = rows(search.settle(points, logits), order)
    return {condition: search.found.step < 0}


def _places(search: Search, side: int, count: int) -> Tensor:
    """Different places for each standing image in random order, (b, at most count)."""
    height, width = search.x.shape[2:]
    free = (height - side + 1) * (width - side + 1)
    return search.uniform(free).topk(min(count, free), dim=1).indices


def _mask(place: Tensor, side: int, x: Tensor) -> Tensor:
    """Where the square lies; places (b,) are counted row by row."""
    height, width = x.shape[2:]
    top, left = place[:, None] // (width - side + 1), place[:, None] % (width - side + 1)
    lines, columns = (torch.arange(n, device=x.device) for n in (height, width))
    down = (lines >= top) & (lines < top + side)
    across = (columns >= left) & (columns < left + side)
    return (down[:, :, None] & across[:, None, :])[:, None]
