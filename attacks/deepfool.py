"""DeepFool, https://arxiv.org/abs/1511.04599.

Shapes: b images still standing, m classes beside the label.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.closest import Closest
from attacks.gradient import look
from attacks.jacobian import gaps
from attacks.losses import margin, rivals
from attacks.parameters import Count
from attacks.search import rows
from hardening.attack import Found, describes
from hardening.balls import BALLS, Norm
from hardening.threat import Model, ThreatModel, per_image


@describes("gradients", norms=("l2", "linf"), minimal=True)
def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 50,
    classes: Count = 10,
    overshoot: Annotated[float, Field(ge=0)] = 0.02,
) -> Found:
    """Steps onto the nearest border of the linear approximation, until the label flips.

    For the gap f (a logit minus the label's) with the smallest |f| / |gradient|_dual, the smallest
    move that closes it is added to the perturbation: |f| gradient / |gradient|_2^2 in L2,
    |f| sign(gradient) / |gradient|_1 in Linf. The point looked at is the image plus
    (1 + overshoot) times the perturbation, cut by the pixel range; |f| counts as at least
    `overshoot` of what it was at the image, or moves that the range cuts would never end. An image
    leaves at its first success, or when no class has a gradient. Costs `steps` forward and `steps`
    times min(classes, K - 1) backward passes, and two forward passes.

    Args:
        steps: Linear approximations per image.
        classes: Classes to look at beside the label, highest clean logit first.
        overshoot: Share by which to go beyond the border.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    book = Closest(model, x, y, threat, rng)
    place = torch.arange(len(book.x), device=x.device)
    origin, label, points = book.x, book.y, book.x
    others, delta = rivals(book.clean, book.y)[:, :classes], torch.zeros_like(book.x)
    clean = book.clean.gather(1, others) - book.clean.gather(1, label[:, None])
    rounding = book.clean.abs().amax(1, keepdim=True) * torch.finfo(clean.dtype).eps
    least = torch.maximum(overshoot * clean.abs(), rounding)
    for _ in range(steps):
        if len(place) == 0:
            return book.found
        logits, values, gradients = gaps(model, points, label, others)
        moves, blind = _moves(torch.maximum(values.abs(), least), gradients, threat.norm)
        going = ~(book.offer(points, logits, place) | blind)
        kept = rows(going, place, origin, label, others, least, delta, moves)
        place, origin, label, others, least, delta, moves = kept
        delta = (origin + delta + moves).clamp(0, 1) - origin
        points = (origin + (1 + overshoot) * delta).clamp(0, 1)
    if len(place):
        logits, _ = look(model, points, margin, label)
        book.offer(points, logits, place)
    return book.found


def _moves(values: Tensor, gradients: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The smallest move, (b, ...), that closes one of the gaps; and who has no gradient, (b,).

    Args:
        values: (b, m) sizes of the gaps.
        gradients: (b, m, ...) theirs.
        norm: What the smallest is measured in.
    """
    # Relative to the largest number, or the squares of tiny gradients would underflow.
    peak = gradients.flatten(1).abs().amax(1).clamp(min=torch.finfo(values.dtype).tiny)
    values, gradients = values / peak[:, None], gradients / per_image(peak, gradients)
    dual, direction = BORDERS[norm]
    sizes = torch.linalg.vector_norm(gradients.flatten(2), ord=dual, dim=2)
    distance, nearest = torch.where(sizes > 0, values / sizes, torch.inf).min(1)
    blind = distance.isinf()
    row = torch.arange(len(values), device=values.device)
    towards = direction(gradients[row, nearest])
    return per_image(distance.where(~blind, 0), towards) * towards, blind


BORDERS: dict[Norm, tuple[float, Callable[[Tensor], Tensor]]] = {
    "l2": (2, BALLS["l2"].ascend),
    "linf": (1, BALLS["linf"].ascend),
}
"""The order of the dual norm, and the unit step of steepest ascent."""
