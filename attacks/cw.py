"""Carlini and Wagner's attack, https://arxiv.org/abs/1608.04644.

Shapes: b images, points like them; `place` (a,) are the images still being optimised.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.closest import Closest
from attacks.gradient import differentiate, look
from attacks.losses import margin
from attacks.parameters import Count
from attacks.search import rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel, per_image

EDGE = 0.01
"""How far the range of tanh reaches beyond [0, 1]: black and white have a finite place in it."""

FIRST_DECAY, SECOND_DECAY, FLOOR = 0.9, 0.999, 1e-8  # Adam's, https://arxiv.org/abs/1412.6980
CHECKS = 10  # times per search at which an image may be given up
NO_BOUND = 1e10


@describes("gradients", norms=("l2",), minimal=True)
def cw(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 1000,
    searches: Count = 9,
    rate: Annotated[float, Field(gt=0)] = 0.01,
    first_weight: Annotated[float, Field(gt=0)] = 0.001,
    kappa: Annotated[float, Field(ge=0)] = 0.0,
) -> Found:
    """Adam on |delta|^2 + c * max(kappa - margin, 0), in the space of tanh; c by binary search.

    The margin is the highest other logit minus the label's. A point is 1/2 + (1/2 + edge) tanh(w),
    cut by the pixel range: the edge, which the paper does not have, gives pixels at 0 and 1 a
    finite w and a slope, so they can move. The weight c of an image goes up tenfold until a point
    fools, then halves the interval between the last that did not and the last that did. An image
    whose objective has not fallen by 1e-4 of itself in a tenth of the steps waits for its next c.
    Costs at most `searches` times `steps` forward and backward passes, and `searches` + 1 forward
    passes.

    Args:
        steps: Gradient evaluations per weight; the paper's code has 10000.
        searches: Weights tried.
        rate: Adam's learning rate in the space of tanh.
        first_weight: Weight tried first.
        kappa: Margin, in logits, that a point must have to count.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    book = Closest(model, x, y, threat, rng)
    lower = torch.zeros_like(book.distance)
    upper, weight = torch.full_like(lower, NO_BOUND), torch.full_like(lower, first_weight)
    for _ in range(searches if len(book.x) else 0):
        found = _minimise(model, book, weight, steps, rate, kappa)
        upper = torch.where(found, torch.minimum(upper, weight), upper)
        lower = torch.where(found, lower, torch.maximum(lower, weight))
        weight = torch.where(upper < NO_BOUND, (lower + upper) / 2, weight * 10)
    return book.found


def _minimise(
    model: Model, book: Closest, weight: Tensor, steps: int, rate: float, kappa: float
) -> Tensor:
    """One search with weights (b,); returns for which images some point counted, (b,) bool."""
    found = torch.zeros_like(book.known)
    place = torch.arange(len(book.x), device=book.x.device)
    origin, label, stretch = book.x, book.y, 0.5 + EDGE
    start = torch.zeros_like(book.clean).scatter(1, label[:, None], kappa)
    # In float64, because the last bit of atanh may depend on how many images there are.
    inner = torch.atanh((origin.double() - 0.5) / stretch).to(origin)
    first, second = torch.zeros_like(inner), torch.zeros_like(inner)
    last = torch.full_like(weight, torch.inf)
    for step in range(1, steps + 1):
        slope = inner.tanh()
        points = (0.5 + stretch * slope).clamp(0, 1)
        logits, margins, gradient = differentiate(model, points, margin, label)
        # The label is given a start of kappa: who fools in spite of it has the margin.
        found[place] |= book.offer(points, logits + start, place)
        lacking = kappa - margins
        delta = points - origin
        push = per_image(torch.where(lacking > 0, weight, 0), delta) * gradient
        gradient = (2 * delta - push) * stretch * (1 - slope.square())
        first = FIRST_DECAY * first + (1 - FIRST_DECAY) * gradient
        second = SECOND_DECAY * second + (1 - SECOND_DECAY) * gradient.square()
        mean = first / (1 - FIRST_DECAY**step)
        size = (second / (1 - SECOND_DECAY**step)).sqrt()
        inner = inner - rate * mean / (size + FLOOR)
        if step % max(steps // CHECKS, 1) == 0:
            value = delta.flatten(1).square().sum(1) + weight * lacking.clamp(min=0)
            kept = rows(
                value < 0.9999 * last,
                *(place, origin, label, start, inner, first, second, value, weight),
            )
            place, origin, label, start, inner, first, second, last, weight = kept
            if len(place) == 0:
                return found
    points = (0.5 + stretch * inner.tanh()).clamp(0, 1)
    logits, _ = look(model, points, margin, label)
    found[place] |= book.offer(points, logits + start, place)
    return found
