"""Projected gradient descent, https://arxiv.org/abs/1706.06083."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import LOSSES, Loss
from attacks.parameters import Count
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.balls import inward
from hardening.threat import Model, Norm, ThreatModel

TRAVEL: dict[Norm, float] = {"linf": 2.5, "l2": 2.5, "l1": 10.0}
"""Length of the steps together in units of eps; L1 steps take back much of what the last ones did.
"""


@describes("gradients", norms=("linf", "l2", "l1"))
def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 40,
    relative_step: Annotated[float | None, Field(gt=0)] = None,
    restarts: Count = 1,
    loss: Loss = "ce",
) -> Found:
    """Steps of constant size from random starts; the first point that fools is kept, (B, ...).

    An image that no point fools gets its point of highest loss. Costs `steps` forward and backward
    passes and one forward pass a restart, for the images that still stand.

    Args:
        steps: Gradient evaluations per restart.
        relative_step: Step size as a fraction of eps; when not given 2.5 / steps, in L1 10 / steps.
        restarts: Independent random starts.
        loss: What the steps raise.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    objective = LOSSES[loss]
    step = threat.eps * (TRAVEL[threat.norm] / steps if relative_step is None else relative_step)
    search = Search(model, x, y, objective, rng)
    for _ in range(restarts):
        points = search.sample(threat)
        for _ in range(steps):
            if search.done:
                return search.found
            logits, losses, gradient = differentiate(model, points, objective, search.y)
            stands = search.settle(points, logits)
            points, losses, gradient = rows(stands, points, losses, gradient)
            search.offer(points, losses)
            stride = step * threat.ascend(inward(points, gradient))
            points = threat.project(search.x, points + stride)
        if search.done:
            return search.found
        logits, losses = look(model, points, objective, search.y)
        search.offer(*rows(search.settle(points, logits), points, losses))
    return search.found
